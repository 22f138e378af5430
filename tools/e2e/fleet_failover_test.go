package e2e

import (
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
	"github.com/lictor-mesh/lictor/tools/testbed/xds"
)

// One of three servers is killed under a fleet of 60, balanced and so without
// room: each survivor takes 22 of the 30 that it will have to, until Consul no
// longer counts the dead one. As many as that admits are up again at once, and
// the rest must not wait long from then on, with lictord or without.
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
			before := streams(fleet)
			room := 2*limit(proxies, 3) - (proxies - before[victim.XDS()])
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
			connects, atOnce := 0, 0
			events, _ := fleet.Events(since)
			for _, e := range events {
				switch {
				case e.Kind == xds.Connected:
					connects++
				case e.Kind == xds.Up && e.At.Sub(killed) <= 500*time.Millisecond:
					atOnce++
				}
			}
			t.Logf("%d connects by %d proxies, of which %d were refused; %d were up again at once",
				connects, before[victim.XDS()], refusals(fleet, since), atOnce)
			if atOnce < room {
				t.Errorf("%d proxies were up again within 500ms, the servers' limits admit %d", atOnce, room)
			}
		})
	}
}
