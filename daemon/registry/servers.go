package registry

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/lictor-mesh/lictor/daemon/reconcile"
	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/state"
)

// applyServers makes the state's servers those that the catalog lists. Slots of
// found are ignored. The map is written before the journal. An empty list is
// not applied: it says that Consul could not be read, and not that there is none.
func (r *Registry) applyServers(found []state.ServerSpec) {
	if len(found) == 0 {
		r.log.Warn("empty list of servers ignored: those known before stay in use")
		return
	}
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
		slot, ok := r.freeSlot(spec.ID)
		if !ok {
			continue
		}
		spec.Slot = slot
		r.decideNow(state.ServerSeen{Server: spec, At: r.now().UTC()})
		r.join(spec.ID, state.PlaceRebalance)
		r.log.Info("server listed", "server", spec.ID, "addr4", spec.Addr4, "addr6", spec.Addr6, "port", spec.Port)
	}
	for _, id := range r.serverIDs() {
		if !listed[id] {
			r.decideNow(state.ServerGone{ID: id, At: r.now().UTC()})
			delete(r.joining, id)
			r.log.Info("server no longer listed", "server", id)
		}
	}
	// The kernel's waits end with the set, so every entry is written.
	if r.refreshSet() {
		r.place(-1)
		if err := r.write(r.ids()...); err != nil {
			r.log.Error("servers changed, but the map of VIPs is not written; it is tried again in a second", "err", err)
		}
	}
}

// freeSlot finds a slot for a server that is listed: its own, or one on which no
// socket counts, as new. Only after a thousand servers it is one that another had.
func (r *Registry) freeSlot(id string) (slot uint16, ok bool) {
	var sockets []kernel.Socket
	var err error
	walk := sync.OnceFunc(func() { sockets, err = r.cfg.Maps.Sockets() })
	busy := func(slot uint16) bool {
		if _, had := r.slots[slot]; !had {
			return false
		}
		walk()
		return err != nil || slices.ContainsFunc(sockets, func(s kernel.Socket) bool { return s.Slot == slot })
	}
	slot, ok = r.s.NextSlot(id, uint16(kernel.MaxServers-1), busy)
	if former, had := r.slots[slot]; ok && had && former != id {
		r.pending.moved = true
		err = r.cfg.Maps.ResetServer(slot)
	}
	switch {
	case err != nil:
		r.log.Error("server not used: its place in the kernel's table of servers is not to be had; it is tried again when Consul's list changes", "server", id, "err", err)
		return 0, false
	case !ok:
		r.log.Error("server not used: the kernel's table of servers is full", "server", id)
	}
	return slot, ok
}

// Drain moves proxies away from a server and keeps them away, or ends that.
// It is ErrNotRegistered for a server that was never seen.
func (r *Registry) Drain(ctx context.Context, id, by string, drained bool) error {
	return r.submit(ctx, &promise{
		subject: " " + id, // which is no proxy's id
		decide: func(*batch) ([]state.Body, error) {
			if _, seen := r.s.Slots[id]; !seen {
				return nil, fmt.Errorf("%w: server %s was never seen on this host; `lictor servers` lists them", ErrNotRegistered, id)
			}
			was, is := r.s.Drained[id]
			switch {
			case drained && is && fleetWide(was.By) && !fleetWide(by):
				// The operator's own wish outlives the fleet's.
				return []state.Body{state.ServerUndrained{ID: id, By: by}, state.ServerDrained{ID: id, By: by}}, nil
			case !drained && is && fleetWide(by) && !fleetWide(was.By):
				return nil, nil // it became the operator's since the fleet looked
			case is == drained:
				return nil, nil
			case drained:
				return []state.Body{state.ServerDrained{ID: id, By: by}}, nil
			default:
				return []state.Body{state.ServerUndrained{ID: id, By: by}}, nil
			}
		},
	})
}

// fleetWide says whether a drain came from the fleet, by who asked for it.
func fleetWide(by string) bool { return strings.HasPrefix(by, "fleet: ") }

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

// refreshSet says whether the servers that may be used have changed.
func (r *Registry) refreshSet() bool {
	set := reconcile.Set(r.s)
	changed := set != r.set
	r.set = set
	return changed
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
