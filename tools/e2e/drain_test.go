package e2e

import (
	"testing"
	"time"
)

// A drained server has no proxy any more, also after a restart and for proxies
// that come later; when the drain ends it gets its share back.
func TestADrainedServerHasNoProxies(t *testing.T) {
	w := newWorld(t, 3, time.Minute)
	w.registerMany("web", 60)
	before := w.settled("consul-1", "consul-2", "consul-3")
	time.Sleep(time.Second) // a VIP is placed at most once a second

	w.cli("drain", "consul-2")
	after := w.settled("consul-1", "consul-3")
	for _, id := range moved(before, after) {
		if before[id] != "consul-2" {
			t.Errorf("%s moved from %s to %s", id, before[id], after[id])
		}
	}
	w.must(w.lictor.Kill())
	w.must(w.lictor.Start())
	w.must(w.lictor.WaitReady(w.ctx))
	w.registerMany("later", 6)
	after = w.settled("consul-1", "consul-3")
	time.Sleep(time.Second)

	w.cli("undrain", "consul-2")
	again := w.settled("consul-1", "consul-2", "consul-3")
	for _, id := range moved(after, again) {
		if again[id] != "consul-2" {
			t.Errorf("the drain ended, and %s moved from %s to %s", id, after[id], again[id])
		}
	}
	if n := len(moved(after, again)); n != 22 { // a third of 66
		t.Errorf("the drain ended, and %d proxies moved, want 22", n)
	}
}

// A proxy whose server is drained is sent to another.
func TestAConnectAvoidsADrainedServer(t *testing.T) {
	w := newWorld(t, 3, time.Minute)
	m := w.join("web")
	before := w.reaches(m)
	w.cli("drain", before)
	w.eventually(5*time.Second, func() error {
		now := w.assignment(m.proxy.ID).Servers[0].ID
		if now == before {
			return expect("first server", now, "another")
		}
		return w.goesTo(m, now)
	})
	w.cli("undrain", before)
}
