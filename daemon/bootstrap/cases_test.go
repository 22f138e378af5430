package bootstrap

import (
	"net/netip"

	"github.com/lictor-mesh/lictor/state"
)

// secretsDir stands in golden files for the directory of a proxy's secrets.
const secretsDir = "/secrets/"

// proxy is a sidecar as most are.
func proxy(change func(*Params)) Params {
	p := Params{
		ProxyID: "web-1-sidecar-proxy", Node: "pod-virtual", XDS: netip.MustParseAddrPort("239.77.0.5:8702"),
		Central: Central{Service: "web", Identity: "web", Datacenter: "dc1", Namespace: "default", Partition: "default", NodeName: "pod-virtual"},
	}
	change(&p)
	return p
}

// configured is a sidecar with something in its central configuration.
func configured(config map[string]any, more ...func(*Params)) Params {
	return proxy(func(p *Params) {
		p.Central.Config = config
		for _, change := range more {
			change(p)
		}
	})
}

func prometheus(s state.PrometheusSettings) func(*Params) {
	return func(p *Params) { p.Settings.Prometheus = &s }
}

func environment(vars map[string]string) func(*Params) {
	return func(p *Params) {
		p.Env = func(name string) (string, bool) { v, ok := vars[name]; return v, ok }
	}
}

const (
	extraClusters = `{
		"name": "zipkin", "connect_timeout": "1s", "type": "STRICT_DNS",
		"loadAssignment": {"cluster_name": "zipkin", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": "zipkin.service.consul", "port_value": 9411}}}}]}]}
	}, {
		"name": "logs", "type": "STATIC",
		"load_assignment": {"clusterName": "logs", "endpoints": [{"lbEndpoints": [{"endpoint": {"address": {"pipe": {"path": "/run/logs.sock"}}}}]}]}
	}`
	// Of the second filter Envoy has an extension that we do not link in.
	extraListeners = `{
		"name": "extra", "address": {"socket_address": {"address": "127.0.0.1", "port_value": 9999}},
		"filter_chains": [{"filters": [
			{"name": "envoy.filters.network.rbac", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC", "stat_prefix": "rbac"}},
			{"name": "envoy.filters.network.tcp_proxy", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "extra", "cluster": "zipkin"}}
		]}]
	}`
	extraSinks = `{"name": "envoy.stat_sinks.statsd", "typed_config": {"@type": "type.googleapis.com/envoy.config.metrics.v3.StatsdSink", "address": {"socket_address": {"address": "127.0.0.9", "port_value": 9125}}, "prefix": "mine"}}`
	tracing    = `{"http": {"name": "envoy.tracers.zipkin", "typedConfig": {"@type": "type.googleapis.com/envoy.config.trace.v3.ZipkinConfig", "collector_cluster": "zipkin", "collector_endpoint_version": "HTTP_JSON", "collector_endpoint": "/api/v2/spans"}}}`
	accessLog  = `{"name": "Consul Listener Filter Log", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog", "logFormat": {"jsonFormat": {"path": "%REQ(:PATH)%"}}}}`

	// customTemplate is as small as one that works, in the shape of Consul's own.
	customTemplate = `{
  "admin": {
    {{- if (not .AdminAccessLogConfig) }}"access_log_path": "{{ .AdminAccessLogPath }}",{{ end }}
    {{- if .AdminAccessLogConfig }}"access_log": [{{ range $i, $log := .AdminAccessLogConfig }}{{ if $i }},{{ end }}{{ $log }}{{ end }}],{{ end }}
    "address": {"socket_address": {"address": "{{ .AdminBindAddress }}", "port_value": {{ .AdminBindPort }}}}
  },
  "node": {
    "cluster": "{{ .ProxyCluster }}", "id": "{{ .ProxyID }}",
    "metadata": {"node_name": "{{ .NodeName }}", "namespace": "{{if ne .Namespace ""}}{{ .Namespace }}{{else}}default{{end}}", "partition": "{{if .Partition }}{{ .Partition }}{{else}}default{{end}}", "mine": "yes"}
  },
  "static_resources": {
    "clusters": [{
      "name": "{{ .LocalAgentClusterName }}", "connect_timeout": "7s", "type": "STATIC",
      {{- if .AgentTLS -}}"transport_socket": {"name": "tls"},{{- end }}
      "http2_protocol_options": {},
      "loadAssignment": {"clusterName": "{{ .LocalAgentClusterName }}", "endpoints": [{"lbEndpoints": [{"endpoint": {"address": {
        "socket_address": {"address": "{{ .GRPC.AgentAddress }}", "port_value": {{ .AgentPort }}}}}}]}]}
    }{{- if .StaticClustersJSON -}}, {{ .StaticClustersJSON }}{{- end }}]
    {{- if .StaticListenersJSON -}}, "listeners": [{{ .StaticListenersJSON }}]{{- end }}
    {{- if .StaticSecretsJSON -}}, "secrets": [{{ .StaticSecretsJSON }}]{{- end }}
  },
  {{- if .StatsSinksJSON }}"stats_sinks": [{{ .StatsSinksJSON }}],{{ end }}
  {{- if .StatsConfigJSON }}"stats_config": {{ .StatsConfigJSON }},{{ end }}
  {{- if .StatsFlushInterval }}"stats_flush_interval": "{{ .StatsFlushInterval }}",{{ end }}
  {{- if .TracingConfigJSON }}"tracing": {{ .TracingConfigJSON }},{{ end }}
  "dynamic_resources": {
    "lds_config": {"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"},
    "cds_config": {"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"},
    "ads_config": {
      "api_type": "DELTA_GRPC", "transport_api_version": "V3",
      "grpc_services": {
        "initial_metadata": [{"key": "x-consul-token", "value": "{{ .Token }}"}, {"key": "x-mine", "value": "kept"}],
        "envoy_grpc": {"cluster_name": "{{ .LocalAgentClusterName }}"}
      }
    }
  }
}`
)

// cases are the bootstraps kept in testdata. Each key of the central
// configuration has one of its own.
var cases = map[string]Params{
	"minimal": {ProxyID: "web-1-sidecar-proxy", Node: "pod-virtual", XDS: netip.MustParseAddrPort("239.77.0.5:8702")},
	"ipv6": {
		ProxyID: "web-1-sidecar-proxy", Node: "pod-virtual", XDS: netip.MustParseAddrPort("[ff05::7777:0:5]:8702"),
		Settings: state.EnvoySettings{AdminBind: "[::1]:0"},
	},
	"sidecar": proxy(func(*Params) {}),
	"tenancy": proxy(func(p *Params) {
		p.Central = Central{Service: "web", Identity: "web-identity", Datacenter: "dc2", Namespace: "shop", Partition: "west", NodeName: "as-consul-has-it"}
		p.XDS = netip.MustParseAddrPort("239.77.255.254:9000")
		p.Settings.AdminBind = "127.0.0.2:19001"
	}),
	"gateway": proxy(func(p *Params) {
		p.ProxyID, p.Central.Service, p.Central.Identity = "mesh-gateway-1", "mesh-gateway", "mesh-gateway"
	}),
	"strange names": {
		ProxyID: `we"b\é <&> {{ .X }}`, Node: "n\tode", XDS: netip.MustParseAddrPort("239.77.0.5:8702"),
	},

	"tls": proxy(func(p *Params) { p.TLS = &TLS{CAFile: secretsDir + CAFile} }),
	"mutual tls and token": proxy(func(p *Params) {
		p.TLS = &TLS{CAFile: secretsDir + CAFile, ClientFile: secretsDir + ClientFile, ServerName: "consul.example"}
		p.TokenFile = secretsDir + TokenFile
	}),
	"tls by address": proxy(func(p *Params) { p.TLS = &TLS{CAFile: secretsDir + CAFile, ServerName: "10.0.0.1"} }),
	"token":          proxy(func(p *Params) { p.TokenFile = secretsDir + TokenFile }),

	"access logs": proxy(func(p *Params) { p.Central.AccessLogs = []string{accessLog, accessLog} }),
	"ready":       proxy(func(p *Params) { p.Settings.ReadyBind = "0.0.0.0:21000" }),

	"statsd udp":         configured(map[string]any{keyStatsd: "udp://127.0.0.1:9125"}),
	"statsd unix":        configured(map[string]any{keyStatsd: "unix:///run/statsd.sock"}),
	"statsd variable":    configured(map[string]any{keyStatsd: "$STATSD"}, environment(map[string]string{"STATSD": "udp://127.0.0.7:8125"})),
	"dogstatsd udp":      configured(map[string]any{keyDogstatsd: "udp://[::1]:8125"}),
	"dogstatsd unix":     configured(map[string]any{keyDogstatsd: "unix:///run/dsd.sock"}),
	"dogstatsd host":     configured(map[string]any{keyDogstatsd: "udp://${HOST_IP}:8125"}, environment(map[string]string{"HOST_IP": "10.1.2.3"})),
	"stats sinks":        configured(map[string]any{keyStatsSinks: extraSinks, keyStatsd: "udp://127.0.0.1:9125"}),
	"stats tags":         configured(map[string]any{keyStatsTags: []any{"Canary", "team=a=b", "local_cluster=mine"}}),
	"stats tag":          configured(map[string]any{keyStatsTags: "canary"}), // as Consul hands out a list of one
	"stats config":       configured(map[string]any{keyStatsConfig: `{"stats_tags": [], "useAllDefaultTags": false}`, keyStatsTags: "x"}),
	"flush interval":     configured(map[string]any{keyFlushInterval: "1.5s"}),
	"prometheus":         configured(map[string]any{keyPrometheusBind: "0.0.0.0:20200"}),
	"prometheus merged":  configured(map[string]any{keyPrometheusBind: "[::]:20200"}, prometheus(state.PrometheusSettings{ScrapePath: "/scrape", MergePort: 20100})),
	"prometheus tls":     configured(map[string]any{keyPrometheusBind: "0.0.0.0:20200", keyStatsBind: "127.0.0.1:20201"}, prometheus(promTLS), func(p *Params) { p.Settings.ReadyBind = "0.0.0.0:21000" }),
	"prometheus tls dir": configured(map[string]any{keyPrometheusBind: "0.0.0.0:20200"}, prometheus(promTLSDir), func(p *Params) { p.PrometheusCAs = []byte(testCA) }),
	"stats bind":         configured(map[string]any{keyStatsBind: "0.0.0.0:20201"}),
	"collector":          configured(map[string]any{keyCollectorDir: "/run/collector"}),
	"static clusters":    configured(map[string]any{keyClusters: extraClusters}),
	"static listeners":   configured(map[string]any{keyListeners: extraListeners, keyClusters: extraClusters}),
	"tracing":            configured(map[string]any{keyTracing: tracing, keyClusters: extraClusters}),
	"template":           configured(map[string]any{keyTemplate: customTemplate}, everything),
	"no central telemetry": configured(map[string]any{
		keyPrometheusBind: "0.0.0.0:20200", keyStatsTags: "x", keyTemplate: "{",
	}, func(p *Params) { p.Settings.NoCentralTelemetry = true }),
	"everything": configured(map[string]any{}, everything),
}

var (
	promTLS = state.PrometheusSettings{
		CertFile: secretsDir + "prometheus.pem", KeyFile: secretsDir + "prometheus-key.pem", CACertsFile: secretsDir + "prometheus-ca.pem",
	}
	promTLSDir = state.PrometheusSettings{
		CertFile: secretsDir + "prometheus.pem", KeyFile: secretsDir + "prometheus-key.pem", CACertsPath: "/some/directory",
	}
)

// everything has all that can be had at once.
func everything(p *Params) {
	p.TLS = &TLS{CAFile: secretsDir + CAFile, ClientFile: secretsDir + ClientFile}
	p.TokenFile = secretsDir + TokenFile
	p.Settings.ReadyBind = "0.0.0.0:21000"
	s := promTLS
	s.MergePort = 20100
	p.Settings.Prometheus = &s
	p.Central.AccessLogs = []string{accessLog}
	for k, v := range map[string]any{
		keyStatsd: "udp://127.0.0.1:9125", keyDogstatsd: "unix:///run/dsd.sock", keyStatsSinks: extraSinks,
		keyStatsTags: []any{"a=b"}, keyFlushInterval: "10s", keyPrometheusBind: "0.0.0.0:20200", keyStatsBind: "127.0.0.1:20201",
		keyCollectorDir: "/run/collector", keyClusters: extraClusters, keyListeners: extraListeners, keyTracing: tracing,
		"protocol": "http",
	} {
		p.Central.Config[k] = v
	}
}

// testCA is a certificate that never changes, so that golden files do not.
const testCA = `-----BEGIN CERTIFICATE-----
MIIBdTCCARugAwIBAgIUca0R/Ir331Vtt2bwJCQll6HcgIwwCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEdGVzdDAgFw0yNjExMjIxMzM1MzNaGA8yMTI2MTAyOTEzMzUz
M1owDzENMAsGA1UEAwwEdGVzdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABP9j
d8D5lFjXH/VWfwOy6qJ8Vrf4OWzaVISFnK2xGrRxRhk55OejXIZ+I3RZSeg6cd1X
/ru1Z/HsFLZlxXyFBe6jUzBRMB0GA1UdDgQWBBROXWswVfECQilqdWNq9BiFWPuP
XjAfBgNVHSMEGDAWgBROXWswVfECQilqdWNq9BiFWPuPXjAPBgNVHRMBAf8EBTAD
AQH/MAoGCCqGSM49BAMCA0gAMEUCIQDY3ci7ONzSAcJLiPBQcoewlBK25qLYsHPM
yzxB7O1xHgIgQfi8z5ZO2hbZ+zJ0Crs8OB3mP+371iKnMrMniq3qyWs=
-----END CERTIFICATE-----
`
