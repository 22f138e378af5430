package bootstrap

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/config/metrics/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/lictor-mesh/lictor/daemon/catalog"
	"github.com/lictor-mesh/lictor/tools/testbed/binaries"
	"github.com/lictor-mesh/lictor/tools/testbed/lone"
)

// Consul's own `consul connect envoy -bootstrap`, from which consul-dataplane has
// its template, a consul-dataplane itself where one is given (DATAPLANE), and we,
// asked for the same proxies of the same server: the bootstraps are equal, field
// by field, but for what is different on purpose.
func TestEqualsConsul(t *testing.T) {
	c := startConsul(t)
	dataplane, err := binaries.Dataplane()
	if err != nil && !errors.Is(err, binaries.ErrNoDataplane) {
		t.Fatal(err)
	}
	dir := writeSecrets(t)
	for _, name := range slices.Sorted(maps.Keys(cases)) {
		p := cases[name]
		switch name {
		case "minimal", "strange names", "tenancy":
			continue // nothing that a server of the open-source edition could answer
		}
		t.Run(name, func(t *testing.T) {
			c.register(p)
			p.Central = c.params(t, p)
			ours := read(t, p)
			theirs := c.bootstrap(t, p)
			if theirs, ours := endpoint(theirs), endpoint(ours); !proto.Equal(theirs, ours) {
				t.Errorf("the servers are at %v, and in Consul's bootstrap at %v", ours, theirs)
			}
			equal(t, theirs, ours, append(cli(p, theirs), allow(t, p, theirs, ours)...))
			if dataplane == "" || name == "ipv6" { // consul-dataplane splits its own listener's address at the first colon
				return
			}
			p.Settings.Prometheus = onDisk(p.Settings.Prometheus, dir)
			ours = read(t, p)
			theirs = c.dataplane(t, dataplane, p)
			equal(t, theirs, ours, allow(t, p, theirs, ours))
		})
	}
}

// equal compares what is left.
func equal(t *testing.T, theirs, ours *bootstrapv3.Bootstrap, different []string) {
	t.Helper()
	if !proto.Equal(theirs, ours) {
		t.Errorf("differs, also without what is different on purpose:\n%s", lineDiff(text(t, theirs), text(t, ours)))
	}
	t.Logf("different on purpose: %s", strings.Join(different, ", "))
}

// cli undoes what `consul connect envoy` does otherwise than consul-dataplane,
// which has asked a server and not an agent.
func cli(p Params, theirs *bootstrapv3.Bootstrap) (different []string) {
	if theirs.GetNode().GetCluster() == p.ProxyID {
		theirs.Node.Cluster = p.Central.Service
		for _, tag := range theirs.GetStatsConfig().GetStatsTags() {
			if tag.GetTagName() == "local_cluster" {
				tag.TagValue = &metricsv3.TagSpecifier_FixedValue{FixedValue: p.Central.Service}
			}
		}
		different = append(different, "a gateway's cluster is its service (command line)")
	}
	if p.Central.Config[keyCollectorDir] != nil && p.Central.Config[keyFlushInterval] == nil {
		theirs.StatsFlushInterval = nil
		different = append(different, "no interval for the collector (command line)")
	}
	return different
}

// allow makes Consul's bootstrap ours in what is different on purpose, and names
// what was.
func allow(t *testing.T, p Params, theirs, ours *bootstrapv3.Bootstrap) (different []string) {
	t.Helper()
	said := func(what string) { different = append(different, what) }

	// The way to the servers: a VIP, with TLS and the token, and what a redirect
	// needs.
	mine, other := ours.GetStaticResources().GetClusters(), theirs.GetStaticResources().GetClusters()
	other[0] = proto.CloneOf(mine[0])
	said("cluster " + mine[0].GetName())
	ads, theirADS := ours.GetDynamicResources().GetAdsConfig().GetGrpcServices()[0], theirs.GetDynamicResources().GetAdsConfig().GetGrpcServices()[0]
	theirADS.GetEnvoyGrpc().ClusterName = ads.GetEnvoyGrpc().GetClusterName()
	theirADS.GetEnvoyGrpc().RetryPolicy = ads.GetEnvoyGrpc().GetRetryPolicy()
	said("backoff of the stream")
	theirADS.InitialMetadata = slices.DeleteFunc(theirADS.GetInitialMetadata(), func(h *corev3.HeaderValue) bool { return h.GetKey() == tokenHeader })
	said("no token in the bootstrap")

	// Fields that Envoy calls deprecated, in the form that it has for them now.
	if path := theirs.GetAdmin().GetAccessLogPath(); path != "" && p.Central.Config[keyTemplate] == nil { //nolint:staticcheck // it is theirs
		theirs.Admin.AccessLogPath = "" //nolint:staticcheck // likewise
		theirs.Admin.AccessLog = []*accesslogv3.AccessLog{ours.GetAdmin().GetAccessLog()[0]}
		said("access log " + path + " by its current field")
	}
	for _, cluster := range other[1:] {
		options := plainHTTP1()
		switch {
		case cluster.GetHttp2ProtocolOptions() != nil: //nolint:staticcheck // likewise
			options = plainHTTP2()
		case cluster.GetHttpProtocolOptions() == nil: //nolint:staticcheck // likewise
			continue
		}
		cluster.HttpProtocolOptions, cluster.Http2ProtocolOptions = nil, nil //nolint:staticcheck // likewise
		cluster.TypedExtensionProtocolOptions = map[string]*anypb.Any{httpOptions: options}
		said("HTTP options of " + cluster.GetName() + " by their current field")
	}

	// TLS of the Prometheus listener is that of no other listener.
	for i, l := range theirs.GetStaticResources().GetListeners() {
		socket := l.GetFilterChains()[0].GetTransportSocket()
		if socket == nil {
			continue
		}
		context := new(tlsv3.DownstreamTlsContext)
		if err := socket.GetTypedConfig().UnmarshalTo(context); err != nil {
			t.Fatal(err)
		}
		if l.GetName() != prometheusName+"_listener" {
			theirs.StaticResources.Listeners[i].FilterChains[0].TransportSocket = nil
			said("no TLS for " + l.GetName())
			continue
		}
		context.RequireClientCertificate = wrapperspb.Bool(false)
		packed, err := pack(context)
		if err != nil {
			t.Fatal(err)
		}
		socket.GetConfigType().(*corev3.TransportSocket_TypedConfig).TypedConfig = packed
	}
	secrets := map[string]bool{}
	if r := theirs.GetStaticResources(); r != nil {
		r.Secrets = slices.DeleteFunc(r.GetSecrets(), func(s *tlsv3.Secret) bool {
			again := secrets[s.GetName()]
			secrets[s.GetName()] = true
			return again
		})
		for _, s := range r.GetSecrets() {
			if v := s.GetValidationContext(); v != nil && v.GetTrustedCa() == nil {
				v.WatchedDirectory, v.TrustedCa = nil, inline(p.PrometheusCAs)
				said("the CAs of a directory are read")
			}
		}
	}
	return different
}

// endpoint is the address of the first cluster, which leads to the servers.
func endpoint(b *bootstrapv3.Bootstrap) proto.Message {
	return b.GetStaticResources().GetClusters()[0].GetLoadAssignment().GetEndpoints()[0].GetLbEndpoints()[0].GetEndpoint().GetAddress()
}

func text(t *testing.T, m proto.Message) []string {
	t.Helper()
	raw, err := protojson.MarshalOptions{UseProtoNames: true, Resolver: extensions{}}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	out, err := indent(json.RawMessage(raw))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(out), "\n")
}

// lineDiff shows the lines that only one side has.
func lineDiff(theirs, ours []string) string {
	var out strings.Builder
	only := func(sign string, a, b []string) {
		for _, line := range a {
			if !slices.Contains(b, line) {
				fmt.Fprintf(&out, "%s %s\n", sign, line)
			}
		}
	}
	only("theirs", theirs, ours)
	only("ours  ", ours, theirs)
	return cmp.Or(out.String(), "the order differs")
}

// consulServer is a real one.
type consulServer struct {
	*lone.Server
	binary  string
	catalog *catalog.Catalog
}

func startConsul(t *testing.T) *consulServer {
	t.Helper()
	s := lone.Start(t, `acl { default_policy = "allow" }`)
	c, err := catalog.New(catalog.Config{Addresses: s.GRPC, WatchDisabled: true, TLS: catalog.TLS{Disabled: true}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Run(t.Context()) }) // it ends at once, and with it the connections
	return &consulServer{Server: s, binary: lone.Consul(t), catalog: c}
}

// register puts a proxy and its configuration into the catalog.
func (c *consulServer) register(p Params) {
	service := map[string]any{
		"Kind": "connect-proxy", "ID": p.ProxyID, "Service": "web-sidecar-proxy", "Port": 20000,
		"Proxy": map[string]any{"DestinationServiceName": "web", "DestinationServiceID": "web-1", "Config": p.Central.Config},
	}
	if strings.Contains(p.ProxyID, "gateway") {
		service["Kind"], service["Service"], service["Proxy"] = "mesh-gateway", "mesh-gateway", map[string]any{"Config": p.Central.Config}
	}
	c.Put("/v1/catalog/register", map[string]any{"Node": "pod-virtual", "Address": "10.9.9.9", "Service": service}, nil)
	c.Put("/v1/config", map[string]any{"Kind": "proxy-defaults", "Name": "global", "AccessLogs": map[string]any{"Enabled": p.Central.AccessLogs != nil}}, nil)
}

// params are what the server answers for the proxy.
func (c *consulServer) params(t *testing.T, p Params) Central {
	t.Helper()
	got, err := c.catalog.BootstrapParams(t.Context(), catalog.ParamsQuery{
		Server: netip.MustParseAddrPort(c.GRPC), ProxyID: p.ProxyID, Node: p.Node,
	})
	if err != nil {
		t.Fatal(err)
	}
	return Central{
		Service: got.Service, Identity: got.Identity, Datacenter: got.Datacenter, Namespace: got.Namespace,
		Partition: got.Partition, NodeName: got.NodeName, Config: got.Config, AccessLogs: got.AccessLogs,
	}
}

// variables are those of the proxy's environment that its URLs name.
func variables(p Params) (env []string) {
	for _, name := range []string{"STATSD", "HOST_IP"} {
		if p.Env == nil {
			break
		}
		if value, ok := p.Env(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// bootstrap is what `consul connect envoy` makes, as Envoy reads it.
func (c *consulServer) bootstrap(t *testing.T, p Params) *bootstrapv3.Bootstrap {
	t.Helper()
	admin := cmp.Or(p.Settings.AdminBind, DefaultAdmin.String())
	args := []string{
		"connect", "envoy", "-bootstrap", "-omit-deprecated-tags", "-http-addr=" + c.HTTP,
		"-proxy-id=" + p.ProxyID, "-node-name=" + p.Node, "-grpc-addr=" + p.XDS.String(), "-admin-bind=" + admin,
	}
	if host, port, err := net.SplitHostPort(p.Settings.ReadyBind); err == nil {
		args = append(args, "-envoy-ready-bind-address="+host, "-envoy-ready-bind-port="+port)
	}
	if s := p.Settings.Prometheus; s != nil {
		args = append(args, "-prometheus-scrape-path="+cmp.Or(s.ScrapePath, "/metrics"), "-prometheus-ca-file="+s.CACertsFile,
			"-prometheus-ca-path="+s.CACertsPath, "-prometheus-cert-file="+s.CertFile, "-prometheus-key-file="+s.KeyFile)
		if s.MergePort != 0 {
			args = append(args, fmt.Sprintf("-prometheus-backend-port=%d", s.MergePort))
		}
	}
	if p.Settings.NoCentralTelemetry {
		args = append(args, "-no-central-config")
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), c.binary, args...)
	cmd.Stderr = &stderr
	cmd.Env = append(variables(p), "PATH="+os.Getenv("PATH"), "HOME="+t.TempDir())
	doc, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, stderr.String())
	}
	b := new(bootstrapv3.Bootstrap)
	if err := validate(doc, b); err != nil {
		t.Fatalf("%v\n%s", err, doc)
	}
	return b
}
