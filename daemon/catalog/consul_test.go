package catalog

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/tools/testbed/binaries"
)

// consul is the path of a real one. Where none was built it is built if tests
// must not be skipped, for it takes minutes.
func consul(t *testing.T) string {
	t.Helper()
	if os.Getenv("REQUIRE_PRIVILEGED") != "1" {
		root, err := binaries.Root()
		if err != nil {
			t.Fatal(err)
		}
		_, missing := os.Stat(filepath.Join(root, ".cache", "bin", "consul"))
		if _, err := exec.LookPath("consul"); err != nil && missing != nil && os.Getenv("CONSUL") == "" {
			t.Skip("needs Consul: not on PATH, and not built by tools/testbed")
		}
	}
	path, err := binaries.Consul(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// ports are free ones of 127.0.0.1, at this moment.
func ports(t *testing.T, n int) []any {
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

// A real Consul: its server is found, one added to the catalog is handed on at
// once, one whose node check is critical is not listed any more; with ACLs that
// deny everything nothing is taken away.
func TestRealConsul(t *testing.T) {
	binary := consul(t)
	dir := t.TempDir()
	p := ports(t, 6)
	writeFile(t, filepath.Join(dir, "consul.hcl"), fmt.Sprintf(`
		ports { http = %d  grpc = %d  server = %d  serf_lan = %d  serf_wan = %d  grpc_tls = %d  dns = -1 }
		disable_update_check = true
		performance { raft_multiplier = 1 }
		acl { enabled = true  default_policy = "allow"
		      tokens { initial_management = "11111111-2222-3333-4444-555555555555" } }
	`, p...))
	runConsul(t, binary, dir)

	addr := fmt.Sprintf("127.0.0.1:%d", p[0])
	c := start(t, Config{Addresses: addr, TLS: TLS{Disabled: true}, Dial: dialLoopback}, func(tm *timing) { tm.wait = time.Minute })
	var got []Server
	select {
	case got = <-c.Updates():
	case <-time.After(30 * time.Second):
		t.Fatalf("no server; status %+v", c.Status())
	}
	if len(got) != 1 || got[0].ID != "first" || int(got[0].Port) != p[1] || got[0].Addr4.String() != "127.0.0.1" || got[0].Version == "" {
		t.Fatalf("servers %+v", got)
	}

	put := func(check string) {
		t.Helper()
		body := fmt.Sprintf(`{"Node":"second","Address":"127.0.0.2","Service":{"Service":"consul","ID":"consul",
			"Meta":{"grpc_port":"8502","version":"1.20.1","read_replica":"true"}},
			"Check":{"CheckID":"serfHealth","Name":"Serf","Status":%q}}`, check)
		call(t, addr, "/v1/catalog/register", body)
	}
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	failed := c.Status().Errors // while Consul was starting
	put("passing")
	began := time.Now()
	want(t, c, "first", "second")
	if took := time.Since(began); took > 100*time.Millisecond {
		t.Errorf("handed on %v after it was registered", took)
	} else {
		t.Logf("handed on %v after it was registered", took)
	}
	put("critical")
	want(t, c, "first")
	if s := c.Status(); s.Errors != failed || s.Problem != "" {
		t.Errorf("changes were taken for trouble: %d errors before them, status %+v", failed, s)
	}

	// A token without rights reads an empty list.
	token := deniedToken(t, addr)
	denied := start(t, Config{Addresses: addr, TLS: TLS{Disabled: true}, TokenFile: token, Dial: dialLoopback})
	s := eventually(t, denied, "filtered", func(s Status) bool { return s.Problem != "" })
	if !strings.Contains(s.Problem, "ACLs hide servers") {
		t.Errorf("problem %q", s.Problem)
	}
	none(t, denied)
	// The stream is for any valid token, but not for none.
	streamOfRealConsul(t, p[1], token)
}

// runConsul runs a lone server, with the configuration in dir, until the test's
// end.
func runConsul(t *testing.T, binary, dir string) {
	t.Helper()
	var log bytes.Buffer
	cmd := exec.Command(binary, "agent", "-server", "-bootstrap-expect=1", "-node=first", "-bind=127.0.0.1",
		"-data-dir="+filepath.Join(dir, "data"), "-config-dir="+dir)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		if t.Failed() {
			t.Logf("consul says:\n%s", log.String())
		}
	})
}

// deniedToken is the file of a token that may read nothing.
func deniedToken(t *testing.T, addr string) string {
	t.Helper()
	const secret = "99999999-2222-3333-4444-555555555555"
	call(t, addr, "/v1/acl/policy",
		`{"Name":"none","Rules":"service_prefix \"\" {policy=\"deny\"} node_prefix \"\" {policy=\"deny\"}"}`)
	call(t, addr, "/v1/acl/token", `{"SecretID":"`+secret+`","Policies":[{"Name":"none"}]}`)
	file := filepath.Join(t.TempDir(), "token")
	writeFile(t, file, secret)
	return file
}

func call(t *testing.T, addr, path, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+addr+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Consul-Token", "11111111-2222-3333-4444-555555555555")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", path, resp.Status)
	}
}
