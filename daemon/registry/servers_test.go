package registry

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/daemon/reconcile"
	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/state"
)

// even fails the test unless the loads of the first ranks differ by at most one.
func (h *host) even(proxies, servers int) {
	h.t.Helper()
	low, high, sum := proxies, 0, 0
	snap := h.snapshot()
	first := map[string]int{}
	for id := range snap.State.Servers {
		if !reconcile.Usable(snap.State, id) {
			continue
		}
		n := snap.First[id]
		first[id] = n
		low, high, sum = min(low, n), max(high, n), sum+n
	}
	if high-low > 1 || sum != proxies || len(first) != servers {
		h.t.Errorf("%d proxies on %d servers: %v", proxies, servers, first)
	}
}

// placements is where every proxy is placed.
func (h *host) placements() map[string]string {
	h.t.Helper()
	out := map[string]string{}
	for id, p := range h.snapshot().State.Proxies {
		if len(p.Ranked) > 0 {
			out[id] = p.Ranked[0]
		}
	}
	return out
}

func moved(before, after map[string]string) int {
	n := 0
	for id, server := range after {
		if before[id] != server {
			n++
		}
	}
	return n
}

func TestEvenness(t *testing.T) {
	for _, first := range []string{"servers", "proxies"} {
		t.Run(first+" first", func(t *testing.T) {
			on(t, func(t *testing.T, h *host) {
				if first == "servers" {
					h.servers("s1", "s2", "s3")
				}
				h.mustRegister(names(300)...)
				if first == "proxies" {
					h.servers("s1", "s2", "s3")
				}
				h.even(300, 3)
				before := h.placements()
				h.restart()
				h.servers("s1", "s2", "s3")
				h.settle()
				if n := moved(before, h.placements()); n != 0 {
					t.Errorf("a restart moved %d", n)
				}

				onS2 := h.snapshot().First["s2"]
				h.servers("s1", "s3")
				h.even(300, 2)
				left := h.placements()
				if n := moved(before, left); n != onS2 {
					t.Errorf("s2 had %d, its end moved %d", onS2, n)
				}
				h.settle()
				h.servers("s1", "s2", "s3")
				h.settle()
				h.even(300, 3)
				if n := moved(left, h.placements()); n != 100 {
					t.Errorf("its return moved %d", n)
				}
			})
		})
	}
}

// A server that joins just after the proxies has its share soon, and not at the
// pace of rebalancing.
func TestJoinAfterRegistrations(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.servers("s1", "s2")
		h.mustRegister(names(300)...)
		h.servers("s1", "s2", "s3")
		for _, id := range names(300) { // at once, though it is too early to place them again
			if e := h.inForce(id); len(e.Ranked) != 3 {
				t.Fatalf("%s: s3 is not in the map: %+v", id, e.Ranked)
			}
		}
		time.Sleep(2 * time.Second)
		h.even(300, 3)
	})
}

// One placement a VIP and second, and what was put off is not forgotten.
func TestOnePlacementASecond(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.servers("s1", "s2", "s3")
		h.mustRegister(names(30)...)
		for _, set := range [][]string{{"s1", "s2"}, {"s1", "s2", "s4"}, {"s4"}, {"s1", "s2", "s3", "s4"}, {"s2", "s3", "s4"}} {
			h.servers(set...)
			for _, id := range names(30) {
				if e, _ := h.entry(h.proxy(id).VIP); len(e.Ranked) == 0 {
					t.Errorf("%s: no server of %v is in the map", id, set)
				}
			}
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(3 * time.Second)
		h.even(30, 3)
		last := map[string]time.Time{}
		err := h.disk.Read(0, func(e state.Event) error {
			p, ok := e.Body.(state.Placed)
			if !ok {
				return nil
			}
			at := e.Time
			if !p.At.IsZero() {
				at = p.At
			}
			if d := at.Sub(last[p.ID]); d < time.Second {
				t.Errorf("%s placed twice within %s", p.ID, d)
			}
			last[p.ID] = at
			if e.Time.Sub(at) > time.Second {
				t.Errorf("%s: journaled %s late", p.ID, e.Time.Sub(at))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestServerChanges(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.servers("s1", "s2")
		h.mustRegister("a")
		before := h.inForce("a")
		list := specs("s1", "s2")
		list[0].Port, list[1].Port = 9001, 9002
		h.settle()
		h.r.SetServers(list)
		h.settle()
		e := h.inForce("a")
		if e.Set == before.Set || e.Ranked[0].Addr.Port() < 9000 || e.Ranked[0].Slot != before.Ranked[0].Slot {
			t.Errorf("entry %+v, was %+v", e, before)
		}
		writes := h.maps.puts
		list[0].Version = "1.21.0" // nothing that the kernel knows
		h.r.SetServers(list)
		h.settle()
		if h.maps.puts != writes {
			t.Errorf("%d entries written for a new version", h.maps.puts-writes)
		}
		if v := h.snapshot().State.Servers["s1"].Version; v != "1.21.0" {
			t.Errorf("version %s", v)
		}
		h.r.SetServers(nil) // what could not be read is not applied
		h.settle()
		if e := h.inForce("a"); len(e.Ranked) != 2 {
			t.Errorf("entry after an empty list: %+v", e)
		}
		h.servers("s3")
		slots := h.snapshot().Slots
		h.settle()
		h.servers("s1", "s2", "s3")
		for id, slot := range h.snapshot().Slots {
			if slots[id] != slot {
				t.Errorf("%s came back with slot %d, had %d", id, slot, slots[id])
			}
		}
	})
}

// A server that comes and goes, or comes and changes, before the journal was
// written is there as it was after a restart.
func TestServersBeforeTheFlush(t *testing.T) {
	s1 := specs("s1")[0]
	changed := s1
	changed.Port = 9999
	for name, steps := range map[string][][]state.ServerSpec{
		"seen, changed":       {{s1}, {changed}},
		"seen, gone":          {{s1}, specs("s2")},
		"seen, gone, seen":    {{s1}, specs("s2"), {s1}},
		"seen, changed, gone": {{s1}, {changed}, specs("s2")},
	} {
		t.Run(name, func(t *testing.T) {
			on(t, func(t *testing.T, h *host) {
				h.mustRegister("a")
				for _, list := range steps {
					h.r.SetServers(list)
					time.Sleep(time.Millisecond)
				}
			}) // stop compares
		})
	}
}

func TestDrain(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.servers("s1", "s2", "s3")
		h.mustRegister(names(30)...)
		h.settle()
		if err := h.r.Drain(t.Context(), "s9", "uid 0", true); !errors.Is(err, ErrNotRegistered) {
			t.Errorf("a server never seen: %v", err)
		}
		if err := h.r.Drain(t.Context(), "s1", "uid 0", true); err != nil {
			t.Fatal(err)
		}
		h.even(30, 2)
		slot := h.snapshot().Slots["s1"]
		for _, id := range names(30) {
			for _, b := range h.inForce(id).Ranked {
				if b.Slot == slot {
					t.Fatalf("%s may still go to s1", id)
				}
			}
		}
		if n := h.seen.count(state.PlaceOperator); n != 30 {
			t.Errorf("%d placements by the operator", n) // 10 left it, 20 lost it as a further rank
		}
		before := h.journal.count()
		if err := h.r.Drain(t.Context(), "s1", "uid 0", true); err != nil || h.journal.count() != before {
			t.Errorf("drained again: %v", err)
		}
		h.settle()
		h.servers("s2", "s3") // a drain outlives the listing
		h.restart()
		h.servers("s1", "s2", "s3")
		h.settle()
		h.even(30, 2)
		if err := h.r.Drain(t.Context(), "s1", "uid 0", false); err != nil {
			t.Fatal(err)
		}
		h.settle()
		h.even(30, 3)
	})
}

// A server that is one too many for the kernel's table gets the slot of one that
// is gone and that no socket counts on, as new.
func TestSlotsOfServersThatAreGone(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		var all []string
		for n := 1; n < kernel.MaxServers; n++ {
			all = append(all, fmt.Sprintf("s%04d", n))
		}
		h.servers(all...)
		h.servers(all[1:]...) // the first goes, and then the second
		time.Sleep(time.Second)
		h.servers(all[2:]...)
		slots := h.snapshot().Slots
		h.maps.edit(func() { h.maps.sockets = []kernel.Socket{{Slot: slots["s0001"]}} })
		h.servers(append(all[2:], "new")...)
		var cleared []uint16
		h.maps.edit(func() { cleared = slices.Clone(h.maps.cleared) })
		if s := h.snapshot().State.Servers["new"]; s == nil || s.Slot != slots["s0002"] || !slices.Equal(cleared, []uint16{s.Slot}) {
			t.Errorf("the new one is %+v; %d were cleared", s, cleared)
		}
		h.servers(append(all[2:], "new", "another")...)
		if s := h.snapshot().State.Servers["another"]; s != nil {
			t.Errorf("a slot that sockets count on was given away: %+v", s)
		}
	})
}

// A drain of the host's own takes the place of one of the fleet's, and outlives
// it; one of the fleet's takes nobody's place. No proxy is placed for either.
func TestDrainsOfHostAndFleet(t *testing.T) {
	const fleet = "fleet: uid 0 on host-2"
	on(t, func(t *testing.T, h *host) {
		h.servers("s1", "s2", "s3")
		h.mustRegister(names(30)...)
		h.settle()
		drain := func(by, want string) {
			t.Helper()
			if err := h.r.Drain(t.Context(), "s1", by, true); err != nil {
				t.Fatal(err)
			}
			h.settle()
			if got := h.snapshot().State.Drained["s1"].By; got != want {
				t.Errorf("drained by %q, want %q", got, want)
			}
		}
		drain(fleet, fleet)
		h.even(30, 2)
		placed := h.seen.count(state.PlaceOperator)
		drain("uid 0", "uid 0")
		drain(fleet, "uid 0")
		h.restart()
		drain("uid 1", "uid 0")
		// The fleet ends what it saw, which has become the host's own meanwhile.
		if err := h.r.Drain(t.Context(), "s1", "fleet: no longer wanted", false); err != nil {
			t.Fatal(err)
		}
		drain("uid 1", "uid 0")
		if n := h.seen.count(state.PlaceOperator); n != placed {
			t.Errorf("%d placements more", n-placed)
		}
		h.even(30, 2)
	})
}

// A server that was away for less than the hold-downs of those that it failed
// has its share when these end, and not at the pace of rebalancing.
func TestJoinWhileHeldDown(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.servers("s1", "s2", "s3")
		h.mustRegister(names(90)...)
		time.Sleep(time.Second)
		for id, server := range h.placements() {
			if server == "s1" {
				h.kernelMoves(id, kernel.HoldFailed)
			}
		}
		h.servers("s2", "s3")
		time.Sleep(4 * time.Second)
		h.servers("s1", "s2", "s3")
		time.Sleep(time.Second)
		if n := h.snapshot().First["s1"]; n != 0 {
			t.Fatalf("%d are sent to a server that they hold down", n)
		}
		time.Sleep(13 * time.Second) // the hold-downs have ended
		h.even(90, 3)
	})
}
