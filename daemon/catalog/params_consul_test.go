package catalog

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A real server with TLS and ACLs that deny what they do not allow: what it
// answers for a proxy, and by what it refuses.
func TestParamsOfRealConsul(t *testing.T) {
	binary := consul(t)
	dir := t.TempDir()
	ca, other := newAuthority(t), newAuthority(t)
	cert, key := ca.leaf(time.Now().Add(time.Hour), "server.dc1.consul")
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	caFile, certFile, keyFile := ca.file(dir), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writeFile(t, certFile, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})))
	writeFile(t, keyFile, string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})))
	conf := filepath.Join(dir, "conf")
	if err := os.Mkdir(conf, 0o755); err != nil {
		t.Fatal(err)
	}
	p := ports(t, 6)
	const management = "11111111-2222-3333-4444-555555555555"
	writeFile(t, filepath.Join(conf, "consul.hcl"), fmt.Sprintf(`
		ports { http = %d  grpc = %d  server = %d  serf_lan = %d  serf_wan = %d  grpc_tls = %d  dns = -1 }
		disable_update_check = true
		performance { raft_multiplier = 1 }
		tls { grpc { ca_file = %q  cert_file = %q  key_file = %q  verify_incoming = true } }
		acl { enabled = true  default_policy = "deny"
		      tokens { initial_management = %q  agent = %[10]q } }
	`, append(p, caFile, certFile, keyFile, management)...))
	runConsul(t, binary, conf)

	addr := fmt.Sprintf("127.0.0.1:%d", p[0])
	token := filepath.Join(dir, "token")
	writeFile(t, token, management)
	servers := start(t, Config{Addresses: addr, TLS: TLS{Disabled: true}, TokenFile: token, Dial: dialLoopback})
	select {
	case <-servers.Updates():
	case <-time.After(30 * time.Second):
		t.Fatalf("no server; status %+v", servers.Status())
	}
	call(t, addr, "/v1/config", `{"Kind":"proxy-defaults","Name":"global",
		"Config":{"envoy_stats_tags":["a=b","c"],"envoy_statsd_url":"udp://127.0.0.1:8125"},"AccessLogs":{"Enabled":true}}`)
	for _, body := range []string{
		`{"Node":"pod-virtual","Address":"10.9.9.9","Service":{"Service":"web","ID":"web-1","Port":80}}`,
		`{"Node":"pod-virtual","Address":"10.9.9.9","Service":{"Kind":"connect-proxy","Service":"web-sidecar-proxy","ID":"web-1-sidecar-proxy",
			"Port":20000,"Proxy":{"DestinationServiceName":"web","DestinationServiceID":"web-1","Config":{"envoy_statsd_url":"udp://127.0.0.2:8125"}}}}`,
	} {
		call(t, addr, "/v1/catalog/register", body)
	}
	for name, rules := range map[string]string{
		"web": `service "web" {policy="write"} service "web-sidecar-proxy" {policy="write"}`,
		"db":  `service "db" {policy="write"}`,
	} {
		call(t, addr, "/v1/acl/policy", fmt.Sprintf(`{"Name":%q,"Rules":%q}`, name, rules))
	}
	const webToken, dbToken = "99999999-2222-3333-4444-555555555555", "88888888-2222-3333-4444-555555555555"
	call(t, addr, "/v1/acl/token", `{"SecretID":"`+webToken+`","Policies":[{"Name":"web"}]}`)
	call(t, addr, "/v1/acl/token", `{"SecretID":"`+dbToken+`","Policies":[{"Name":"db"}]}`)

	secure := TLS{CACerts: caFile, Cert: certFile, Key: keyFile, ServerName: "server.dc1.consul"}
	plainPort, tlsPort := p[1], p[5]
	ask := func(conf TLS, port any, change func(*ParamsQuery)) (Params, error) {
		c := start(t, Config{Addresses: fmt.Sprintf("127.0.0.1:%v", port), TLS: conf, WatchDisabled: true, Dial: dialLoopback})
		q := web
		q.Token, q.Server = webToken, netip.MustParseAddrPort(fmt.Sprintf("127.0.0.1:%v", port))
		if change != nil {
			change(&q)
		}
		return c.BootstrapParams(t.Context(), q)
	}

	for _, tt := range []struct {
		conf TLS
		port any
	}{{TLS{Disabled: true}, plainPort}, {secure, tlsPort}} {
		got, err := ask(tt.conf, tt.port, nil)
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
		port   any
		change func(*ParamsQuery)
		is     error
		want   string
	}{
		"unknown proxy":          {none, plainPort, func(q *ParamsQuery) { q.ProxyID = "web-2-sidecar-proxy" }, ErrProxyUnknown, "does not know the proxy web-2-sidecar-proxy on node pod-virtual"},
		"unknown node":           {none, plainPort, func(q *ParamsQuery) { q.Node = "other" }, ErrProxyUnknown, "on node other yet"},
		"token that never was":   {none, plainPort, func(q *ParamsQuery) { q.Token = "77777777-2222-3333-4444-555555555555" }, ErrToken, "does not exist"},
		"token of another":       {none, plainPort, func(q *ParamsQuery) { q.Token = dbToken }, ErrToken, "may not read its service"},
		"no token":               {none, plainPort, func(q *ParamsQuery) { q.Token = "" }, ErrToken, "wants an ACL token"},
		"no client certificate":  {withoutCert, tlsPort, nil, nil, "may want a client certificate"},
		"wrong CA":               {foreign, tlsPort, nil, nil, "unknown authority"},
		"wrong name":             {wrongName, tlsPort, nil, nil, "other names than server.dc2.consul"},
		"a server without TLS":   {secure, plainPort, nil, nil, "does not speak TLS on its gRPC port"},
		"a server that wants it": {none, tlsPort, nil, nil, "wants TLS on this port"},
		"the port of HTTP":       {none, p[0], nil, nil, "does not speak gRPC here"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ask(tt.conf, tt.port, tt.change)
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("error %v, want %v", err, tt.is)
			}
			checkSentence(t, err, tt.want)
		})
	}
}
