// Package placement reads what the kernel decided by itself: which server a
// VIP really uses after a failure or a bounce, and which ones it passes over.
// It decides nothing; the registry journals what is found here.
package placement

import (
	"slices"
	"time"

	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/state"
)

// Settled is how long a connection must have lasted before the kernel's choice
// counts as one: longer than the kernel's bounce window.
const Settled = 3 * time.Second

// Move is a choice of the kernel that the state does not have yet.
type Move struct {
	Ranked []string // the server in use first, the others in their former order
	Reason state.PlaceReason
}

// Moved says whether the kernel has moved a proxy to another server than the
// first of its placement, and stays there. slots names the server of each
// slot. now and placed, when the placement was made, are on CLOCK_MONOTONIC,
// like the times of vs.
func Moved(p *state.Proxy, vs kernel.VIPState, slots map[uint16]string, now, placed time.Duration) (Move, bool) {
	used, ok := elsewhere(p, vs, slots, placed)
	if !ok || vs.Counters.Active() == 0 || now-vs.LastAt < Settled {
		return Move{}, false
	}
	ranked := []string{used}
	for _, id := range p.Ranked {
		if id != used {
			ranked = append(ranked, id)
		}
	}
	return Move{Ranked: ranked, Reason: why(p.Ranked[0], vs, slots)}, true
}

// Unsettled says whether Moved may soon say yes: the last connect went
// elsewhere and is too young to tell.
func Unsettled(p *state.Proxy, vs kernel.VIPState, slots map[uint16]string, now, placed time.Duration) bool {
	_, ok := elsewhere(p, vs, slots, placed)
	return ok && now-vs.LastAt < 2*Settled
}

// elsewhere gives the server of the last connect when it is ranked, but not
// first. A connection older than the placement says nothing: the proxy was
// placed elsewhere while it lived, and goes there when it connects again. Nor
// does a connect that failed or was refused: the next one goes elsewhere.
func elsewhere(p *state.Proxy, vs kernel.VIPState, slots map[uint16]string, placed time.Duration) (string, bool) {
	used, ok := slots[vs.LastSlot]
	if !ok || vs.LastAt < placed || len(p.Ranked) == 0 || used == p.Ranked[0] || !slices.Contains(p.Ranked, used) {
		return "", false
	}
	for _, h := range vs.Holds {
		if h.Slot == vs.LastSlot && h.Reason != kernel.HoldNone && h.At >= vs.LastAt {
			return "", false
		}
	}
	return used, true
}

// why finds the hold-down that made the kernel pass over a server. A server
// that refused a connect of another VIP is held down for all of them, and not
// in this one's words.
func why(id string, vs kernel.VIPState, slots map[uint16]string) state.PlaceReason {
	for _, h := range vs.Holds {
		if slots[h.Slot] == id && h.Reason == kernel.HoldBounced {
			return state.PlaceBounced
		}
	}
	return state.PlaceConnectFailed
}

// Held gives the servers that a VIP's connects pass over now, by id; hold says
// for how long each reason counts.
func Held(vs kernel.VIPState, slots map[uint16]string, hold func(kernel.HoldReason) time.Duration, now time.Duration) map[string]state.PlaceReason {
	var ids map[string]state.PlaceReason
	for _, h := range vs.Holds {
		id, ok := slots[h.Slot]
		if !ok || h.Reason == kernel.HoldNone || now-h.At >= hold(h.Reason) {
			continue
		}
		if ids == nil {
			ids = map[string]state.PlaceReason{}
		}
		ids[id] = state.PlaceConnectFailed
		if h.Reason == kernel.HoldBounced {
			ids[id] = state.PlaceBounced
		}
	}
	return ids
}

// Waiting says that the VIP waits for capacity: every server has refused it,
// and it has no connection.
func Waiting(vs kernel.VIPState, now time.Duration) bool {
	return vs.Counters.Active() == 0 && vs.WaitUntil > 0 && vs.WaitUntil+waitMemory > now
}

// waitMemory bridges the moment between the end of a wait and the refusal that
// begins the next one; an Envoy tries again within two seconds.
const waitMemory = 4 * time.Second
