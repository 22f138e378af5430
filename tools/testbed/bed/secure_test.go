package bed_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
	"github.com/lictor-mesh/lictor/tools/testbed/binaries"
	"github.com/lictor-mesh/lictor/tools/testbed/pki"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// A cluster with all on: who is let in by certificate and by token, and what a
// rotation changes, with no server restarted.
func TestClusterWithTLSAndACLs(t *testing.T) {
	testenv.Privileged(t)
	testenv.NoLeaks(t)
	b := bed.ForTest(t)
	ctx := within(t, 60*time.Second)
	c, err := b.StartCluster(ctx, bed.ClusterOptions{Servers: 1, TLS: bed.MutualTLS, ACL: true})
	check(t, err)
	host, err := b.NewHost("host-1")
	check(t, err)
	files, err := c.ClientFiles(filepath.Join(host.Dir, "tls"), "client")
	check(t, err)
	server := c.Server(0)
	if server.GRPCPort() != bed.GRPCTLSPort {
		t.Errorf("the gRPC port is %d", server.GRPCPort())
	}

	t.Log("plain HTTP is closed, HTTPS wants a certificate")
	if conn, err := host.DialContext(ctx, "tcp", server.Addr().String()+":8500"); err == nil {
		conn.Close()
		t.Error("plain HTTP is open to others")
	}
	if err := agentSelf(ctx, host, server, files, true); err != nil {
		t.Errorf("with a certificate: %v", err)
	}
	if err := agentSelf(ctx, host, server, files, false); err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("without one: %v", err)
	}

	t.Log("tokens")
	token, err := c.NewToken(ctx, bed.TokenOptions{Services: []string{"web"}})
	check(t, err)
	if n := services(t, server, ""); n != 0 {
		t.Errorf("without a token %d services are seen", n)
	}
	if n := services(t, server, token.SecretID); n != 1 {
		t.Errorf("with the token of a service %d services are seen, want consul", n)
	}
	check(t, c.DeleteToken(ctx, token.AccessorID))
	if _, _, err := server.Client().Catalog().Services(&api.QueryOptions{Token: token.SecretID}); err == nil {
		t.Error("a deleted token is good")
	}

	t.Log("logins")
	login, err := c.NewLogin(ctx, bed.LoginOptions{TokenLifetime: time.Minute})
	check(t, err)
	for _, tt := range []struct {
		lifetime time.Duration
		problem  string
	}{{time.Minute, ""}, {-time.Second, "expired"}} {
		bearer, err := login.Bearer("web", tt.lifetime)
		check(t, err)
		got, _, err := server.Client().ACL().Login(&api.ACLLoginParams{AuthMethod: login.Name, BearerToken: bearer}, nil)
		switch {
		case tt.problem != "":
			if err == nil || !strings.Contains(err.Error(), tt.problem) {
				t.Errorf("login with a bearer of %v: %v", tt.lifetime, err)
			}
		case err != nil:
			t.Errorf("login: %v", err)
		case len(got.ServiceIdentities) != 1 || got.ServiceIdentities[0].ServiceName != "web" || got.ExpirationTime == nil:
			t.Errorf("login gave %+v", got)
		}
	}
	if list, err := c.Tokens(ctx, login.Name); err != nil || len(list) != 1 {
		t.Errorf("%d tokens of logins, %v", len(list), err)
	}

	t.Log("a consul-dataplane is told all of that")
	told := filepath.Join(t.TempDir(), "consul-dataplane")
	check(t, os.WriteFile(told, []byte("#!/bin/sh\necho \"$DP_CREDENTIAL_STATIC_TOKEN\" \"$@\"; command -v envoy\n"), 0o755))
	t.Setenv("DATAPLANE", told)
	proxy := bed.Proxy{ID: "web-sidecar-proxy", Service: "web", NodeName: "host-1-virtual"}
	dp, err := host.StartDataplane(ctx, bed.DataplaneOptions{Cluster: c, Proxy: proxy, Token: "secret", TLS: files})
	check(t, err)
	check(t, dp.Wait(ctx))
	for _, want := range []string{
		"secret -addresses=" + server.Addr().String() + " -grpc-port=8503 ", "-proxy-service-id=web-sidecar-proxy", "-tls-cert=" + files.Cert(), "/envoy",
	} {
		if !strings.Contains(dp.Tail(5000), want) {
			t.Errorf("it is told %s, which lacks %s", dp.Tail(5000), want)
		}
	}

	t.Log("rotation")
	pid := server.Process().PID()
	next, err := pki.NewCA("next")
	check(t, err)
	check(t, c.Trust(ctx, c.CA(), next))
	check(t, c.Reissue(ctx, next))
	if err := agentSelf(ctx, host, server, files, true); err == nil {
		t.Error("a client that does not know the new CA trusts the server")
	}
	check(t, files.Trust(next))
	if err := agentSelf(ctx, host, server, files, true); err != nil {
		t.Errorf("with the new CA, by a certificate of the old one: %v", err)
	}
	check(t, c.Trust(ctx, next))
	if err := agentSelf(ctx, host, server, files, true); err == nil {
		t.Error("a certificate of the old CA is good, though the server no longer trusts it")
	}
	leaf, err := next.Issue(pki.Request{Name: "client"})
	check(t, err)
	check(t, files.Show(leaf))
	if err := agentSelf(ctx, host, server, files, true); err != nil {
		t.Errorf("with a certificate of the new CA: %v", err)
	}
	if server.Process().PID() != pid {
		t.Error("the server was restarted")
	}
}

// agentSelf asks the server over HTTPS, from the host.
func agentSelf(ctx context.Context, from *bed.Host, s *bed.Server, files *pki.Files, show bool) error {
	bundle, err := os.ReadFile(files.CA())
	if err != nil {
		return err
	}
	conf := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: bed.ServerName, MinVersion: tls.VersionTLS12}
	conf.RootCAs.AppendCertsFromPEM(bundle)
	if show {
		pair, err := tls.LoadX509KeyPair(files.Cert(), files.Key())
		if err != nil {
			return err
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	client := &http.Client{Transport: &http.Transport{DialContext: from.DialContext, TLSClientConfig: conf, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+s.Addr().String()+":8501/v1/status/leader", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// services counts what a token may see.
func services(t *testing.T, s *bed.Server, token string) int {
	t.Helper()
	if token == "" {
		token = "anonymous"
	}
	list, _, err := s.Client().Catalog().Services(&api.QueryOptions{Token: token})
	check(t, err)
	return len(list)
}

// The policy that the README gives to operators is the one that tests run with.
func TestPolicyIsTheREADMEs(t *testing.T) {
	root, err := binaries.Root()
	check(t, err)
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	check(t, err)
	if !strings.Contains(string(readme), "```hcl\n"+bed.LictorPolicy+"```\n") {
		t.Error("README.md has another policy; correct the one or the other")
	}
}

func TestProgramsOfAPod(t *testing.T) {
	testenv.Privileged(t)
	testenv.NoLeaks(t)
	b := bed.ForTest(t)
	host, err := b.NewHost("host-1")
	check(t, err)
	pod, err := host.NewPod("web-1")
	check(t, err)
	ctx := within(t, 20*time.Second)
	app, err := pod.StartApp(ctx, bed.AppOptions{})
	check(t, err)
	resp, err := pod.HTTPClient().Get("http://127.0.0.1:8080/")
	check(t, err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || !app.Alive() {
		t.Errorf("the app says %s", resp.Status)
	}
	out, err := pod.Run(ctx, bed.Command{Path: "id", Args: []string{"-u"}, UID: bed.Nobody})
	check(t, err)
	if got := strings.TrimSpace(string(out)); got != "65532" {
		t.Errorf("uid = %s", got)
	}
}
