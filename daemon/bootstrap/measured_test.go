package bootstrap

import (
	"cmp"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	injectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/credential_injector/v3"
	codecv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/upstream_codec/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	genericv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/injected_credentials/generic/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
)

// What was measured to be needed, and must not get lost when knobs are added.
func TestMeasuredSettings(t *testing.T) {
	for name, p := range cases {
		b := read(t, p)
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
			"stream backoff":          backoff.GetBaseInterval().AsDuration() <= 50*time.Millisecond && backoff.GetMaxInterval().AsDuration() <= 2*time.Second && backoff.GetMaxInterval() != nil,
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
		if p.TokenFile != "" {
			checkToken(t, name, p, options.GetHttpFilters())
		} else if len(options.GetHttpFilters()) > 0 {
			t.Errorf("%s: filters without a token: %v", name, options.GetHttpFilters())
		}
		if p.TLS != nil {
			checkServerTLS(t, name, p, cluster.GetTransportSocket())
		} else if cluster.GetTransportSocket() != nil {
			t.Errorf("%s: a transport socket without TLS", name)
		}
		at := cluster.GetLoadAssignment().GetEndpoints()[0].GetLbEndpoints()[0].GetEndpoint().GetAddress().GetSocketAddress()
		if at.GetAddress() != p.XDS.Addr().String() || at.GetPortValue() != uint32(p.XDS.Port()) {
			t.Errorf("%s: connects to %v", name, at)
		}
		node := b.GetNode()
		if node.GetId() != p.ProxyID || node.GetMetadata().GetFields()["node_name"].GetStringValue() != cmp.Or(p.Central.NodeName, p.Node) {
			t.Errorf("%s: node %v", name, node)
		}
	}
}

// checkToken wants the token put in by a filter, from a file that Envoy watches.
func checkToken(t *testing.T, name string, p Params, filters []*hcmv3.HttpFilter) {
	t.Helper()
	injector, credential := new(injectorv3.CredentialInjector), new(genericv3.Generic)
	if len(filters) != 2 || filters[0].GetTypedConfig().UnmarshalTo(injector) != nil ||
		filters[1].GetTypedConfig().UnmarshalTo(new(codecv3.UpstreamCodec)) != nil ||
		injector.GetCredential().GetTypedConfig().UnmarshalTo(credential) != nil {
		t.Fatalf("%s: %v is no injector of a credential before the codec", name, filters)
	}
	if !injector.GetOverwrite() || injector.GetAllowRequestWithoutCredential() || credential.GetHeader() != "x-consul-token" {
		t.Errorf("%s: %v, %v", name, injector, credential)
	}
	checkWatched(t, name, credential.GetCredential(), p.TokenFile)
}

// checkServerTLS wants a server verified by a CA and by its name: without either
// Envoy would give the token to whoever answers.
func checkServerTLS(t *testing.T, name string, p Params, socket *corev3.TransportSocket) {
	t.Helper()
	tls := new(tlsv3.UpstreamTlsContext)
	if err := socket.GetTypedConfig().UnmarshalTo(tls); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	want := cmp.Or(p.TLS.ServerName, "server."+p.Central.Datacenter+".consul")
	both := tls.GetCommonTlsContext().GetCombinedValidationContext()
	names := both.GetDefaultValidationContext().GetMatchTypedSubjectAltNames()
	if len(names) != 1 || names[0].GetMatcher().GetExact() != want {
		t.Errorf("%s: the servers' certificates must be of %v, want %s", name, names, want)
	}
	if _, err := netip.ParseAddr(want); err != nil && tls.GetSni() != want {
		t.Errorf("%s: it asks for %q, want %q", name, tls.GetSni(), want)
	}
	checkWatched(t, name, both.GetValidationContextSdsSecretConfig(), p.TLS.CAFile)
	clients := tls.GetCommonTlsContext().GetTlsCertificateSdsSecretConfigs()
	if (len(clients) == 1) != (p.TLS.ClientFile != "") || len(clients) > 1 {
		t.Fatalf("%s: client certificates %v, want %q", name, clients, p.TLS.ClientFile)
	}
	for _, client := range clients {
		checkWatched(t, name, client, p.TLS.ClientFile)
	}
}

// checkWatched wants a secret from a file whose directory is watched for renames.
func checkWatched(t *testing.T, name string, secret *tlsv3.SdsSecretConfig, path string) {
	t.Helper()
	file := secret.GetSdsConfig().GetPathConfigSource()
	if file.GetPath() != path || file.GetWatchedDirectory().GetPath() != filepath.Dir(path) {
		t.Errorf("%s: a secret from %v, want %s and its directory watched", name, file, path)
	}
}
