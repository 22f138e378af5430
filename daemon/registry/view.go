package registry

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/lictor-mesh/lictor/daemon/placement"
	"github.com/lictor-mesh/lictor/daemon/reconcile"
	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/state"
)

// View is a proxy as it is now: its assignment and what the kernel counted.
type View struct {
	state.Proxy
	Servers  []state.Server // of Ranked, those that may be used
	Resolved bool           // its owner is known in this boot
	Waiting  bool           // every server has refused it
	Held     []string       // servers passed over now
	Counters kernel.Counters
	Expires  time.Time // of the token of its last login; zero: never, or there was none
}

// Snapshot is the state and what is derived of it. It is shared, and not to be
// written.
type Snapshot struct {
	State   state.State
	Slots   map[string]uint16 // counters' slot by server id, also of servers that are gone
	Indexes map[uint32]string // proxy ids by VIP slot
	First   map[string]int    // proxies by the server they have first
	Pending int               // facts in force that are not journaled yet
}

// Snapshot gives the state. Who asks between two changes gets the same maps, so
// a look each second at ten thousand proxies that stay costs nothing.
func (r *Registry) Snapshot(ctx context.Context) (Snapshot, error) {
	var snap Snapshot
	err := r.do(ctx, func() {
		if r.shared == nil {
			r.shared = snapshotOf(r.s, r.byIndex)
		}
		snap = *r.shared
		snap.Pending = r.pending.len() + r.underway
	})
	return snap, err
}

func snapshotOf(s state.State, byIndex map[uint32]string) *Snapshot {
	snap := &Snapshot{
		State: s.Clone(), Indexes: maps.Clone(byIndex),
		Slots: make(map[string]uint16, len(s.Slots)), First: make(map[string]int, len(s.Servers)),
	}
	for id, t := range s.Slots {
		snap.Slots[id] = t.Slot
	}
	for _, p := range s.Proxies {
		if len(p.Ranked) > 0 {
			snap.First[p.Ranked[0]]++
		}
	}
	return snap
}

// Views gives the proxies of the given ids, or all for none, in no order. It is
// ErrNotRegistered when one of them is not registered.
func (r *Registry) Views(ctx context.Context, ids ...string) ([]View, error) {
	var (
		s       state.State // its servers only
		names   map[uint16]string
		proxies []*state.Proxy // entries of a state are never written
		missing string
	)
	err := r.do(ctx, func() {
		s = state.State{Servers: maps.Clone(r.s.Servers), Drained: maps.Clone(r.s.Drained), Logins: maps.Clone(r.s.Logins)}
		names = maps.Clone(r.slots)
		if len(ids) == 0 {
			ids = r.ids()
		}
		proxies = make([]*state.Proxy, 0, len(ids))
		for _, id := range ids {
			p := r.s.Proxies[id]
			if p == nil {
				missing = id
				return
			}
			proxies = append(proxies, p)
		}
	})
	switch {
	case err != nil:
		return nil, err
	case missing != "":
		return nil, fmt.Errorf("%w: proxy %s; `lictor proxies` lists them", ErrNotRegistered, missing)
	}
	slots := make([]uint32, len(proxies))
	for i, p := range proxies {
		slots[i] = p.Index
	}
	states, err := r.cfg.Maps.VIPStates(slots)
	if err != nil {
		return nil, fmt.Errorf("read what the kernel counted: %w", err)
	}
	now := r.cfg.Maps.Now()
	last := lastLogins(s.Logins)
	views := make([]View, len(proxies))
	for i, p := range proxies {
		v, vs := r.viewOf(s, p), states[i]
		v.Waiting, v.Counters = placement.Waiting(vs, now), vs.Counters
		v.Expires = last[p.ID].Expires
		held := placement.Held(vs, names, r.cfg.Hold, now)
		for _, id := range p.Ranked {
			if held[id] != "" {
				v.Held = append(v.Held, id)
			}
		}
		views[i] = v
	}
	return views, nil
}

// viewOf is the part of a view that the state knows. It reads nothing of r but
// its configuration.
func (r *Registry) viewOf(s state.State, p *state.Proxy) View {
	v := View{Proxy: *p, Resolved: reconcile.Resolved(p.Owner, r.cfg.BootID)}
	for _, id := range p.Ranked {
		if reconcile.Usable(s, id) {
			v.Servers = append(v.Servers, *s.Servers[id])
		}
	}
	return v
}

// lastLogins gives the last login of each proxy.
func lastLogins(all map[string]state.LoginRecord) map[string]state.LoginRecord {
	last := make(map[string]state.LoginRecord, len(all))
	for _, l := range all {
		if was, ok := last[l.ProxyID]; !ok || l.Since.After(was.Since) {
			last[l.ProxyID] = l
		}
	}
	return last
}
