package registry

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/state"
)

// fold folds one event, and keeps what is derived from the state.
func (r *Registry) fold(e state.Event) {
	id := e.Body.ProxyID()
	if p := r.s.Proxies[id]; p != nil {
		r.loads.Remove(p.Ranked)
		delete(r.byIndex, p.Index)
		r.own(p.Owner, -1)
		r.left[p.Index] = r.clock()
	}
	r.s, r.shared = state.Fold(r.s, e), nil
	if p := r.s.Proxies[id]; p != nil {
		r.loads.Add(p.Ranked)
		r.byIndex[p.Index] = id
		r.own(p.Owner, 1)
		delete(r.left, p.Index)
	}
	if b, ok := e.Body.(state.ServerSeen); ok {
		r.slots[b.Server.Slot] = b.Server.ID
	}
}

// own counts a proxy of an owner, or takes it back.
func (r *Registry) own(o state.Owner, n int) {
	o = forKernel(o)
	if r.owned[o] += n; r.owned[o] == 0 {
		delete(r.owned, o)
	}
}

// decideNow brings a fact that is not a promise into force: it is folded now,
// written by the caller, and journaled soon. It is folded without a time, as
// the state's own is that of the journal; b carries when it came into force.
func (r *Registry) decideNow(b state.Body) {
	r.fold(state.Event{Body: b})
	r.pending.add(b, r.now())
}

// decidePlacement places a registered proxy.
func (r *Registry) decidePlacement(id string, ranked []string, why state.PlaceReason) {
	r.decideNow(state.Placed{ID: id, Ranked: ranked, Reason: why, At: r.now().UTC()})
	r.cfg.Observer.Placed(why)
}

// clock is the kernel's, CLOCK_MONOTONIC: how long something takes or rests is
// told by it, as the wall clock may be set.
func (r *Registry) clock() time.Duration { return r.cfg.Maps.Now() }

// age says how long ago t, of the journal or of this process, was. When the clock
// was set back since then, nobody knows: long ago, or what waits for t to be past
// would wait for as long.
func (r *Registry) age(t time.Time) time.Duration {
	if d := r.now().Sub(t); d >= 0 {
		return d
	}
	return math.MaxInt64
}

// keys gives the keys of the entries of a proxy.
func (r *Registry) keys(p *state.Proxy) []kernel.VIPKey {
	var keys []kernel.VIPKey
	for _, addr := range []netip.Addr{p.VIP, p.VIP6} {
		if addr.IsValid() {
			keys = append(keys, r.der.Key(addr))
		}
	}
	return keys
}

// write writes the entries of the given proxies as the state has them now.
// Those that are not registered any more are passed over.
func (r *Registry) write(ids ...string) error {
	if len(ids) == 0 {
		return nil
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	vips := make([]kernel.VIP, 0, 2*len(ids))
	for _, id := range ids {
		if p := r.s.Proxies[id]; p != nil {
			vips = append(vips, r.der.Desired(r.s, p, r.set)...)
		}
	}
	return r.written(r.cfg.Maps.PutVIPs(vips))
}

// remove deletes entries.
func (r *Registry) remove(keys []kernel.VIPKey) error {
	if len(keys) == 0 {
		return nil
	}
	return r.written(r.cfg.Maps.DeleteVIPs(keys))
}

// written takes note of a write that failed: nothing that depends on the map is
// answered before a reconcile has brought it in line.
func (r *Registry) written(err error) error {
	if err != nil {
		r.unwritten = true
		return fmt.Errorf("write the map of VIPs: %w", err)
	}
	return nil
}

// setMeta records in the kernel how far the journal was when the map was written.
func (r *Registry) setMeta() error {
	r.meta = kernel.Meta{Journal: r.cfg.JournalUUID, LastPromise: r.s.Seq}
	return r.written(r.cfg.Maps.SetMeta(r.meta))
}
