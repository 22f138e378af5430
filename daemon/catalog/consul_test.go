package catalog

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/tools/testbed/lone"
)

// lenient lets everybody do what no token forbids.
const lenient = `acl { default_policy = "allow" }`

// A real Consul: its server is found, one added to the catalog is handed on at
// once, one whose node check is critical is not listed any more; with ACLs that
// deny everything nothing is taken away.
func TestRealConsul(t *testing.T) {
	consul := lone.Launch(t, lenient)
	c := start(t, Config{Addresses: consul.HTTP, TLS: TLS{Disabled: true}, Dial: dialLoopback}, func(tm *timing) { tm.wait = time.Minute })
	var got []Server
	select {
	case got = <-c.Updates():
	case <-time.After(30 * time.Second):
		t.Fatalf("no server; status %+v", c.Status())
	}
	if len(got) != 1 || got[0].ID != lone.Node || netip.AddrPortFrom(got[0].Addr4, got[0].Port).String() != consul.GRPC || got[0].Version == "" {
		t.Fatalf("servers %+v", got)
	}

	put := func(check string) {
		t.Helper()
		body := fmt.Sprintf(`{"Node":"second","Address":"127.0.0.2","Service":{"Service":"consul","ID":"consul",
			"Meta":{"grpc_port":"8502","version":"1.20.1","read_replica":"true"}},
			"Check":{"CheckID":"serfHealth","Name":"Serf","Status":%q}}`, check)
		consul.Put("/v1/catalog/register", body, nil)
	}
	failed := c.Status().Errors // while Consul was starting
	put("passing")
	began := time.Now()
	want(t, c, lone.Node, "second")
	if took := time.Since(began); took > 100*time.Millisecond {
		t.Errorf("handed on %v after it was registered", took)
	} else {
		t.Logf("handed on %v after it was registered", took)
	}
	put("critical")
	want(t, c, lone.Node)
	if s := c.Status(); s.Errors != failed || s.Problem != "" {
		t.Errorf("changes were taken for trouble: %d errors before them, status %+v", failed, s)
	}

	// A token without rights reads an empty list.
	token := tokenFile(t, consul, "none", `service_prefix "" {policy="deny"} node_prefix "" {policy="deny"}`)
	denied := start(t, Config{Addresses: consul.HTTP, TLS: TLS{Disabled: true}, TokenFile: token, Dial: dialLoopback})
	s := eventually(t, denied, "filtered", func(s Status) bool { return s.Problem != "" })
	if !strings.Contains(s.Problem, "ACLs hide servers") {
		t.Errorf("problem %q", s.Problem)
	}
	none(t, denied)
	// The stream is for any valid token, but not for none.
	streamOfRealConsul(t, consul.GRPC, token)
}

// tokenFile is the file of a token that has these rights.
func tokenFile(t *testing.T, s *lone.Server, name, rules string) string {
	t.Helper()
	_, secret := s.NewToken(name, rules)
	file := filepath.Join(t.TempDir(), "token")
	writeFile(t, file, secret)
	return file
}
