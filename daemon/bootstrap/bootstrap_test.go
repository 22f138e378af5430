package bootstrap

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"

	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/tools/testbed/binaries"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(name string) string {
	return filepath.Join("testdata", strings.ReplaceAll(name, " ", "-")+".json")
}

func TestGolden(t *testing.T) {
	for name, p := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := Build(p)
			if err != nil {
				t.Fatal(err)
			}
			if *update {
				if err := os.WriteFile(golden(name), got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden(name))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("differs from %s (rewrite it with -update):\n%s", golden(name), got)
			}
			for range 20 {
				if again, _ := Build(p); !bytes.Equal(got, again) {
					t.Fatal("the same parameters gave other bytes")
				}
			}
		})
	}
}

// read reads a bootstrap as Envoy does.
func read(t *testing.T, p Params) *bootstrapv3.Bootstrap {
	t.Helper()
	doc, err := Build(p)
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(doc) {
		t.Fatal("no JSON")
	}
	b := new(bootstrapv3.Bootstrap)
	if err := validate(doc, b); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRefused(t *testing.T) {
	prom := func(s state.PrometheusSettings) func(*Params) {
		return func(p *Params) { p.Settings.Prometheus = &s }
	}
	for name, tt := range map[string]struct {
		change func(*Params)
		want   string
	}{
		"no id":             {func(p *Params) { p.ProxyID = "" }, "no proxy id"},
		"no node":           {func(p *Params) { p.Node = "" }, "no node name"},
		"no VIP":            {func(p *Params) { p.XDS = netip.AddrPort{} }, "VIP"},
		"no port":           {func(p *Params) { p.XDS = netip.AddrPortFrom(p.XDS.Addr(), 0) }, "VIP"},
		"no UTF-8":          {func(p *Params) { p.Node = "\xff" }, "node metadata"},
		"id, no UTF":        {func(p *Params) { p.ProxyID = "\xff" }, "UTF-8"},
		"admin by name":     {func(p *Params) { p.Settings.AdminBind = "host:1" }, `admin interface cannot listen on "host:1"`},
		"admin without":     {func(p *Params) { p.Settings.AdminBind = "127.0.0.1" }, "no address and port"},
		"ready by number":   {func(p *Params) { p.Settings.ReadyBind = "127.0.0.1:70000" }, "ready listener cannot listen"},
		"ready with a zone": {func(p *Params) { p.Settings.ReadyBind = "[fe80::1%eth0]:1" }, "ready listener cannot listen"},
		"no CA":             {func(p *Params) { p.TLS = &TLS{ServerName: "x"} }, "would trust any server"},
		"no name":           {func(p *Params) { p.TLS = &TLS{CAFile: "/ca.json"} }, "--tls-server-name"},
		"half a pair":       {prom(state.PrometheusSettings{CertFile: "/c"}), "belong together"},
		"a CA alone":        {prom(state.PrometheusSettings{CACertsFile: "/c"}), "would not speak TLS"},
		"an empty CA dir":   {prom(state.PrometheusSettings{CertFile: "/c", KeyFile: "/k", CACertsPath: "/d"}), "no CA certificate at /d"},
		"merge port":        {prom(state.PrometheusSettings{MergePort: 1 << 16}), "65536"},
	} {
		t.Run(name, func(t *testing.T) {
			p := cases["minimal"]
			tt.change(&p)
			if doc, err := Build(p); err == nil || !strings.Contains(err.Error(), tt.want) || doc != nil {
				t.Errorf("error %v, want %q in it; document of %d bytes", err, tt.want, len(doc))
			}
		})
	}
}

// What is wrong with the central configuration is told with the key and with
// where to correct it.
func TestConfigErrors(t *testing.T) {
	for name, tt := range map[string]struct {
		config map[string]any
		key    string
		want   string
	}{
		"clusters: no JSON":        {map[string]any{keyClusters: `{"name": "x",}`}, keyClusters, "is no JSON: invalid character"},
		"clusters: two lines":      {map[string]any{keyClusters: "{\n\"name\": x}"}, keyClusters, "in line 2"},
		"clusters: a list":         {map[string]any{keyClusters: `[{"name": "x"}]`}, keyClusters, "without brackets"},
		"clusters: a text":         {map[string]any{keyClusters: `"x"`}, keyClusters, "number 1, which is no JSON object"},
		"clusters: no cluster":     {map[string]any{keyClusters: `{"nme": "x"}`}, keyClusters, `unknown field "nme"`},
		"clusters: a rule":         {map[string]any{keyClusters: `{"name": ""}`}, keyClusters, "invalid Cluster.Name"},
		"clusters: the second":     {map[string]any{keyClusters: `{"name": "x"}, {"nme": "y"}`}, keyClusters, "number 2, which"},
		"clusters: an object":      {map[string]any{keyClusters: map[string]any{"name": "x"}}, keyClusters, "is an object and must be a text"},
		"clusters: an extension":   {map[string]any{keyClusters: `{"name": "x", "transport_socket": {"name": "tls", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", "sni": 7}}}`}, keyClusters, "invalid value for string field sni"},
		"clusters: its rule":       {map[string]any{keyClusters: `{"name": "x", "typed_extension_protocol_options": {"a": {"@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"}}}`}, keyClusters, "UpstreamProtocolOptions"},
		"clusters: ours":           {map[string]any{keyClusters: `{"name": "consul-servers"}`}, keyClusters, `names "consul-servers", which is taken`},
		"clusters: ours now":       {map[string]any{keyClusters: `{"name": "self_admin"}`, keyStatsBind: "0.0.0.0:1"}, keyClusters, `names "self_admin", which is taken`},
		"clusters: twice":          {map[string]any{keyClusters: `{"name": "x"}, {"name": "x"}`}, keyClusters, `names "x", which is taken`},
		"listeners: ours":          {map[string]any{keyListeners: `{"name": "envoy_metrics_listener"}`, keyStatsBind: "0.0.0.0:1"}, keyListeners, "which is taken"},
		"listeners: more":          {map[string]any{keyListeners: `{"name": "x"}]}`}, keyListeners, "is no JSON"},
		"sinks":                    {map[string]any{keyStatsSinks: `{"name": 1}`}, keyStatsSinks, "number 1, which is nothing that Envoy takes"},
		"stats config":             {map[string]any{keyStatsConfig: `[]`}, keyStatsConfig, "is no JSON object"},
		"stats config: a rule":     {map[string]any{keyStatsConfig: `{"stats_tags": [{"tag_name": 1}]}`}, keyStatsConfig, "nothing that Envoy takes"},
		"tracing":                  {map[string]any{keyTracing: `{"http": {"name": ""}}`}, keyTracing, "nothing that Envoy takes"},
		"tracing: more":            {map[string]any{keyTracing: `{}, {}`}, keyTracing, "more after its end"},
		"interval":                 {map[string]any{keyFlushInterval: "10"}, keyFlushInterval, "seconds with an s"},
		"interval: a number":       {map[string]any{keyFlushInterval: 10.0}, keyFlushInterval, "seconds with an s"},
		"interval: a rule":         {map[string]any{keyFlushInterval: "0s"}, keyFlushInterval, "below 5 minutes"},
		"tags":                     {map[string]any{keyStatsTags: []any{map[string]any{}}}, keyStatsTags, "has an element that is an object"},
		"tags: no name":            {map[string]any{keyStatsTags: []any{"=x"}}, keyStatsTags, "has no name"},
		"prometheus":               {map[string]any{keyPrometheusBind: "9102"}, keyPrometheusBind, "an IP address and a port"},
		"prometheus: no address":   {map[string]any{keyPrometheusBind: ":9102"}, keyPrometheusBind, "an IP address and a port"},
		"prometheus: a list":       {map[string]any{keyPrometheusBind: []any{"a", "b"}}, keyPrometheusBind, "is a list"},
		"stats bind":               {map[string]any{keyStatsBind: "host:1"}, keyStatsBind, "an IP address and a port"},
		"the same address":         {map[string]any{keyStatsBind: "0.0.0.0:1", keyPrometheusBind: "0.0.0.0:1"}, keyStatsBind, "where the Prometheus listener is"},
		"the admin's address":      {map[string]any{keyPrometheusBind: "127.0.0.1:19000"}, keyPrometheusBind, "where Envoy's admin interface is"},
		"the ready address":        {map[string]any{keyPrometheusBind: "0.0.0.0:21000"}, keyPrometheusBind, "where the ready listener is"},
		"statsd":                   {map[string]any{keyStatsd: "tcp://127.0.0.1:1"}, keyStatsd, "must begin with udp:// or unix://"},
		"statsd: a name":           {map[string]any{keyStatsd: "udp://statsd:8125"}, keyStatsd, "must name an IP address"},
		"statsd: no port":          {map[string]any{keyStatsd: "udp://127.0.0.1"}, keyStatsd, "must name a port"},
		"statsd: no path":          {map[string]any{keyStatsd: "unix://"}, keyStatsd, "must name a path"},
		"statsd: no URL":           {map[string]any{keyStatsd: "udp://["}, keyStatsd, "no URL"},
		"statsd: no variable":      {map[string]any{keyStatsd: "$NONE"}, keyStatsd, "there is no NONE in the proxy's environment"},
		"statsd: a variable":       {map[string]any{keyStatsd: "$BAD"}, keyStatsd, `is "$BAD", in the proxy's environment "http://x", and must begin`},
		"dogstatsd: no host":       {map[string]any{keyDogstatsd: "udp://${HOST_IP}:1"}, keyDogstatsd, "there is no HOST_IP"},
		"dogstatsd: another":       {map[string]any{keyDogstatsd: "udp://${POD_IP}:1"}, keyDogstatsd, "no URL"},
		"any case":                 {map[string]any{"Envoy_Statsd_URL": "x"}, keyStatsd, "must begin"},
		"template":                 {map[string]any{keyTemplate: "{{"}, keyTemplate, "is no template"},
		"template: empty":          {map[string]any{keyTemplate: " "}, keyTemplate, "makes no JSON"},
		"template: a field":        {map[string]any{keyTemplate: "{{ .Nothing }}"}, keyTemplate, "Nothing"},
		"template: no JSON":        {map[string]any{keyTemplate: "{{ .ProxyID }}"}, keyTemplate, "makes no JSON"},
		"template: a list":         {map[string]any{keyTemplate: "[]"}, keyTemplate, "makes no JSON object"},
		"template: no cluster":     {map[string]any{keyTemplate: "{}"}, keyTemplate, "no cluster named {{ .LocalAgentClusterName }}"},
		"template: another stream": {map[string]any{keyTemplate: strings.ReplaceAll(customTemplate, `"envoy_grpc": {"cluster_name": "{{ .LocalAgentClusterName }}"}`, `"envoy_grpc": {"cluster_name": "mine"}`)}, keyTemplate, "ads_config that does not go"},
		"template: no Envoy":       {map[string]any{keyTemplate: strings.ReplaceAll(customTemplate, `"node":`, `"nod":`)}, keyTemplate, `unknown field "nod"`},
		"template: huge":           {map[string]any{keyTemplate: strings.Repeat("{{if .}}", 600_000)}, keyTemplate, "it has 4800000 bytes"},
		"template: endless":        {map[string]any{keyTemplate: `{{ range 1000000000 }}x{{ end }}`}, keyTemplate, "a loop over 1000000000 is not allowed"},
		"template: deep":           {map[string]any{keyTemplate: `{{ range .AdminAccessLogConfig }}{{ range $.AdminAccessLogConfig }}{{ end }}{{ end }}`}, keyTemplate, "a loop within a loop"},
		"template: itself":         {map[string]any{keyTemplate: `{{ define "x" }}{{ template "x" }}{{ end }}{{ template "x" }}`}, keyTemplate, "templates inside"},
		"template: its own name":   {map[string]any{keyTemplate: `{{ template "bootstrap" . }}`}, keyTemplate, "templates inside"},
		"template: growing":        {map[string]any{keyTemplate: `{{ $x := print .ProxyID .ProxyID }}`}, keyTemplate, "print is not allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			doc, err := Build(configured(tt.config, environment(map[string]string{"BAD": "http://x"}),
				func(p *Params) { p.Settings.ReadyBind = "0.0.0.0:21000" }))
			bad := (*ConfigError)(nil)
			if !errors.As(err, &bad) || doc != nil {
				t.Fatalf("error %v, document of %d bytes", err, len(doc))
			}
			if bad.Key != tt.key || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q in it", err, tt.want)
			}
			if where := "correct Config." + tt.key + " in the config entry proxy-defaults global, or Proxy.Config." + tt.key + " where the proxy web-1-sidecar-proxy is registered"; !strings.HasSuffix(err.Error(), where) ||
				!strings.HasPrefix(err.Error(), tt.key+" ") {
				t.Errorf("error %v, want %q", err, where)
			}
		})
	}
	_, err := Build(proxy(func(p *Params) { p.Central.AccessLogs = []string{accessLog, `{"nme": 1}`} }))
	if err == nil || !strings.HasPrefix(err.Error(), "AccessLogs makes a logger, number 2, which is nothing that Envoy takes") ||
		!strings.HasSuffix(err.Error(), "correct AccessLogs in the config entry proxy-defaults global") {
		t.Errorf("error %v", err)
	}
}

func TestEnviron(t *testing.T) {
	get := Environ("HOST_IP=10.0.0.1\x00EMPTY=\x00X=a=b\x00HOST_IP=10.0.0.2\x00nothing\x00")
	for name, want := range map[string]string{"HOST_IP": "10.0.0.1", "EMPTY": "", "X": "a=b"} {
		if value, ok := get(name); !ok || value != want {
			t.Errorf("%s is %q, %v, want %q", name, value, ok, want)
		}
	}
	for _, name := range []string{"", "nothing", "host_ip"} {
		if value, ok := get(name); ok {
			t.Errorf("%q is %q, want none", name, value)
		}
	}
}

// A path to be matched has a slash before it and no query after it.
func TestScrapePath(t *testing.T) {
	for in, want := range map[string]string{"/metrics": "/metrics", "scrape": "/scrape", "scrape?x=y": "/scrape", "/a?": "/a?", "/a%20b?c": "/a b"} {
		if got := scrapePath(in); got != want {
			t.Errorf("%s is %s, want %s", in, got, want)
		}
	}
}

// Names of metrics as Consul's configuration makes them, and the tags to be
// taken out of them.
func TestStatsTags(t *testing.T) {
	const domain = "e5b08d03-bfc3-c870-1833-baddb116e648"
	for name, want := range map[string]map[string]string{
		"cluster.pong.default.dc2.internal." + domain + ".consul.bind_errors": {
			"service": "pong", "namespace": "default", "datacenter": "dc2", "routing_type": "internal", "trust_domain": domain,
			"target": "pong.default.dc2", "full_target": "pong.default.dc2.internal." + domain,
		},
		"cluster.passthrough~f8f8f8f8~v2.pong.default.partA.dc2.internal-v1." + domain + ".consul.bind_errors": {
			"custom_hash": "f8f8f8f8", "service_subset": "v2", "service": "pong", "namespace": "default", "partition": "partA",
			"datacenter": "dc2", "routing_type": "internal-v1", "trust_domain": domain,
		},
		"cluster.pong.default.cloudpeer.external." + domain + ".consul.bind_errors": {
			"service": "pong", "peer": "cloudpeer", "routing_type": "external", "datacenter": "", "partition": "",
		},
		"http.upstream.web.frontend.west.dc1.downstream_cx_total": {
			"upstream.service": "web", "upstream.namespace": "frontend", "upstream.partition": "west", "upstream.datacenter": "dc1",
		},
		"tcp.upstream.db.dc1.downstream_cx_total": {"upstream.service": "db", "upstream.namespace": ""},
		"http.upstream_peered.web.frontend.cloudpeer.downstream_cx_total": {
			"upstream.service": "web", "upstream.peer": "cloudpeer",
		},
		"cluster.consul-servers.upstream_cx_total": {"service": "", "target": ""},
		"http.admin.downstream_cx_total":           {"upstream.service": ""},
	} {
		for tag, value := range want {
			if !strings.HasPrefix(tag, "upstream.") {
				tag = "destination." + tag
			}
			if got := extract(t, "consul."+tag, name); got != value {
				t.Errorf("%s of %s is %q, want %q", tag, name, got, value)
			}
		}
	}
}

// extract takes a tag out of a name as Envoy does: the first group is cut out of
// the name, the second is the value.
func extract(t *testing.T, tag, name string) string {
	t.Helper()
	for _, s := range new(builder).statsConfig().GetStatsTags() {
		if s.GetTagName() != tag {
			continue
		}
		groups := regexp.MustCompile(s.GetRegex()).FindStringSubmatch(name)
		if groups == nil {
			return ""
		}
		if len(groups) != 3 {
			t.Fatalf("%s: %d groups in %s", tag, len(groups)-1, s.GetRegex())
		}
		return groups[2]
	}
	t.Fatalf("no tag %s", tag)
	return ""
}

// A real Envoy takes them all.
func TestEnvoyValidates(t *testing.T) {
	binary := envoy(t)
	dir := writeSecrets(t)
	for name, p := range cases {
		t.Run(name, func(t *testing.T) {
			doc, err := os.ReadFile(golden(name))
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "bootstrap.json")
			if err := os.WriteFile(path, bytes.ReplaceAll(doc, []byte(strings.TrimSuffix(secretsDir, "/")), []byte(dir)), 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := exec.CommandContext(t.Context(), binary, "--mode", "validate", "--config-path", path).CombinedOutput()
			if err != nil || !bytes.Contains(out, []byte("OK")) {
				t.Errorf("%v\n%s", err, out)
			}
			for line := range strings.Lines(strings.ToLower(string(out))) {
				// What central configuration asks for may be out of fashion.
				if strings.Contains(line, "deprecated") && !(p.Central.Config[keyTracing] != nil && strings.Contains(line, "bootstrap.tracing")) {
					t.Errorf("Envoy warns: %s", line)
				}
			}
		})
	}
}

// writeSecrets makes the files that golden files refer to, and names their
// directory.
func writeSecrets(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	certificate, key := selfSigned(t)
	file := func(name string) func([]byte, error) {
		return func(content []byte, err error) {
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, name), content, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	file(TokenFile)(TokenSecret("11111111-2222-3333-4444-555555555555"))
	file(CAFile)(CASecret(certificate))
	file(ClientFile)(ClientSecret(certificate, key))
	file("prometheus.pem")(certificate, nil)
	file("prometheus-key.pem")(key, nil)
	file("prometheus-ca.pem")(certificate, nil)
	return dir
}

// envoy is the path of a real one. Where none is, it is fetched if tests must
// not be skipped.
func envoy(t *testing.T) string {
	t.Helper()
	if !testenv.Required() {
		root, err := binaries.Root()
		if err != nil {
			t.Fatal(err)
		}
		_, missing := os.Stat(filepath.Join(root, ".cache", "bin", "envoy"))
		if _, err := exec.LookPath("envoy"); err != nil && missing != nil && os.Getenv("ENVOY") == "" {
			t.Skip("needs Envoy: not on PATH, and not fetched by tools/testbed")
		}
	}
	path, err := binaries.Envoy(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	return path
}
