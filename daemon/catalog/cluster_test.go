package catalog

import (
	"context"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
	"github.com/lictor-mesh/lictor/tools/testbed/lone"
)

// Three real servers, of which the one that is followed is stopped and goes on,
// and one more added; with the waits that ship.
func TestRealCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 20 s")
	}
	lone.Consul(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	b := bed.ForTest(t)
	cluster, err := b.StartCluster(ctx, bed.ClusterOptions{Servers: 3})
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
	if err := cluster.WaitServers(ctx, 2); err != nil { // as its leader lists them
		t.Fatal(err)
	}
	published := time.Now()
	size(2)
	if s := c.Status(); s.Server == hostPort(stopped.Addr().String(), 8500) {
		t.Errorf("follows the stopped server: %+v", s)
	}
	t.Logf("Consul's leader listed two after %v, and we %v later",
		published.Sub(began).Round(time.Millisecond), time.Since(published).Round(time.Millisecond))
	if took := time.Since(published); took > 3*time.Second {
		t.Errorf("the smaller set came %v after Consul had it", took)
	}
	if err := stopped.Cont(); err != nil {
		t.Fatal(err)
	}
	size(3)
	if _, err := cluster.AddServer(ctx); err != nil {
		t.Fatal(err)
	}
	size(4)
	if s := c.Status(); s.Problem != "" {
		t.Errorf("status %+v", s)
	}
}
