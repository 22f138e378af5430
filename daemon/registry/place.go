package registry

import (
	"slices"
	"time"

	"github.com/lictor-mesh/lictor/daemon/assign"
	"github.com/lictor-mesh/lictor/daemon/placement"
	"github.com/lictor-mesh/lictor/daemon/reconcile"
	"github.com/lictor-mesh/lictor/kernel"
)

// place ranks servers for every proxy that needs it, with at most moves moves
// for evenness (negative: as many as needed). A move takes effect when the
// proxy next connects: live streams are left to the servers' own draining. It
// returns the ids that it placed; their entries are to be written.
func (r *Registry) place(moves int) []string {
	res := assign.Assign(r.proxies(), r.candidates(), r.cfg.Seed, moves)
	r.settleAt = 0
	var ids []string
	for _, c := range res.Changes {
		p := r.s.Proxies[c.ID]
		if age := r.age(p.Placed); age < placeEvery {
			r.putOff(placeEvery-age, moves)
			continue
		}
		r.decidePlacement(c.ID, c.Ranked, c.Reason)
		ids = append(ids, c.ID)
	}
	switch {
	case res.Left > 0 && len(r.joining) > 0:
		// A server that was away for a moment is held down still by those that
		// it failed. It gets its share once that has ended.
		r.putOff(joinEvery, -1)
	case res.Left == 0 && r.settleAt == 0:
		clear(r.joining)
	}
	return ids
}

// putOff has a placement decided again later, when its VIP may be placed
// again. The kernel has its other ranks meanwhile.
func (r *Registry) putOff(wait time.Duration, moves int) {
	r.settleAt = max(r.settleAt, r.clock()+wait)
	r.settleMoves = moves
}

// settle decides what was put off.
func (r *Registry) settle() {
	if r.settleAt == 0 || r.clock() < r.settleAt {
		return
	}
	r.placeAndWrite(r.settleMoves)
}

// rebalance restores evenness slowly after failures and bounces.
func (r *Registry) rebalance() {
	if r.age(r.joined) >= rebalanceEvery {
		r.placeAndWrite(max(1, len(r.s.Proxies)/100))
	}
}

func (r *Registry) placeAndWrite(moves int) {
	if err := r.write(r.place(moves)...); err != nil {
		r.log.Error("placed anew, but the map of VIPs is not written; it is tried again in a second", "err", err)
	}
}

// rank ranks servers for one more proxy. Its cost does not depend on the number
// of proxies.
func (r *Registry) rank(id string) []string {
	return assign.Rank(id, r.candidates(), r.cfg.Seed, &r.loads)
}

// candidates are the servers that assign may give out.
func (r *Registry) candidates() []assign.Server {
	out := make([]assign.Server, 0, len(r.s.Servers))
	for id := range r.s.Servers {
		out = append(out, assign.Server{ID: id, Drained: !reconcile.Usable(r.s, id), Joining: r.joining[id]})
	}
	return out
}

// proxies are what assign decides on, with what the kernel knows of each.
func (r *Registry) proxies() []assign.Proxy {
	slots := r.allSlots()
	states, err := r.cfg.Maps.VIPStates(slots)
	if err != nil {
		r.log.Warn("hold-downs not read: servers are given out as if none were held", "err", err)
	}
	held := make(map[uint32]kernel.VIPState, len(states))
	for _, vs := range states {
		held[vs.Slot] = vs
	}
	now := r.cfg.Maps.Now()
	out := make([]assign.Proxy, 0, len(r.s.Proxies))
	for id, p := range r.s.Proxies {
		vs := held[p.Index]
		out = append(out, assign.Proxy{
			ID: id, Ranked: p.Ranked,
			Held:    placement.Held(vs, r.slots, r.cfg.Hold, now),
			Waiting: placement.Waiting(vs, now),
		})
	}
	return out
}

func (r *Registry) allSlots() []uint32 {
	slots := make([]uint32, 0, len(r.byIndex))
	for index := range r.byIndex {
		slots = append(slots, index)
	}
	slices.Sort(slots)
	return slots
}

func (r *Registry) ids() []string {
	ids := make([]string, 0, len(r.s.Proxies))
	for id := range r.s.Proxies {
		ids = append(ids, id)
	}
	return ids
}
