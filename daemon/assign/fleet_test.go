package assign

import (
	"fmt"
	"math"
	"testing"

	"github.com/lictor-mesh/lictor/state"
)

// fleet is 200 hosts of n proxies; ids are the same on all of them, as those of
// a DaemonSet are.
func fleet(n int) []*host {
	var hosts []*host
	for i := range 200 {
		hosts = append(hosts, newHost(fmt.Sprintf("4c4c4544-%04d", i), n))
	}
	return hosts
}

// checkTotals fails when a server's total over the fleet is farther from the
// mean than chance allows, or the greatest from the smallest by more than within.
//
// A server's total is a sum of 200 independent remainders, each one proxy with
// probability r/s, and so has a deviation of sqrt(200·r/s·(1−r/s)), at most
// sqrt(50) = 7.1 proxies whatever n is. Four of them are the bound that holds
// for hosts of few proxies, where 2 % of the total is less than that.
func checkTotals(t *testing.T, hosts []*host, all []Server, rank int, within float64) {
	t.Helper()
	totals := map[string]int{}
	sum := 0
	for _, h := range hosts {
		for id, n := range h.loads(rank) {
			totals[id] += n
			sum += n
		}
	}
	mean := float64(sum) / float64(len(all))
	lo, hi := math.Inf(1), 0.0
	for _, s := range all {
		n := float64(totals[s.ID])
		lo, hi = min(lo, n), max(hi, n)
	}
	t.Logf("rank %d: %v, %.2f %% apart, deviation at most %.0f", rank+1, totals, 100*(hi-lo)/mean, max(hi-mean, mean-lo))
	if within > 0 && (hi-lo)/mean > within {
		t.Errorf("rank %d: totals %v are %.2f %% apart", rank+1, totals, 100*(hi-lo)/mean)
	}
	if rank == 0 && max(hi-mean, mean-lo) > 4*math.Sqrt(50) {
		t.Errorf("totals %v: no chance of independent hosts", totals)
	}
}

func TestFleetIsEven(t *testing.T) {
	abc := servers("consul-0", "consul-1", "consul-2")
	for _, tt := range []struct {
		proxies int
		within  float64 // of each other; 0 where chance alone exceeds 2 %
	}{{1, 0}, {7, 0}, {50, 0.02}, {110, 0.02}} {
		t.Run(fmt.Sprint(tt.proxies), func(t *testing.T) {
			hosts := fleet(tt.proxies)
			for _, h := range hosts {
				h.apply(abc, 0)
			}
			checkTotals(t, hosts, abc, 0, tt.within)
			checkTotals(t, hosts, abc, 1, 3*tt.within)
			checkTotals(t, hosts, abc, 2, 3*tt.within)
		})
	}
}

// A server that comes back, as each does in a rolling upgrade, gets its share
// of the fleet again, also from hosts with less proxies than servers.
func TestFleetAfterRollingRestart(t *testing.T) {
	for _, tt := range []struct {
		proxies int
		within  float64
	}{{1, 0}, {2, 0}, {7, 0}, {50, 0.02}, {110, 0.02}} {
		t.Run(fmt.Sprint(tt.proxies), func(t *testing.T) {
			hosts := fleet(tt.proxies)
			for _, h := range hosts {
				h.apply(servers("a", "b", "c"), 0)
				for _, down := range []string{"a", "b", "c"} {
					var rest, back []Server
					for _, id := range []string{"a", "b", "c"} {
						if id != down {
							rest = append(rest, Server{ID: id})
							back = append(back, Server{ID: id})
							continue
						}
						back = append(back, Server{ID: id, Joining: state.PlaceRebalance})
					}
					h.apply(rest, 0)
					before := h.copy()
					h.apply(back, -1)
					if moved := h.firstMoved(before); moved > (tt.proxies+2)/3 {
						t.Fatalf("%d of %d moved", moved, tt.proxies)
					}
				}
			}
			checkTotals(t, hosts, servers("a", "b", "c"), 0, tt.within)
		})
	}
}

// Hosts whose proxies came one at a time are as even as the others.
func TestFleetRankedOneByOne(t *testing.T) {
	abc := servers("a", "b", "c")
	hosts := fleet(50)
	for _, h := range hosts {
		var loads Loads
		for id := range h.proxies {
			h.proxies[id] = Rank(id, abc, h.seed, &loads)
			loads.Add(h.proxies[id])
		}
	}
	checkTotals(t, hosts, abc, 0, 0.02)
	checkTotals(t, hosts, abc, 1, 0.06)
}
