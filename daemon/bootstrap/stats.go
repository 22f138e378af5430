package bootstrap

import (
	"regexp"
	"strings"

	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/config/metrics/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Names of the clusters and listeners that Consul configures, as they begin the
// names of Envoy's metrics. A capital word stands for one segment; the outer
// group is what is cut out of the name, and what a tag takes out of it is the
// word that the tag names, or else the inner group.
const (
	clusterName = `^cluster\.(?:passthrough~)?` +
		`((?:HASH~)?(?:SUBSET\.)?SERVICE\.NAMESPACE\.(?:PARTITION\.)?DATACENTER\.ROUTING\.DOMAIN\.consul\.)`
	internalClusterName = `^cluster\.(?:passthrough~)?` +
		`((?:HASH~)?(?:SUBSET\.)?SERVICE\.NAMESPACE\.(?:PARTITION\.)?DATACENTER\.internal[^.]*\.DOMAIN\.consul\.)`
	peeredClusterName = `^cluster\.(SERVICE\.(?:NAMESPACE\.)?PEER\.external\.DOMAIN\.consul\.)`
	clusterTarget     = `^cluster\.(?:passthrough~)?` +
		`(((?:HASH~)?(?:SUBSET\.)?SERVICE\.NAMESPACE\.(?:PARTITION\.)?DATACENTER)\.ROUTING\.DOMAIN\.consul\.)`
	clusterFullTarget = `^cluster\.(?:passthrough~)?` +
		`(((?:HASH~)?(?:SUBSET\.)?SERVICE\.NAMESPACE\.(?:PARTITION\.)?DATACENTER\.ROUTING\.DOMAIN)\.consul\.)`

	anyListenerName    = `^(?:tcp|http)\.upstream(?:_peered)?\.(SERVICE(?:\.NAMESPACE)?(?:\.PARTITION)?\.DATACENTER\.)`
	listenerName       = `^(?:tcp|http)\.upstream\.(SERVICE(?:\.NAMESPACE)?(?:\.PARTITION)?\.DATACENTER\.)`
	peeredListenerName = `^(?:tcp|http)\.upstream_peered\.(SERVICE(?:\.NAMESPACE)?\.PEER\.)`
)

// segmentTags are the tags that Consul's own bootstrap takes out of the names of
// metrics: the dashboards that people have are made for them.
var segmentTags = []struct{ tag, name, word string }{
	{"consul.destination.custom_hash", clusterName, "HASH"},
	{"consul.destination.service_subset", clusterName, "SUBSET"},
	{"consul.destination.service", clusterName, "SERVICE"},
	{"consul.destination.namespace", clusterName, "NAMESPACE"},
	{"consul.destination.partition", internalClusterName, "PARTITION"},
	{"consul.destination.datacenter", internalClusterName, "DATACENTER"},
	{"consul.destination.peer", peeredClusterName, "PEER"},
	{"consul.destination.routing_type", clusterName, "ROUTING"},
	{"consul.destination.trust_domain", clusterName, "DOMAIN"},
	{"consul.destination.target", clusterTarget, ""},
	{"consul.destination.full_target", clusterFullTarget, ""},
	{"consul.upstream.service", anyListenerName, "SERVICE"},
	{"consul.upstream.datacenter", listenerName, "DATACENTER"},
	{"consul.upstream.peer", peeredListenerName, "PEER"},
	{"consul.upstream.namespace", anyListenerName, "NAMESPACE"},
	{"consul.upstream.partition", listenerName, "PARTITION"},
}

var words = regexp.MustCompile(`[A-Z]+`)

// tagRegex writes a name as a regular expression that captures one word.
func tagRegex(name, word string) string {
	return words.ReplaceAllStringFunc(name, func(w string) string {
		if w == word {
			return `([^.]+)`
		}
		return `[^.]+`
	})
}

// statsConfig tags Envoy's metrics as Consul's own bootstrap does: fixed tags of
// the central configuration first, which take the place of those of ours.
func (b *builder) statsConfig() *metricsv3.StatsConfig {
	c := &metricsv3.StatsConfig{UseAllDefaultTags: wrapperspb.Bool(true)}
	own := map[string]bool{}
	for _, t := range b.knobs.statsTags {
		tag, value, ok := strings.Cut(t, "=")
		if !ok {
			value = "1"
		}
		tag = strings.ToLower(tag)
		own[tag] = true
		c.StatsTags = append(c.StatsTags, fixedTag(tag, value))
	}
	for _, t := range segmentTags {
		c.StatsTags = append(c.StatsTags, &metricsv3.TagSpecifier{
			TagName:  t.tag,
			TagValue: &metricsv3.TagSpecifier_Regex{Regex: tagRegex(t.name, t.word)},
		})
	}
	for _, t := range []struct{ tag, value string }{
		{"local_cluster", b.cluster},
		{"consul.source.service", b.source},
		{"consul.source.namespace", b.Namespace},
		{"consul.source.partition", b.Partition},
		{"consul.source.datacenter", b.Central.Datacenter},
	} {
		if t.value != "" && !own[t.tag] {
			c.StatsTags = append(c.StatsTags, fixedTag(t.tag, t.value))
		}
	}
	return c
}

func fixedTag(tag, value string) *metricsv3.TagSpecifier {
	return &metricsv3.TagSpecifier{TagName: tag, TagValue: &metricsv3.TagSpecifier_FixedValue{FixedValue: value}}
}
