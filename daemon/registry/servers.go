package registry

import (
	"slices"
	"time"

	"github.com/lictor-mesh/lictor/daemon/assign"
	"github.com/lictor-mesh/lictor/daemon/placement"
	"github.com/lictor-mesh/lictor/daemon/reconcile"
	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/state"
)

// applyServers makes the state's servers those that the catalog lists. Slots of
// found are ignored. The map is written before the journal.
func (r *Registry) applyServers(found []state.ServerSpec) {
	listed := make(map[string]bool, len(found))
	for _, spec := range found {
		listed[spec.ID] = true
		old := r.s.Servers[spec.ID]
		if old != nil {
			spec.Slot = old.Slot
			if old.ServerSpec != spec {
				r.decideNow(state.ServerChanged{Server: spec})
			}
			continue
		}
		slot, ok := r.s.NextSlot(spec.ID, kernel.MaxServers-1, nil)
		if !ok {
			r.log.Error("server not used: the kernel's table of servers is full", "server", spec.ID)
			continue
		}
		spec.Slot = slot
		r.decideNow(state.ServerSeen{Server: spec})
		r.join(spec.ID, state.PlaceRebalance)
		r.log.Info("server listed", "server", spec.ID, "addr4", spec.Addr4, "addr6", spec.Addr6, "port", spec.Port)
	}
	for _, id := range r.serverIDs() {
		if !listed[id] {
			r.decideNow(state.ServerGone{ID: id})
			delete(r.joining, id)
			r.log.Info("server no longer listed", "server", id)
		}
	}
	r.afterServers()
}

// drained takes note of a drain that begins or ends.
func (r *Registry) drained(b state.Body) {
	switch b := b.(type) {
	case state.ServerDrained:
		delete(r.joining, b.ID)
	case state.ServerUndrained:
		r.join(b.ID, state.PlaceOperator)
	}
}

// join notes that a server is to have its share.
func (r *Registry) join(id string, why state.PlaceReason) {
	r.joining[id], r.joined = why, r.now()
}

// afterServers places anew what the change of servers moves, and writes every
// entry when the set has changed: the kernel's waits end with it.
func (r *Registry) afterServers() {
	if !r.refreshSet() {
		return
	}
	r.place(-1)
	if err := r.write(r.ids()...); err != nil {
		r.log.Error("servers changed, but the map of VIPs is not written; it is repaired at the next reconcile", "err", err)
	}
}

// refreshSet says whether the servers that may be used have changed.
func (r *Registry) refreshSet() bool {
	set := reconcile.Set(r.s)
	changed := set != r.set
	r.set = set
	return changed
}

// place ranks servers for every proxy that needs it, with at most moves moves
// for evenness (negative: as many as needed). A move takes effect when the
// proxy next connects: live streams are left to the servers' own draining. It
// returns the ids that it placed; their entries are to be written.
func (r *Registry) place(moves int) []string {
	res := assign.Assign(r.proxies(), r.candidates(), r.cfg.Seed, moves)
	if res.Left == 0 {
		clear(r.joining)
	}
	r.unsettled = false
	var ids []string
	for _, c := range res.Changes {
		p := r.s.Proxies[c.ID]
		if len(p.Ranked) > 0 && r.now().Sub(p.Placed) < time.Second {
			r.unsettled = true // one placement per VIP and second; the kernel has its other ranks
			continue
		}
		r.decideNow(state.Placed{ID: c.ID, Ranked: c.Ranked, Reason: c.Reason, At: r.now().UTC()})
		ids = append(ids, c.ID)
	}
	return ids
}

// placeNew ranks servers for proxies that were just registered. Its cost does
// not depend on the number of proxies.
func (r *Registry) placeNew(ids []string) {
	servers := r.candidates()
	for _, id := range ids {
		p := r.s.Proxies[id]
		if p == nil || len(p.Ranked) > 0 {
			continue
		}
		if ranked := assign.Rank(id, servers, r.cfg.Seed, &r.loads); len(ranked) > 0 {
			r.decideNow(state.Placed{ID: id, Ranked: ranked, Reason: state.PlaceInitial, At: r.now().UTC()})
		}
	}
}

// rebalance restores evenness slowly after failures and bounces.
func (r *Registry) rebalance() {
	if r.now().Sub(r.joined) < rebalanceEvery {
		return
	}
	if err := r.write(r.place(max(1, len(r.s.Proxies)/100))...); err != nil {
		r.log.Error("rebalanced, but the map of VIPs is not written; it is repaired at the next reconcile", "err", err)
	}
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

// serverIDs are those listed, sorted, so that the journal's order says nothing
// by chance.
func (r *Registry) serverIDs() []string {
	ids := make([]string, 0, len(r.s.Servers))
	for id := range r.s.Servers {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}
