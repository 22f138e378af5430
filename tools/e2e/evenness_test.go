package e2e

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// registerMany registers n proxies with lictord for anybody on the host, and
// returns their ids.
func (w *world) registerMany(prefix string, n int) []string {
	w.Helper()
	client := w.lictor.Client()
	defer client.Close()
	ids := make([]string, n)
	var group errgroup.Group
	group.SetLimit(16)
	for i := range ids {
		ids[i] = fmt.Sprintf("%s-%d-sidecar-proxy", prefix, i)
		group.Go(func() error {
			_, err := client.Register(w.ctx, ids[i], v1.RegisterRequest{NodeName: w.host.Name + "-virtual", Owner: v1.OwnerAny})
			return err
		})
	}
	w.must(group.Wait())
	return ids
}

// placements is each proxy's first server, "" for none.
func (w *world) placements() map[string]string {
	w.Helper()
	client := w.lictor.Client()
	defer client.Close()
	list, err := client.Proxies(w.ctx)
	w.must(err)
	first := map[string]string{}
	for _, p := range list {
		first[p.ProxyID] = ""
		if len(p.Servers) > 0 {
			first[p.ProxyID] = p.Servers[0].ID
		}
	}
	return first
}

// loads counts proxies by their first server.
func loads(first map[string]string) map[string]int {
	n := map[string]int{}
	for _, server := range first {
		n[server]++
	}
	return n
}

// even is an error unless all proxies are placed on exactly these servers, and
// the loads differ by at most one.
func even(first map[string]string, servers ...string) error {
	n := loads(first)
	if have := slices.Sorted(maps.Keys(n)); !slices.Equal(have, slices.Sorted(slices.Values(servers))) {
		return fmt.Errorf("proxies are on %v, not on %v", n, servers)
	}
	counts := slices.Collect(maps.Values(n))
	if slices.Max(counts)-slices.Min(counts) > 1 {
		return fmt.Errorf("loads are %v", n)
	}
	return nil
}

// settled waits until the placements are even over the servers.
func (w *world) settled(servers ...string) map[string]string {
	w.Helper()
	var first map[string]string
	w.eventually(20*time.Second, func() error {
		first = w.placements()
		return even(first, servers...)
	})
	return first
}

// status is what lictord says of itself.
func (w *world) status() v1.Status {
	w.Helper()
	client := w.lictor.Client()
	defer client.Close()
	st, err := client.Status(w.ctx)
	w.must(err)
	return st
}

// moved are the proxies whose first server differs.
func moved(before, after map[string]string) (ids []string) {
	for id, server := range before {
		if after[id] != server {
			ids = append(ids, id)
		}
	}
	return ids
}

// 300 proxies are spread evenly. A server that leaves moves its own proxies and
// no others; one that joins moves no more than evenness needs. The same when
// lictord was dead meanwhile; and a restart moves nothing at all.
func TestServersComeAndGoEvenly(t *testing.T) {
	const proxies = 300
	w := newWorld(t, 3, 3*time.Minute)
	w.registerMany("web", proxies)
	now := w.settled("consul-1", "consul-2", "consul-3")

	// kill ends lictord with -9, when what it decided is in the journal: that
	// takes up to a second, and what is lost before is decided again.
	kill := func() {
		t.Helper()
		w.eventually(3*time.Second, func() error { return expect("number of facts not journaled", w.status().Journal.Pending, 0) })
		w.must(w.lictor.Kill())
	}
	start := func() {
		t.Helper()
		w.must(w.lictor.Start())
		w.must(w.lictor.WaitReady(w.ctx))
	}
	unmoved := func(stage string) {
		t.Helper()
		kill()
		start()
		for range 2 { // at once, and when the catalog has been heard
			if ids := moved(now, w.placements()); len(ids) > 0 {
				t.Errorf("%s: a restart moved %d proxies", stage, len(ids))
			}
			time.Sleep(time.Second)
		}
	}
	removed := func(s *bed.Server) {
		t.Helper()
		w.must(s.Remove(w.ctx))
		w.must(w.cluster.WaitServers(w.ctx, len(w.cluster.Servers())))
	}
	left := func(s *bed.Server, rest ...string) {
		t.Helper()
		after := w.settled(rest...)
		for _, id := range moved(now, after) {
			if now[id] != s.Name {
				t.Errorf("%s left: %s moved from %s to %s", s.Name, id, now[id], after[id])
			}
		}
		now = after
	}
	joined := func(s *bed.Server, all ...string) {
		t.Helper()
		after := w.settled(all...)
		for _, id := range moved(now, after) {
			if after[id] != s.Name {
				t.Errorf("%s joined: %s moved from %s to %s", s.Name, id, now[id], after[id])
			}
		}
		most := (proxies + len(all) - 1) / len(all)
		if n := len(moved(now, after)); n > most {
			t.Errorf("%s joined: %d proxies moved, evenness needs %d", s.Name, n, most)
		}
		now = after
	}
	unmoved("three servers")

	gone := w.cluster.Server(0)
	w.must(gone.Kill()) // and never comes back
	removed(gone)
	left(gone, "consul-2", "consul-3")
	unmoved("one left")

	s, err := w.cluster.AddServer(w.ctx)
	w.must(err)
	joined(s, "consul-2", "consul-3", "consul-4")
	unmoved("one joined")

	t.Log("and while lictord is dead")
	kill()
	if s, err = w.cluster.AddServer(w.ctx); err != nil {
		t.Fatal(err)
	}
	start()
	joined(s, "consul-2", "consul-3", "consul-4", "consul-5")

	kill()
	gone = w.cluster.Server(0)
	removed(gone) // which leaves in order: the newer servers do not vote yet
	start()
	left(gone, "consul-3", "consul-4", "consul-5")
	unmoved("one left and one joined while it was dead")
}
