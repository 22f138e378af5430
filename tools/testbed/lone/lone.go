// Package lone starts one real Consul server on loopback addresses, with ACLs
// that deny by default, for tests which are about tokens and need no network
// of their own.
package lone

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/tools/testbed/binaries"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// Management is the token that may do everything.
const Management = "11111111-2222-3333-4444-555555555555"

// Server is a running Consul server; it ends with its test.
type Server struct {
	HTTP    string // host:port
	GRPC    string // host:port, plain text
	GRPCTLS string // host:port, where the configuration has certificates for it

	t      testing.TB
	client *http.Client
}

// Node is what the server is called in its catalog.
const Node = "lone"

// Start starts a server and waits until it has a leader. Without a Consul the
// test is skipped, or fails with REQUIRE_PRIVILEGED=1. extra is HCL, laid over the
// server's configuration.
func Start(t testing.TB, extra ...string) *Server {
	t.Helper()
	s := Launch(t, extra...)
	s.Wait()
	return s
}

// Launch is Start without the wait, for tests of what comes before there is a
// server to speak to.
func Launch(t testing.TB, extra ...string) *Server {
	t.Helper()
	binary := Consul(t)
	dir := t.TempDir()
	p := ports(t, 6)
	config := fmt.Sprintf(`
		ports { http = %d  grpc = %d  server = %d  serf_lan = %d  serf_wan = %d  grpc_tls = %d  dns = -1 }
		disable_update_check = true
		performance { raft_multiplier = 1 }
		acl { enabled = true  default_policy = "deny"  tokens { initial_management = %q  agent = %q } }
	`, p[0], p[1], p[2], p[3], p[4], p[5], Management, Management)
	for name, content := range map[string]string{
		"consul.hcl": config,
		"extra.hcl":  strings.Join(extra, "\n"), // read after it, and what is in both is this one's
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log := &buffer{}
	cmd := exec.Command(binary, "agent", "-server", "-bootstrap-expect=1", "-node="+Node, "-bind=127.0.0.1",
		"-data-dir="+filepath.Join(dir, "data"), "-config-dir="+dir)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &Server{
		HTTP: fmt.Sprintf("127.0.0.1:%d", p[0]), GRPC: fmt.Sprintf("127.0.0.1:%d", p[1]), GRPCTLS: fmt.Sprintf("127.0.0.1:%d", p[5]),
		t: t, client: &http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second},
	}
	t.Cleanup(func() {
		s.client.CloseIdleConnections()
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		if t.Failed() {
			t.Logf("consul says:\n%s", log)
		}
	})
	return s
}

// Wait returns when the server has a leader.
func (s *Server) Wait() {
	s.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		var self struct{ AccessorID string }
		if err := s.call(http.MethodGet, "/v1/acl/token/self", nil, &self); err == nil && self.AccessorID != "" {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatal("no leader")
		}
	}
}

// Put makes a request that changes something, as an operator; body may be a
// string of JSON, or what becomes JSON, and into is for the answer, or nil.
func (s *Server) Put(path string, body, into any) {
	s.t.Helper()
	if err := s.call(http.MethodPut, path, body, into); err != nil {
		s.t.Fatal(err)
	}
}

// Delete deletes something, as an operator.
func (s *Server) Delete(path string) {
	s.t.Helper()
	if err := s.call(http.MethodDelete, path, nil, nil); err != nil {
		s.t.Fatal(err)
	}
}

// Token is an ACL token as an operator sees it.
type Token struct {
	AccessorID, Description, AuthMethod string
	SecretID                            string
	ExpirationTime                      time.Time
}

// Logins lists the tokens that auth methods issued and that still exist.
func (s *Server) Logins() []Token {
	s.t.Helper()
	var all []Token
	if err := s.call(http.MethodGet, "/v1/acl/tokens", nil, &all); err != nil {
		s.t.Fatal(err)
	}
	var logins []Token
	for _, token := range all {
		if token.AuthMethod != "" {
			logins = append(logins, token)
		}
	}
	return logins
}

// NewToken makes a token with service and node rights by an ACL rule text, and
// returns its accessor and secret.
func (s *Server) NewToken(name, rules string) (accessor, secret string) {
	s.t.Helper()
	s.Put("/v1/acl/policy", map[string]any{"Name": name, "Rules": rules}, nil)
	var made Token
	s.Put("/v1/acl/token", map[string]any{"Policies": []map[string]string{{"Name": name}}}, &made)
	return made.AccessorID, made.SecretID
}

// Register puts a service with a sidecar proxy into the catalog, on a node that
// has no agent.
func (s *Server) Register(node, service string) (proxyID string) {
	s.t.Helper()
	proxyID = service + "-1-sidecar-proxy"
	s.Put("/v1/catalog/register", map[string]any{
		"Node": node, "Address": "127.0.0.9", "SkipNodeUpdate": false,
		"Service": map[string]any{"ID": service + "-1", "Service": service, "Port": 9090},
	}, nil)
	s.Put("/v1/catalog/register", map[string]any{
		"Node": node, "Address": "127.0.0.9",
		"Service": map[string]any{
			"ID": proxyID, "Service": service + "-sidecar-proxy", "Kind": "connect-proxy", "Port": 20000,
			"Proxy": map[string]any{
				"DestinationServiceName": service, "DestinationServiceID": service + "-1",
				"LocalServiceAddress": "127.0.0.1", "LocalServicePort": 9090,
			},
		},
	}, nil)
	return proxyID
}

func (s *Server) call(method, path string, body, into any) error {
	var raw []byte
	var err error
	switch body := body.(type) {
	case nil:
	case string:
		raw = []byte(body)
	default:
		if raw, err = json.Marshal(body); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(context.Background(), method, "http://"+s.HTTP+path, bytes.NewReader(raw))
	if err != nil {
		return err
	}
	req.Header.Set("X-Consul-Token", Management)
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, answer)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(answer, into)
}

// Consul is the path of a real one. Where none was built the test is skipped,
// but with REQUIRE_PRIVILEGED=1 it is built, which takes minutes.
func Consul(t testing.TB) string {
	t.Helper()
	if !testenv.Required() {
		root, err := binaries.Root()
		if err != nil {
			t.Fatal(err)
		}
		_, missing := os.Stat(filepath.Join(root, ".cache", "bin", "consul"))
		if _, err := exec.LookPath("consul"); err != nil && missing != nil && os.Getenv("CONSUL") == "" {
			t.Skip("needs Consul: not on PATH, and not built by tools/testbed")
		}
	}
	path, err := binaries.Consul(context.Background(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// ports are free ones of 127.0.0.1, at this moment.
func ports(t testing.TB, n int) []any {
	t.Helper()
	var all []any
	var held []net.Listener // until all are known, so that none comes twice
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, l)
		all = append(all, l.Addr().(*net.TCPAddr).Port)
	}
	for _, l := range held {
		_ = l.Close()
	}
	return all
}

// buffer is written by a process while the test may read it.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
