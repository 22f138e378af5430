package e2e

import (
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
	"github.com/lictor-mesh/lictor/tools/testbed/xds"
)

// One of three servers is killed under a fleet of 60, balanced and so without
// room: each survivor takes 22 of the 30 that it will have to, until Consul no
// longer counts the dead one. From then on the rest must not wait long, with
// lictord or without.
func TestAFleetFailsOverWhenConsulAdmitsIt(t *testing.T) {
	for _, tc := range []struct {
		name   string
		do     func(*bed.Lictor) error
		within time.Duration // of Consul publishing two ready servers
	}{
		{"lictord alive", func(*bed.Lictor) error { return nil }, 3 * time.Second},
		{"lictord dead", (*bed.Lictor).Kill, 3 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			const proxies = 60
			w := newWorld(t, 3, 2*time.Minute)
			fleet := w.startFleet(proxies)
			w.must(fleet.WaitUp(w.ctx, proxies))
			w.isWithinLimits(proxies, 3, fleet)
			time.Sleep(3 * time.Second) // so that no server's hold-down or window of bounces is left

			leader, err := w.cluster.Leader(w.ctx)
			w.must(err)
			victim := w.cluster.Server(0)
			if victim == leader {
				victim = w.cluster.Server(1)
			}
			w.must(tc.do(w.lictor))
			_, since := fleet.Events(0)
			killed := time.Now()
			w.must(victim.Kill())
			publishes := make(chan time.Time, 1)
			go func() {
				waitReadyServers(w.ctx, leader, 2)
				publishes <- time.Now()
			}()
			w.must(fleet.Wait(w.ctx, "the dead server's streams have ended", func(all map[string]bed.ProxyState) bool {
				for _, p := range all {
					if p.Up && p.Server == victim.XDS() {
						return false
					}
				}
				return true
			}))
			if err := fleet.WaitUp(w.ctx, proxies); err != nil {
				t.Fatal(err)
			}
			up := time.Now()
			published := <-publishes
			t.Logf("Consul publishes two ready servers after %v, all are up after %v: %v",
				published.Sub(killed).Round(time.Millisecond), up.Sub(killed).Round(time.Millisecond), streams(fleet))
			if late := up.Sub(published); late > tc.within {
				t.Errorf("the last proxy is up %v after Consul published two ready servers, want %v", late, tc.within)
			}
			w.isWithinLimits(proxies, 2, fleet)
			connects := 0
			events, _ := fleet.Events(since)
			for _, e := range events {
				if e.Kind == xds.Connected {
					connects++
				}
			}
			t.Logf("%d connects by 20 proxies, of which %d were refused", connects, refusals(fleet, since))
		})
	}
}
