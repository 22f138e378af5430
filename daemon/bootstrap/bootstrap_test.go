package bootstrap

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/lictor-mesh/lictor/tools/testbed/binaries"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// cases are the bootstraps kept in testdata.
var cases = map[string]Params{
	"minimal": {ProxyID: "web-1-sidecar-proxy", Node: "pod-virtual", XDS: netip.MustParseAddrPort("239.77.0.5:8702")},
	"ipv6": {
		ProxyID: "web-1-sidecar-proxy", Node: "pod-virtual", XDS: netip.MustParseAddrPort("[ff05::7777:0:5]:8702"),
		Admin: netip.MustParseAddrPort("[::1]:0"),
	},
	"full": {
		ProxyID: "web-1-sidecar-proxy", Node: "pod-virtual", XDS: netip.MustParseAddrPort("239.77.255.254:9000"),
		Namespace: "shop", Partition: "west", Datacenter: "dc2", Service: "web", Cluster: "web-identity",
		Admin: netip.MustParseAddrPort("127.0.0.2:19001"),
	},
	"strange names": {
		ProxyID: `we"b\é <&> {{ .X }}`, Node: "n\tode", XDS: netip.MustParseAddrPort("239.77.0.5:8702"),
	},
}

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

// parse reads a bootstrap as Envoy does.
func parse(t *testing.T, p Params) *bootstrapv3.Bootstrap {
	t.Helper()
	doc, err := Build(p)
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(doc) {
		t.Fatal("no JSON")
	}
	b := new(bootstrapv3.Bootstrap)
	if err := protojson.Unmarshal(doc, b); err != nil {
		t.Fatal(err)
	}
	if err := b.ValidateAll(); err != nil {
		t.Fatal(err)
	}
	return b
}

// What was measured to be needed, and must not get lost when knobs are added.
func TestMeasuredSettings(t *testing.T) {
	for name, p := range cases {
		b := parse(t, p)
		cluster := b.GetStaticResources().GetClusters()[0]
		options := new(httpv3.HttpProtocolOptions)
		if err := cluster.GetTypedExtensionProtocolOptions()[httpOptions].UnmarshalTo(options); err != nil {
			t.Fatal(err)
		}
		ping := options.GetExplicitHttpConfig().GetHttp2ProtocolOptions().GetConnectionKeepalive()
		keepalive := cluster.GetUpstreamConnectionOptions().GetTcpKeepalive()
		ads := b.GetDynamicResources().GetAdsConfig()
		grpc := ads.GetGrpcServices()[0].GetEnvoyGrpc()
		backoff := grpc.GetRetryPolicy().GetRetryBackOff()
		for what, ok := range map[string]bool{
			"one stream a connection": options.GetCommonHttpProtocolOptions().GetMaxRequestsPerConnection().GetValue() == 1,
			"pings of 15 s or more":   ping.GetInterval().AsDuration().Seconds() >= 15 && ping.GetTimeout().AsDuration().Seconds() == 3,
			"TCP keepalive":           keepalive.GetKeepaliveTime().GetValue() == 2 && keepalive.GetKeepaliveInterval().GetValue() == 1 && keepalive.GetKeepaliveProbes().GetValue() == 3,
			"stream backoff":          backoff.GetBaseInterval().AsDuration() == streamBackoff && backoff.GetMaxInterval().AsDuration() == streamBackoffMax,
			"delta ADS":               ads.GetApiType().String() == "DELTA_GRPC" && ads.GetTransportApiVersion().String() == "V3",
			"ADS cluster":             grpc.GetClusterName() == cluster.GetName(),
			"no fetch timeouts": b.GetDynamicResources().GetCdsConfig().GetInitialFetchTimeout() != nil &&
				b.GetDynamicResources().GetCdsConfig().GetInitialFetchTimeout().AsDuration() == 0 &&
				b.GetDynamicResources().GetLdsConfig().GetInitialFetchTimeout() != nil &&
				b.GetDynamicResources().GetLdsConfig().GetInitialFetchTimeout().AsDuration() == 0,
		} {
			if !ok {
				t.Errorf("%s: %s", name, what)
			}
		}
		at := cluster.GetLoadAssignment().GetEndpoints()[0].GetLbEndpoints()[0].GetEndpoint().GetAddress().GetSocketAddress()
		if at.GetAddress() != p.XDS.Addr().String() || at.GetPortValue() != uint32(p.XDS.Port()) {
			t.Errorf("%s: connects to %v", name, at)
		}
		node := b.GetNode()
		if node.GetId() != p.ProxyID || node.GetMetadata().GetFields()["node_name"].GetStringValue() != p.Node {
			t.Errorf("%s: node %v", name, node)
		}
	}
}

func TestRefused(t *testing.T) {
	good := cases["minimal"]
	for name, tt := range map[string]struct {
		change func(*Params)
		want   string
	}{
		"no id":      {func(p *Params) { p.ProxyID = "" }, "no proxy id"},
		"no node":    {func(p *Params) { p.Node = "" }, "no node name"},
		"no VIP":     {func(p *Params) { p.XDS = netip.AddrPort{} }, "VIP"},
		"no port":    {func(p *Params) { p.XDS = netip.AddrPortFrom(p.XDS.Addr(), 0) }, "VIP"},
		"no UTF-8":   {func(p *Params) { p.Node = "\xff" }, "node metadata"},
		"id, no UTF": {func(p *Params) { p.ProxyID = "\xff" }, "UTF-8"},
	} {
		t.Run(name, func(t *testing.T) {
			p := good
			tt.change(&p)
			if doc, err := Build(p); err == nil || !strings.Contains(err.Error(), tt.want) || doc != nil {
				t.Errorf("error %v, want %q in it; document of %d bytes", err, tt.want, len(doc))
			}
		})
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
	for _, s := range statsConfig(Params{}).GetStatsTags() {
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
	for name := range cases {
		t.Run(name, func(t *testing.T) {
			out, err := exec.CommandContext(t.Context(), binary, "--mode", "validate", "--config-path", golden(name)).CombinedOutput()
			if err != nil || !bytes.Contains(out, []byte("OK")) {
				t.Errorf("%v\n%s", err, out)
			}
			if bytes.Contains(bytes.ToLower(out), []byte("deprecated")) {
				t.Errorf("Envoy warns:\n%s", out)
			}
		})
	}
}

// envoy is the path of a real one. Where none is, it is fetched if tests must
// not be skipped.
func envoy(t *testing.T) string {
	t.Helper()
	if os.Getenv("REQUIRE_PRIVILEGED") != "1" {
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
