package bootstrap

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/template"
	"text/template/parse"
)

// templateArgs are what Consul documents for envoy_bootstrap_json_tpl, by the
// names that templates use. The way to Consul in it is the VIP; TLS and the token
// are not in it, for the cluster that it makes is replaced.
type templateArgs struct {
	grpcArgs

	ProxyCluster          string
	ProxyID               string
	NodeName              string
	ProxySourceService    string
	AgentCAPEM            string // always ""
	AdminAccessLogConfig  []string
	AdminAccessLogPath    string
	AdminBindAddress      string
	AdminBindPort         string
	LocalAgentClusterName string
	Token                 string // always ""
	StaticClustersJSON    string
	StaticListenersJSON   string
	StatsSinksJSON        string
	StatsConfigJSON       string
	StaticSecretsJSON     string
	StatsFlushInterval    string
	TracingConfigJSON     string
	Namespace             string
	Partition             string
	Datacenter            string
	PrometheusBackendPort string
	PrometheusScrapePath  string
	PrometheusCAFile      string
	PrometheusCAPath      string
	PrometheusCertFile    string
	PrometheusKeyFile     string

	GRPC grpcArgs
}

// grpcArgs are reached both by their names and below GRPC.
type grpcArgs struct {
	AgentAddress string
	AgentPort    string
	AgentTLS     bool   // always false
	AgentSocket  string // always ""
}

const (
	// maxTemplate bounds a template: the parser calls itself for each branch, and
	// a stack that overflows is the end of the process. Consul's own takes 10 kB.
	maxTemplate = 256 << 10
	// maxTemplated bounds what it may write.
	maxTemplated = 4 << 20
)

// fromTemplate is the bootstrap of the central configuration's own template, in
// which the way to Consul is put right.
func (b *builder) fromTemplate(d *document) ([]byte, error) {
	fail := func(format string, args ...any) ([]byte, error) {
		return nil, &ConfigError{Proxy: b.ProxyID, Key: keyTemplate, Err: fmt.Errorf(format, args...)}
	}
	t, err := parseTemplate(b.knobs.template)
	if err != nil {
		return fail("is no template that can be used: %w", err)
	}
	out := &bounded{left: maxTemplated}
	if err := t.Execute(out, b.templateArgs(d)); err != nil {
		return fail("is no template that can be used: %w", err)
	}
	tree, err := decode(out.Bytes())
	if err != nil {
		return fail("makes no JSON: %w", err)
	}
	root, ok := tree.(map[string]any)
	if !ok {
		return fail("makes no JSON object")
	}
	if err := replaceXDS(root, d.StaticResources.Clusters[0]); err != nil {
		return fail("%w", err)
	}
	text, err := indent(root)
	if err != nil {
		return nil, err
	}
	if err := validate(text, newBootstrap()); err != nil {
		return fail("makes nothing that Envoy takes: %w", err)
	}
	return text, nil
}

func (b *builder) templateArgs(d *document) templateArgs {
	args := templateArgs{
		grpcArgs:              grpcArgs{AgentAddress: b.XDS.Addr().Unmap().String(), AgentPort: strconv.Itoa(int(b.XDS.Port()))},
		ProxyCluster:          b.cluster,
		ProxyID:               b.ProxyID,
		NodeName:              b.Node,
		ProxySourceService:    b.source,
		AdminAccessLogConfig:  b.Central.AccessLogs,
		AdminAccessLogPath:    "/dev/null",
		AdminBindAddress:      b.admin.Addr().Unmap().String(),
		AdminBindPort:         strconv.Itoa(int(b.admin.Port())),
		LocalAgentClusterName: xdsClusterName,
		StaticClustersJSON:    joined(d.StaticResources.Clusters[1:]),
		StaticListenersJSON:   joined(d.StaticResources.Listeners),
		StatsSinksJSON:        joined(d.StatsSinks),
		StatsConfigJSON:       string(d.StatsConfig),
		StaticSecretsJSON:     joined(d.StaticResources.Secrets),
		StatsFlushInterval:    d.StatsFlushInterval,
		TracingConfigJSON:     string(d.Tracing),
		Namespace:             b.Namespace,
		Partition:             b.Partition,
		Datacenter:            b.Central.Datacenter,
		PrometheusScrapePath:  b.prometheus().ScrapePath,
		PrometheusCAFile:      b.prometheus().CACertsFile,
		PrometheusCAPath:      b.prometheus().CACertsPath,
		PrometheusCertFile:    b.prometheus().CertFile,
		PrometheusKeyFile:     b.prometheus().KeyFile,
	}
	if port := b.prometheus().MergePort; port != 0 {
		args.PrometheusBackendPort = strconv.Itoa(port)
	}
	args.GRPC = args.grpcArgs
	return args
}

// replaceXDS puts our cluster in the place of the template's own, which knows
// nothing of TLS, the token and what a redirect needs; and sees to it that the
// stream goes there.
func replaceXDS(root map[string]any, xds json.RawMessage) error {
	resources := object(root, "static_resources", "staticResources")
	clusters, _ := resources["clusters"].([]any)
	replaced := false
	for i, c := range clusters {
		if c, ok := c.(map[string]any); ok && c["name"] == xdsClusterName {
			clusters[i], replaced = xds, true
		}
	}
	if !replaced {
		return errors.New("makes no cluster named {{ .LocalAgentClusterName }}, so Envoy would have no way to Consul")
	}
	ads := object(object(root, "dynamic_resources", "dynamicResources"), "ads_config", "adsConfig")
	services := ads["grpc_services"]
	if services == nil {
		services = ads["grpcServices"]
	}
	list, ok := services.([]any)
	if !ok {
		list = []any{services} // Envoy takes a lone one, too
	}
	for _, s := range list {
		service, _ := s.(map[string]any)
		grpc := object(service, "envoy_grpc", "envoyGrpc")
		if grpc["cluster_name"] != xdsClusterName && grpc["clusterName"] != xdsClusterName {
			return errors.New("has an ads_config that does not go to the cluster {{ .LocalAgentClusterName }}")
		}
		dropToken(service)
		if grpc["retry_policy"] == nil && grpc["retryPolicy"] == nil {
			grpc["retry_policy"] = retryPolicyJSON
		}
	}
	delete(ads, "grpcServices")
	ads["grpc_services"] = list
	return nil
}

// dropToken takes the token out of a stream's metadata: it comes from a file.
func dropToken(service map[string]any) {
	for _, key := range []string{"initial_metadata", "initialMetadata"} {
		list, ok := service[key].([]any)
		if !ok {
			continue
		}
		kept := []any{}
		for _, item := range list {
			if isToken(item) {
				continue
			}
			kept = append(kept, item)
		}
		service[key] = kept
		if len(kept) == 0 {
			delete(service, key)
		}
	}
}

// isToken says whether an entry of a stream's metadata is the token's. Envoy
// writes names in lower case.
func isToken(entry any) bool {
	header, _ := entry.(map[string]any)
	key, _ := header["key"].(string)
	return strings.EqualFold(key, tokenHeader)
}

// object is the object below one of some keys, empty if there is none.
func object(in map[string]any, keys ...string) map[string]any {
	for _, k := range keys {
		if o, ok := in[k].(map[string]any); ok {
			return o
		}
	}
	return map[string]any{}
}

// parseTemplate takes what bootstraps need and leaves out what could keep this
// process busy, or fill its memory: a template is written by whoever may change
// one service, and runs where the tokens of all are.
func parseTemplate(text string) (*template.Template, error) {
	if len(text) > maxTemplate {
		return nil, fmt.Errorf("it has %d bytes; at most %d are allowed", len(text), maxTemplate)
	}
	refused := func(name string) func(...any) (string, error) {
		return func(...any) (string, error) { return "", fmt.Errorf("%s is not allowed", name) }
	}
	growing := template.FuncMap{}
	for _, name := range []string{"call", "html", "js", "print", "printf", "println", "urlquery"} {
		growing[name] = refused(name)
	}
	t, err := template.New("bootstrap").Funcs(growing).Parse(text)
	if err != nil {
		return nil, err
	}
	if len(t.Templates()) > 1 {
		return nil, errors.New("templates inside of it are not allowed")
	}
	return t, checkNodes(t.Root, false)
}

// checkNodes allows one loop, over the list that there is, and no calls of
// templates: so a template runs about as long as it is.
func checkNodes(n parse.Node, looping bool) error {
	switch n := n.(type) {
	case *parse.ListNode:
		if n == nil {
			return nil
		}
		for _, m := range n.Nodes {
			if err := checkNodes(m, looping); err != nil {
				return err
			}
		}
	case *parse.IfNode:
		return checkBranches(&n.BranchNode, looping)
	case *parse.WithNode:
		return checkBranches(&n.BranchNode, looping)
	case *parse.RangeNode:
		if looping {
			return errors.New("a loop within a loop is not allowed")
		}
		if over := ranged(n.Pipe); over != ".AdminAccessLogConfig" && over != "$.AdminAccessLogConfig" {
			return fmt.Errorf("a loop over %s is not allowed", over)
		}
		return checkBranches(&n.BranchNode, true)
	case *parse.TemplateNode:
		return errors.New("templates inside of it are not allowed")
	}
	return nil
}

func checkBranches(n *parse.BranchNode, looping bool) error {
	return errors.Join(checkNodes(n.List, looping), checkNodes(n.ElseList, looping))
}

// ranged is what a loop goes over, without the variables that it sets.
func ranged(p *parse.PipeNode) string {
	if len(p.Cmds) != 1 {
		return p.String()
	}
	return p.Cmds[0].String()
}

// bounded is a buffer that has an end.
type bounded struct {
	bytes.Buffer
	left int
}

func (w *bounded) Write(b []byte) (int, error) {
	if w.left -= len(b); w.left < 0 {
		return 0, fmt.Errorf("it writes more than %d bytes", maxTemplated)
	}
	return w.Buffer.Write(b)
}
