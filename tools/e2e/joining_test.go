package e2e

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
	"github.com/lictor-mesh/lictor/tools/testbed/xds"
)

// Sixty proxies are on three servers when a fourth joins. Each server then ends
// what it has above its new limit, and the streams go where there is room: all
// settle within the limits, no more move than have to, and then nobody moves.
// What the servers refused on the way is counted and journaled, and the
// placements are even again.
func TestStreamsSettleWhenAServerJoins(t *testing.T) {
	const proxies = 60
	w := newWorld(t, 3, 3*time.Minute)
	fleet := w.startFleet(proxies)
	w.must(fleet.WaitUp(w.ctx, proxies))
	w.isWithinLimits(proxies, 3, fleet)
	time.Sleep(3 * time.Second) // so that no window of bounces is left
	_, since := fleet.Events(0)
	before := streams(fleet)

	joined, err := w.cluster.AddServer(w.ctx)
	w.must(err)
	began := time.Now()
	most := limit(proxies, 4)
	w.must(fleet.Wait(w.ctx, "all are up within the limits of four servers", func(all map[string]bed.ProxyState) bool {
		n := map[string]int{}
		for _, p := range all {
			if !p.Up {
				return false
			}
			n[p.Server.String()]++
		}
		return len(n) == 4 && slices.Max(slices.Collect(maps.Values(n))) <= most
	}))
	settled := time.Since(began)
	events, next := fleet.Events(since)
	after := streams(fleet)
	lost := lost(events)
	moves := 0
	for id, n := range lost {
		if moves += n; n > 2 { // the second time by a server that had not heard of the fourth yet
			t.Errorf("%s lost its stream %d times", id, n)
		}
	}
	refused := refusals(fleet, since) - moves
	t.Logf("%s joined: from %v to %v in %v; %d streams moved, %d attempts were refused",
		joined.Name, before, after, settled.Round(100*time.Millisecond), moves, refused)
	if settled > 30*time.Second {
		t.Errorf("streams settled after %v, want 30s", settled)
	}
	// At 60 proxies a server ends one stream a second, and may end one more than
	// it had to before it counts again.
	least := proxies - 3*most
	if moves < least || moves > least+6 {
		t.Errorf("%d streams moved, %d had to", moves, least)
	}

	time.Sleep(8 * time.Second) // for the daemon to have placed what bounced, which has to settle first
	uneven := placedMost(w.placements())
	time.Sleep(16 * time.Second) // longer than a server that refused is held down
	if events, _ := fleet.Events(next); len(ended(events)) > 0 {
		t.Errorf("and then streams ended: %v", ended(events))
	}
	w.isWithinLimits(proxies, 4, fleet)
	w.eventually(5*time.Second, func() error { return w.sameStreams(fleet) })
	if n := int(w.bounced()); n != refused {
		t.Errorf("%d bounces are counted, %d connects were refused", n, refused)
	}
	now := placedMost(w.placements())
	t.Logf("%d proxies are placed on one server, %d when the streams had settled", now, uneven)
	if now > uneven {
		t.Error("the placements become less even when nothing happens any more")
	}
}

// placedMost is how many proxies are placed on the server that has most.
func placedMost(first map[string]string) int {
	return slices.Max(slices.Collect(maps.Values(loads(first))))
}

// lost counts how often each proxy lost a stream that was up.
func lost(events []xds.Event) map[string]int {
	n, up := map[string]int{}, map[string]bool{}
	for _, e := range events {
		switch e.Kind {
		case xds.Connected:
			up[e.Proxy] = false
		case xds.Up:
			up[e.Proxy] = true
		case xds.Ended:
			if was, known := up[e.Proxy]; was || !known {
				n[e.Proxy]++
			}
			up[e.Proxy] = false
		}
	}
	return n
}

// ended are the streams that ended, by proxy and reason.
func ended(events []xds.Event) (all []string) {
	for _, e := range events {
		if e.Kind == xds.Ended {
			all = append(all, fmt.Sprintf("%s: %v", e.Proxy, e.Code))
		}
	}
	return all
}

// sameStreams is an error unless lictord counts each server's streams as they are.
func (w *world) sameStreams(fleets ...*bed.Fleet) error {
	is := streams(fleets...)
	for _, s := range w.cluster.Servers() {
		if n := int(w.countsOf(s.Name).Active); n != is[s.XDS()] {
			return fmt.Errorf("%s has %d streams, lictord counts %d", s.Name, is[s.XDS()], n)
		}
	}
	return nil
}
