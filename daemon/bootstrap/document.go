package bootstrap

import (
	"bytes"
	"encoding/json"
	"fmt"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
)

// document is a bootstrap of which some parts come as JSON: they may hold
// extensions of Envoy's that this program does not know, which a message made of
// Envoy's types could not.
type document struct {
	Node               json.RawMessage   `json:"node"`
	StaticResources    staticResources   `json:"static_resources"`
	DynamicResources   json.RawMessage   `json:"dynamic_resources"`
	StatsSinks         []json.RawMessage `json:"stats_sinks,omitempty"`
	StatsFlushInterval string            `json:"stats_flush_interval,omitempty"`
	Tracing            json.RawMessage   `json:"tracing,omitempty"`
	Admin              adminSection      `json:"admin"`
	StatsConfig        json.RawMessage   `json:"stats_config"`
	LayeredRuntime     json.RawMessage   `json:"layered_runtime"`
}

type staticResources struct {
	Listeners []json.RawMessage `json:"listeners,omitempty"`
	Clusters  []json.RawMessage `json:"clusters"`
	Secrets   []json.RawMessage `json:"secrets,omitempty"`
}

type adminSection struct {
	AccessLog []json.RawMessage `json:"access_log"`
	Address   json.RawMessage   `json:"address"`
}

// document puts the parts together.
func (b *builder) document() (*document, error) {
	metadata, err := b.metadata()
	if err != nil {
		return nil, err
	}
	xds, err := b.xdsCluster()
	if err != nil {
		return nil, err
	}
	d := new(document)
	clusters := b.ownClusters(xds)
	listeners, err := b.ownListeners()
	if err != nil {
		return nil, err
	}
	if err := b.checkNames(clusters, listeners); err != nil {
		return nil, err
	}
	var p parts
	d.Node = p.of(b.node(metadata))
	d.StaticResources.Clusters = append(append(d.StaticResources.Clusters, p.of(xds)), b.knobs.clusters.raw...)
	for _, c := range clusters[1:] {
		d.StaticResources.Clusters = append(d.StaticResources.Clusters, p.of(c))
	}
	d.StaticResources.Listeners = append(d.StaticResources.Listeners, b.knobs.listeners.raw...)
	for _, l := range listeners {
		d.StaticResources.Listeners = append(d.StaticResources.Listeners, p.of(l))
	}
	for _, s := range b.prometheusSecrets() {
		d.StaticResources.Secrets = append(d.StaticResources.Secrets, p.of(s))
	}
	d.DynamicResources = p.of(dynamicResources())
	if d.StatsSinks, err = b.statsSinks(&p); err != nil {
		return nil, err
	}
	d.StatsFlushInterval, d.Tracing = b.knobs.flushInterval, b.knobs.tracing
	d.Admin.Address = p.of(socketAddress(b.admin))
	if d.Admin.AccessLog, err = b.accessLog(&p); err != nil {
		return nil, err
	}
	if d.StatsConfig = b.knobs.statsConfig; d.StatsConfig == nil {
		d.StatsConfig = p.of(b.statsConfig())
	}
	d.LayeredRuntime = p.of(layeredRuntime())
	if p.err != nil {
		return nil, fmt.Errorf("bootstrap of proxy %q: %w", b.ProxyID, p.err)
	}
	return d, nil
}

// checkNames refuses clusters and listeners of the central configuration whose
// names are taken: Envoy would not start.
func (b *builder) checkNames(clusters []*clusterv3.Cluster, listeners []*listenerv3.Listener) error {
	taken := map[string]bool{}
	for _, c := range clusters {
		taken[c.GetName()] = true
	}
	if err := b.knobs.clusters.conflict(b.ProxyID, taken); err != nil {
		return err
	}
	taken = map[string]bool{}
	for _, l := range listeners {
		taken[l.GetName()] = true
	}
	return b.knobs.listeners.conflict(b.ProxyID, taken)
}

// layeredRuntime lets through what Consul sends: its route regexes are bigger
// programs than Envoy's limit allows.
func layeredRuntime() *bootstrapv3.LayeredRuntime {
	return &bootstrapv3.LayeredRuntime{Layers: []*bootstrapv3.RuntimeLayer{{
		Name: "base",
		LayerSpecifier: &bootstrapv3.RuntimeLayer_StaticLayer{StaticLayer: &structpb.Struct{
			Fields: map[string]*structpb.Value{
				// The value of Consul's own bootstrap.
				"re2.max_program_size.error_level": structpb.NewNumberValue(1 << 20),
			},
		}},
	}}}
}

// parts makes JSON of messages, and keeps the first error.
type parts struct{ err error }

// of is the JSON of a message, by the names of its fields; its rules are checked.
func (p *parts) of(m validator) json.RawMessage {
	if p.err != nil {
		return nil
	}
	name := m.ProtoReflect().Descriptor().FullName()
	if err := m.ValidateAll(); err != nil {
		p.err = fmt.Errorf("validate %s: %w", name, err)
		return nil
	}
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		p.err = fmt.Errorf("marshal %s: %w", name, err)
	}
	return raw
}

// indent writes JSON that is the same for the same document: protojson alone
// varies its white space on purpose.
func indent(d any) ([]byte, error) {
	var flat, out bytes.Buffer
	e := json.NewEncoder(&flat)
	e.SetEscapeHTML(false) // it is not HTML, and a regex in it is to be read
	if err := e.Encode(d); err != nil {
		return nil, fmt.Errorf("marshal bootstrap: %w", err)
	}
	if err := json.Indent(&out, bytes.TrimSpace(flat.Bytes()), "", "  "); err != nil {
		return nil, fmt.Errorf("indent bootstrap: %w", err)
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

// validator is what every Envoy message has.
type validator interface {
	proto.Message
	ValidateAll() error
}

func newBootstrap() *bootstrapv3.Bootstrap { return new(bootstrapv3.Bootstrap) }

// pack wraps a message for one of Envoy's extension points. The rules of the
// message itself are checked here, for the bootstrap's do not look inside.
func pack(m validator) (*anypb.Any, error) {
	if err := m.ValidateAll(); err != nil {
		return nil, fmt.Errorf("validate %s: %w", m.ProtoReflect().Descriptor().FullName(), err)
	}
	a := new(anypb.Any)
	// Deterministic, so that what is handed out never depends on a map's order.
	if err := anypb.MarshalFrom(a, m, proto.MarshalOptions{Deterministic: true}); err != nil {
		return nil, fmt.Errorf("pack %s: %w", m.ProtoReflect().Descriptor().FullName(), err)
	}
	return a, nil
}
