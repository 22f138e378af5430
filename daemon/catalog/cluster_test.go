package catalog

import (
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// Three real servers, of which the one that is followed is stopped, then
// another killed, then one more added; with the waits that ship.
func TestRealCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 20 s")
	}
	consul(t)
	b := bed.ForTest(t)
	cluster, err := b.StartCluster(t.Context(), bed.ClusterOptions{Servers: 3})
	if err != nil {
		t.Fatal(err)
	}
	host, err := b.NewHost("host")
	if err != nil {
		t.Fatal(err)
	}
	c := start(t, Config{Addresses: cluster.Addresses(), TLS: TLS{Disabled: true}, Dial: host.DialContext},
		func(tm *timing) { *tm = defaultTiming })
	size := func(n int) {
		t.Helper()
		deadline := time.After(30 * time.Second)
		for {
			select {
			case got := <-c.Updates():
				if len(got) == n {
					return
				}
			case <-deadline:
				t.Fatalf("never %d servers; status %+v", n, c.Status())
			}
		}
	}
	followed := func() *bed.Server {
		t.Helper()
		at := c.Status().Server
		for _, s := range cluster.Servers() {
			if hostPort(s.Addr().String(), 8500) == at {
				return s
			}
		}
		t.Fatalf("follows %q", at)
		return nil
	}
	size(3)

	stopped := followed()
	if err := stopped.Stop(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	eventually(t, c, "another is followed", func(s Status) bool {
		return s.Server != "" && s.Server != hostPort(stopped.Addr().String(), 8500)
	})
	t.Logf("a stopped server was left after %v", time.Since(began).Round(time.Millisecond))
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("a stopped server was left after %v, which is after Consul says that it is dead", took)
	}
	size(2)
	t.Logf("and was out of the set after %v", time.Since(began).Round(time.Millisecond))
	if err := stopped.Cont(); err != nil {
		t.Fatal(err)
	}
	size(3)

	killed := followed()
	if err := killed.Kill(); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	size(2)
	t.Logf("a killed server was out of the set after %v", time.Since(began).Round(time.Millisecond))

	began = time.Now()
	added, err := cluster.AddServer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	size(3)
	t.Logf("%s was in the set %v after its start began", added.Name, time.Since(began).Round(time.Millisecond))
	if s := c.Status(); s.Problem != "" {
		t.Errorf("status %+v", s)
	}
}
