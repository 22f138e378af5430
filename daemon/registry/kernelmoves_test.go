package registry

import (
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/state"
)

// kernelMoves does what the kernel does when a proxy's first server refuses or
// fails: it holds it down and connects to the next one.
func (h *host) kernelMoves(id string, why kernel.HoldReason) (to string) {
	h.t.Helper()
	snap := h.snapshot()
	p := snap.State.Proxies[id]
	now := h.maps.Now()
	h.maps.edit(func() {
		h.maps.states[p.Index] = kernel.VIPState{
			LastSlot: snap.Slots[p.Ranked[1]], LastAt: now,
			Holds:    []kernel.Hold{{Slot: snap.Slots[p.Ranked[0]], Reason: why, At: now}},
			Counters: kernel.Counters{Attempted: 2, Established: 2, Closed: 1},
		}
	})
	return p.Ranked[1]
}

func TestKernelMoveIsJournaledOnce(t *testing.T) {
	for why, reason := range map[kernel.HoldReason]state.PlaceReason{
		kernel.HoldBounced: state.PlaceBounced,
		kernel.HoldFailed:  state.PlaceConnectFailed,
	} {
		t.Run(string(reason), func(t *testing.T) {
			on(t, func(t *testing.T, h *host) {
				h.servers("s1", "s2", "s3")
				h.mustRegister("a")
				time.Sleep(time.Second)
				to := h.kernelMoves("a", why)
				h.r.Touch(h.proxy("a").Index)
				time.Sleep(2 * time.Second)
				if n := h.seen.count(reason); n != 0 {
					t.Fatal("journaled before it has settled")
				}
				time.Sleep(1500 * time.Millisecond) // and before a reconcile would find it
				if p := h.proxy("a"); p.Ranked[0] != to || p.Reason != reason || len(p.Ranked) != 3 {
					t.Errorf("placed on %v, %s; the kernel chose %s", p.Ranked, p.Reason, to)
				}
				h.inForce("a")
				time.Sleep(time.Minute)
				if n := h.seen.count(reason); n != 1 {
					t.Errorf("journaled %d times", n)
				}
				if h.drift() != 0 {
					t.Errorf("counted as drift: %v", h.r.Drift())
				}
			})
		})
	}
}

// The event was dropped by the ring: the next reconcile finds the move.
func TestKernelMoveWithoutEvent(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.servers("s1", "s2")
		h.mustRegister("a")
		time.Sleep(time.Second)
		to := h.kernelMoves("a", kernel.HoldFailed)
		time.Sleep(10 * time.Second)
		if p := h.proxy("a"); p.Ranked[0] != to {
			t.Errorf("placed on %v", p.Ranked)
		}
	})
}

// While no daemon ran the kernel moved a proxy, and nobody wrote to the map:
// that its entry is written anew is no drift.
func TestKernelMoveWhileAwayIsNoDrift(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.servers("s1", "s2", "s3")
		h.mustRegister("a", "b")
		time.Sleep(time.Second)
		to := h.kernelMoves("a", kernel.HoldFailed)
		h.stop()
		time.Sleep(time.Minute)
		h.start()
		if p := h.proxy("a"); p.Ranked[0] != to || p.Reason != state.PlaceConnectFailed {
			t.Errorf("placed on %v, %s", p.Ranked, p.Reason)
		}
		h.inForce("a")
		if h.drift() != 0 {
			t.Errorf("counted as drift: %v", h.r.Drift())
		}
	})
}

// While no daemon ran the kernel moved a proxy, and somebody deleted its entry:
// the one is journaled, before the other is repaired.
func TestKernelMoveWhileAway(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.servers("s1", "s2", "s3")
		v := h.mustRegister("a")[0]
		time.Sleep(time.Second)
		to := h.kernelMoves("a", kernel.HoldBounced)
		h.stop()
		h.maps.edit(func() { clear(h.maps.vips) })
		time.Sleep(time.Minute)
		h.start()
		if p := h.proxy("a"); p.Ranked[0] != to || p.Reason != state.PlaceBounced {
			t.Errorf("placed on %v, %s", p.Ranked, p.Reason)
		}
		if p := h.snapshot().Pending; p != 0 {
			t.Errorf("%d facts are not journaled yet", p)
		}
		e, ok := h.entry(v.VIP)
		if !ok || e.Ranked[0].Slot != h.snapshot().Slots[to] {
			t.Errorf("entry %+v", e)
		}
		if d := h.r.Drift()["missing"]; d != 1 {
			t.Errorf("drift %v", h.r.Drift())
		}
	})
}

// Evenness comes back after the kernel's moves, a hundredth at a time.
func TestRebalanceSlowly(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.servers("s1", "s2")
		h.mustRegister(names(100)...)
		time.Sleep(time.Second)
		for id, server := range h.placements() {
			if server == "s1" {
				h.kernelMoves(id, kernel.HoldBounced)
			}
		}
		time.Sleep(8 * time.Second) // found at a reconcile
		if n := h.snapshot().First["s2"]; n != 100 {
			t.Fatalf("%d are on s2", n)
		}
		h.maps.edit(func() {
			for slot, vs := range h.maps.states {
				vs.Holds = nil // s1 works again
				h.maps.states[slot] = vs
			}
		})
		last := h.placements()
		for range 60 {
			time.Sleep(30 * time.Second)
			now := h.placements()
			if n := moved(last, now); n > 1 {
				t.Fatalf("%d moved in half a minute", n)
			}
			last = now
		}
		h.even(100, 2)
	})
}
