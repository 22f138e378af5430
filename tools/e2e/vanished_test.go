package e2e

import (
	"strconv"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
	"github.com/lictor-mesh/lictor/tools/testbed/xds"
)

// The host of a Consul server vanishes without a word. Clients that have set a
// keepalive of their own, here Go's of 15 s, would notice late: their
// connections are closed when Consul has taken the server from its list, after
// their VIPs lead elsewhere, so that all of them are up on another server then.
func TestConnectionsToAVanishedHostAreClosed(t *testing.T) {
	const proxies = 9
	w := newWorld(t, 3, time.Minute)
	w.registerAbsent(2 * proxies)
	fleet := w.startFleet(proxies)
	w.must(fleet.WaitUp(w.ctx, proxies))
	leader, err := w.cluster.Leader(w.ctx)
	w.must(err)
	var victim *bed.Server
	for _, s := range w.cluster.Servers() {
		if s != leader {
			victim = s
		}
	}
	served := streams(fleet)[victim.XDS()]
	if served == 0 {
		t.Fatalf("no stream is on %s", victim.Name)
	}
	time.Sleep(4 * time.Second) // what is unanswered at the cut would end a connection in three, by the hook's user timeout
	_, since := fleet.Events(0)

	vanished := time.Now()
	w.must(victim.Partition(bed.Silent))
	w.eventually(20*time.Second, func() error { return w.unlisted(victim.Name) })
	gone := time.Now()
	w.must(fleet.Wait(w.ctx, "all are up elsewhere", func(all map[string]bed.ProxyState) bool {
		for _, p := range all {
			if !p.Up || p.Server == victim.XDS() {
				return false
			}
		}
		return true
	}))
	up := time.Now()
	t.Logf("%s left the list %v after it had vanished, its %d connections were up elsewhere %v later",
		victim.Name, gone.Sub(vanished).Round(time.Millisecond), served, up.Sub(gone).Round(time.Millisecond))
	if late := up.Sub(gone); late > 3*time.Second {
		t.Errorf("the last connection was up elsewhere %v after the server had left the list, want 3s", late)
	}
	events, _ := fleet.Events(since)
	for _, e := range events {
		if e.Kind == xds.Connected && e.Server == victim.XDS().String() {
			t.Errorf("%s connected to it again: the connection was closed before its VIP led elsewhere", e.Proxy)
		}
		if e.Kind == xds.Ended && e.At.Before(gone.Add(-time.Second)) {
			t.Logf("%s: the connection ended %v after the server had vanished, by itself", e.Proxy, e.At.Sub(vanished))
			served--
		}
	}
	if n := w.logged("why=gone connections=" + strconv.Itoa(served)); n != 1 || served <= 0 {
		t.Errorf("that %d connections are closed was logged %d times", served, n)
	}
	if n := w.bounced(); n != 0 {
		t.Errorf("%d connections that lictord closed are counted as refused", n)
	}
}
