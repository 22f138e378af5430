package registry

import (
	"net/netip"
	"slices"
	"time"

	"github.com/lictor-mesh/lictor/daemon/reconcile"
	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/state"
)

// subject names what an event is about: a proxy by its id, a server with a
// space before, which no id has.
func subject(b state.Body) string {
	switch b := b.(type) {
	case state.ServerSeen:
		return serverSubject(b.Server.ID)
	case state.ServerChanged:
		return serverSubject(b.Server.ID)
	case state.ServerGone:
		return serverSubject(b.ID)
	case state.ServerDrained:
		return serverSubject(b.ID)
	case state.ServerUndrained:
		return serverSubject(b.ID)
	default:
		return b.ProxyID()
	}
}

func serverSubject(id string) string { return " " + id }

// fold applies one event, and keeps what is derived from the state.
func (r *Registry) fold(e state.Event) {
	id := e.Body.ProxyID()
	if p := r.s.Proxies[id]; p != nil {
		r.loads.Remove(p.Ranked)
		delete(r.byIndex, p.Index)
	}
	r.s = state.Fold(r.s, e)
	if p := r.s.Proxies[id]; p != nil {
		r.loads.Add(p.Ranked)
		r.byIndex[p.Index] = id
	}
	if b, ok := e.Body.(state.ServerSeen); ok {
		r.slots[b.Server.Slot] = b.Server.ID
	}
}

// decideNow brings a decision that is not a promise into force: it is folded now,
// written by the caller, and journaled soon.
func (r *Registry) decideNow(b state.Body) {
	e := state.Event{Time: r.now().UTC(), Body: b}
	r.fold(e)
	if p, ok := b.(state.Placed); ok {
		r.cfg.Observer.Placed(p.Reason)
	}
	r.pend(e)
}

// pend queues an event to be journaled. An older one of the same subject that
// waits still has been overtaken, and is forgotten: a disk that is full for
// long must not fill the memory.
func (r *Registry) pend(e state.Event) {
	about := subject(e.Body)
	r.pending = slices.DeleteFunc(r.pending, func(old state.Event) bool {
		return subject(old.Body) == about
	})
	r.pending = append(r.pending, e)
	if r.flushAt.IsZero() {
		r.flushAt = r.now().Add(flushWithin)
	}
}

// leaving gives the entries to delete when b is a deregistration. Call it
// before fold.
func (r *Registry) leaving(b state.Body) []kernel.VIPKey {
	left, ok := b.(state.ProxyDeregistered)
	if !ok {
		return nil
	}
	p := r.s.Proxies[left.ID]
	if p == nil {
		return nil
	}
	var keys []kernel.VIPKey
	for _, addr := range []netip.Addr{p.VIP, p.VIP6} {
		if addr.IsValid() {
			keys = append(keys, r.der.Key(addr))
		}
	}
	return keys
}

// write writes the entries of the given proxies as the state has them now.
// What fails is found again, and repaired, by reconcile.
func (r *Registry) write(ids ...string) error {
	if len(ids) == 0 {
		return nil
	}
	slices.Sort(ids)
	var vips []kernel.VIP
	for _, id := range slices.Compact(ids) {
		if p := r.s.Proxies[id]; p != nil {
			vips = append(vips, r.der.Desired(r.s, p, r.set)...)
		}
	}
	return r.cfg.Maps.PutVIPs(vips)
}

// desired gives every entry that the map must have.
func (r *Registry) desired() []kernel.VIP {
	vips := make([]kernel.VIP, 0, 2*len(r.s.Proxies))
	for _, p := range r.s.Proxies {
		vips = append(vips, r.der.Desired(r.s, p, r.set)...)
	}
	return vips
}

// reconcile repairs what differs between the map and the state, and journals
// the kernel's own moves, also those of which the ring buffer lost the event.
func (r *Registry) reconcile() {
	began := time.Now()
	if err := r.moves(r.allSlots()); err != nil {
		r.log.Warn("kernel's moves not read, next try at the next reconcile", "err", err)
	}
	actual, err := r.cfg.Maps.VIPs()
	if err != nil {
		r.log.Error("map of VIPs not read, next try at the next reconcile", "err", err)
		return
	}
	changes := reconcile.Diff(r.desired(), actual)
	r.stats.reconciled(changes.Drift)
	r.cfg.Observer.Reconciled(time.Since(began))
	if changes.Empty() {
		r.drifting = false
		return
	}
	if !r.drifting {
		r.log.Warn("map of VIPs differed from the state and is repaired; did something else write to the pinned maps?",
			"put", len(changes.Put), "deleted", len(changes.Delete))
	}
	r.drifting = true
	if err := r.repair(changes); err != nil {
		r.log.Error("map of VIPs not repaired, next try at the next reconcile", "err", err)
	}
}

// repair puts before it deletes, so that nothing desired is missing meanwhile.
func (r *Registry) repair(c reconcile.Changes) error {
	if err := r.cfg.Maps.PutVIPs(c.Put); err != nil {
		return err
	}
	return r.cfg.Maps.DeleteVIPs(c.Delete)
}
