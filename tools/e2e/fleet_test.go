package e2e

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
	"github.com/lictor-mesh/lictor/tools/testbed/xds"
)

// startFleet registers n proxies with Consul and with lictord, and lets them
// all connect to their VIPs at the same time.
func (w *world) startFleet(n int) *bed.Fleet {
	w.Helper()
	fleet, err := w.host.StartFleet()
	w.must(err)
	proxies := make([]bed.Proxy, n)
	var group errgroup.Group
	group.SetLimit(8)
	for i := range proxies {
		group.Go(func() (err error) {
			id := fmt.Sprintf("%s-web-%d", w.host.Name, i)
			proxies[i], err = w.cluster.Register(w.ctx, bed.Service{Name: "web", ID: id, Node: w.host.Name + "-virtual"})
			return err
		})
	}
	w.must(group.Wait())
	vips := make([]netip.AddrPort, n)
	client := w.lictor.Client()
	defer client.Close()
	for i, p := range proxies {
		group.Go(func() error {
			r, err := client.Register(w.ctx, p.ID, v1.RegisterRequest{NodeName: p.NodeName, Owner: v1.OwnerAny})
			if err == nil {
				vips[i] = netip.AddrPortFrom(netip.MustParseAddr(r.VIP), r.Port)
			}
			return err
		})
	}
	w.must(group.Wait())
	time.Sleep(1500 * time.Millisecond) // servers count proxies, for their limits, once a second
	for i, p := range proxies {
		w.must(fleet.Add(p, vips[i], nil))
	}
	return fleet
}

// limit is how many streams a Consul server takes: Consul's agent/consul/xdscapacity.
func limit(proxies, servers int) int {
	return (proxies*11 + servers*10 - 1) / (servers * 10)
}

// streams adds up the fleets' proxies that are up, by server.
func streams(fleets ...*bed.Fleet) map[netip.AddrPort]int {
	n := map[netip.AddrPort]int{}
	for _, f := range fleets {
		for server, up := range f.Servers() {
			n[server] += up
		}
	}
	return n
}

// refusals counts the streams of a fleet that a server ended for want of
// capacity, from the n-th event on.
func refusals(f *bed.Fleet, n int) (refused int) {
	events, _ := f.Events(n)
	for _, e := range events {
		if e.Kind == xds.Ended && e.Code == codes.ResourceExhausted {
			refused++
		}
	}
	return refused
}

// 300 proxies that start at once get their streams through their VIPs, as many
// from each server as lictord says, and no server has to refuse one.
func TestAFleetStartsWithinTheLimits(t *testing.T) {
	const proxies = 300
	w := newWorld(t, 3, 2*time.Minute)
	fleet := w.startFleet(proxies)
	began := time.Now()
	w.must(fleet.WaitUp(w.ctx, proxies))
	t.Logf("all are up after %v: %v", time.Since(began).Round(time.Millisecond), streams(fleet))
	if n := refusals(fleet, 0); n > 0 {
		t.Errorf("%d streams were refused, want none", n)
	}
	w.isWithinLimits(proxies, 3, fleet)
	placed := loads(w.placements())
	for _, s := range w.cluster.Servers() {
		if got := streams(fleet)[s.XDS()]; got != placed[s.Name] {
			t.Errorf("%s has %d streams, lictord placed %d", s.Name, got, placed[s.Name])
		}
	}
}

// isWithinLimits checks the streams of fleets on so many servers.
func (w *world) isWithinLimits(proxies, servers int, fleets ...*bed.Fleet) {
	w.Helper()
	n := streams(fleets...)
	if len(n) != servers {
		w.Errorf("streams are on %d servers, want %d: %v", len(n), servers, n)
	}
	if most := slices.Max(slices.Collect(maps.Values(n))); most > limit(proxies, servers) {
		w.Errorf("a server has %d streams, its limit is %d: %v", most, limit(proxies, servers), n)
	}
}

// Three hosts that know nothing of each other stay within the limits that
// Consul's servers have for all of them together, when all start at once and
// when a server leaves.
func TestHostsTogetherStayWithinTheLimits(t *testing.T) {
	const hosts, each = 3, 40
	w := newWorld(t, 3, 2*time.Minute)
	worlds := []*world{w}
	for i := 2; i <= hosts; i++ {
		one := *w
		var err error
		one.host, err = w.bed.NewHost(fmt.Sprintf("host-%d", i))
		w.must(err)
		one.startLictor(bed.LictorOptions{Cluster: w.cluster})
		worlds = append(worlds, &one)
	}
	fleets := make([]*bed.Fleet, hosts)
	for i, one := range worlds {
		fleets[i] = one.startFleet(each)
	}
	for _, f := range fleets {
		w.must(f.WaitUp(w.ctx, each))
	}
	t.Logf("streams: %v", streams(fleets...))
	w.isWithinLimits(hosts*each, 3, fleets...)

	gone := w.cluster.Server(0)
	w.must(gone.Remove(w.ctx))
	for _, f := range fleets {
		w.must(f.Wait(w.ctx, "all are up on the two servers", func(all map[string]bed.ProxyState) bool {
			for _, p := range all {
				if !p.Up || p.Server == gone.XDS() {
					return false
				}
			}
			return true
		}))
	}
	t.Logf("streams after %s left: %v", gone.Name, streams(fleets...))
	w.isWithinLimits(hosts*each, 2, fleets...)
}
