package catalog

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/tools/testbed/lone"
)

// A real server with TLS and ACLs that deny what they do not allow: what it
// answers for a proxy, and by what it refuses.
func TestParamsOfRealConsul(t *testing.T) {
	dir := t.TempDir()
	ca, other := newAuthority(t), newAuthority(t)
	caFile := ca.file(dir)
	certFile, keyFile := ca.leafFiles(dir, time.Now().Add(time.Hour), "server.dc1.consul")
	consul := lone.Start(t, fmt.Sprintf(`tls { grpc { ca_file = %q  cert_file = %q  key_file = %q  verify_incoming = true } }`, caFile, certFile, keyFile))
	consul.Put("/v1/config", `{"Kind":"proxy-defaults","Name":"global",
		"Config":{"envoy_stats_tags":["a=b","c"],"envoy_statsd_url":"udp://127.0.0.1:8125"},"AccessLogs":{"Enabled":true}}`, nil)
	for _, body := range []string{
		`{"Node":"pod-virtual","Address":"10.9.9.9","Service":{"Service":"web","ID":"web-1","Port":80}}`,
		`{"Node":"pod-virtual","Address":"10.9.9.9","Service":{"Kind":"connect-proxy","Service":"web-sidecar-proxy","ID":"web-1-sidecar-proxy",
			"Port":20000,"Proxy":{"DestinationServiceName":"web","DestinationServiceID":"web-1","Config":{"envoy_statsd_url":"udp://127.0.0.2:8125"}}}}`,
	} {
		consul.Put("/v1/catalog/register", body, nil)
	}
	_, webToken := consul.NewToken("web", `service "web" {policy="write"} service "web-sidecar-proxy" {policy="write"}`)
	_, dbToken := consul.NewToken("db", `service "db" {policy="write"}`)

	secure := TLS{CACerts: caFile, Cert: certFile, Key: keyFile, ServerName: "server.dc1.consul"}
	ask := func(conf TLS, addr string, change func(*ParamsQuery)) (Params, error) {
		c := start(t, Config{Addresses: addr, TLS: conf, WatchDisabled: true, Dial: dialLoopback})
		q := web
		q.Token, q.Server = webToken, netip.MustParseAddrPort(addr)
		if change != nil {
			change(&q)
		}
		return c.BootstrapParams(t.Context(), q)
	}

	for _, tt := range []struct {
		conf TLS
		addr string
	}{{TLS{Disabled: true}, consul.GRPC}, {secure, consul.GRPCTLS}} {
		got, err := ask(tt.conf, tt.addr, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got.Service != "web" || got.Datacenter != "dc1" || got.Namespace != "default" || got.Partition != "default" || got.NodeName != "pod-virtual" ||
			got.Config["envoy_statsd_url"] != "udp://127.0.0.2:8125" || fmt.Sprint(got.Config["envoy_stats_tags"]) != "[a=b c]" || len(got.AccessLogs) != 1 {
			t.Errorf("parameters %+v", got)
		}
	}

	withoutCert, foreign, wrongName := secure, secure, secure
	withoutCert.Cert, withoutCert.Key = "", ""
	foreign.CACerts = other.file(t.TempDir())
	wrongName.ServerName = "server.dc2.consul"
	none := TLS{Disabled: true}
	for name, tt := range map[string]struct {
		conf   TLS
		addr   string
		change func(*ParamsQuery)
		is     error
		want   string
	}{
		"unknown proxy":          {none, consul.GRPC, func(q *ParamsQuery) { q.ProxyID = "web-2-sidecar-proxy" }, ErrProxyUnknown, "does not know the proxy web-2-sidecar-proxy on node pod-virtual"},
		"unknown node":           {none, consul.GRPC, func(q *ParamsQuery) { q.Node = "other" }, ErrProxyUnknown, "on node other yet"},
		"token that never was":   {none, consul.GRPC, func(q *ParamsQuery) { q.Token = "77777777-2222-3333-4444-555555555555" }, ErrToken, "does not exist"},
		"token of another":       {none, consul.GRPC, func(q *ParamsQuery) { q.Token = dbToken }, ErrToken, "may not read its service"},
		"no token":               {none, consul.GRPC, func(q *ParamsQuery) { q.Token = "" }, ErrToken, "wants an ACL token"},
		"no client certificate":  {withoutCert, consul.GRPCTLS, nil, nil, "may want a client certificate"},
		"wrong CA":               {foreign, consul.GRPCTLS, nil, nil, "unknown authority"},
		"wrong name":             {wrongName, consul.GRPCTLS, nil, nil, "other names than server.dc2.consul"},
		"a server without TLS":   {secure, consul.GRPC, nil, nil, "does not speak TLS on its gRPC port"},
		"a server that wants it": {none, consul.GRPCTLS, nil, nil, "wants TLS on this port"},
		"the port of HTTP":       {none, consul.HTTP, nil, nil, "does not speak gRPC here"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ask(tt.conf, tt.addr, tt.change)
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("error %v, want %v", err, tt.is)
			}
			checkSentence(t, err, tt.want)
		})
	}
}
