package registry

import (
	"context"
	"fmt"
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
}

// Snapshot is the state and what is derived of it, to be read only.
type Snapshot struct {
	State   state.State
	Slots   map[string]uint16 // counters' slot by server id, also of servers that are gone
	Indexes map[uint32]string // proxy ids by VIP slot
	First   map[string]int    // proxies by the server they have first
	Pending int               // placements in force that are not journaled yet
}

// Snapshot copies the state. It costs microseconds for each thousand proxies.
func (r *Registry) Snapshot(ctx context.Context) (Snapshot, error) {
	var snap Snapshot
	done, err := make(chan Snapshot, 1), error(nil)
	err = r.do(ctx, func() {
		s := Snapshot{
			State: r.s.Clone(), Slots: map[string]uint16{}, Indexes: map[uint32]string{},
			First: map[string]int{}, Pending: len(r.pending),
		}
		for slot, id := range r.slots {
			s.Slots[id] = slot
		}
		for index, id := range r.byIndex {
			s.Indexes[index] = id
		}
		for id := range s.Slots {
			s.First[id] = r.loads.First(id)
		}
		done <- s
	})
	if err != nil {
		return snap, err
	}
	return <-done, nil
}

// Views gives the proxies of the given ids, or all for none, in no order.
func (r *Registry) Views(ctx context.Context, ids ...string) ([]View, error) {
	snap, err := r.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	if len(ids) == 0 {
		for id := range snap.State.Proxies {
			ids = append(ids, id)
		}
	}
	slots := make([]uint32, 0, len(ids))
	for _, id := range ids {
		p := snap.State.Proxies[id]
		if p == nil {
			return nil, fmt.Errorf("%w: proxy %s; `lictor proxies` lists them", ErrNotRegistered, id)
		}
		slots = append(slots, p.Index)
	}
	states, err := r.cfg.Maps.VIPStates(slots)
	if err != nil {
		return nil, fmt.Errorf("read what the kernel counted: %w", err)
	}
	now := r.cfg.Maps.Now()
	names := make(map[uint16]string, len(snap.Slots))
	for id, slot := range snap.Slots {
		names[slot] = id
	}
	views := make([]View, 0, len(ids))
	for i, id := range ids {
		views = append(views, r.viewOf(snap.State, snap.State.Proxies[id], states[i], names, now))
	}
	return views, nil
}

// viewOf reads only what is given and what never changes.
func (r *Registry) viewOf(s state.State, p *state.Proxy, vs kernel.VIPState, names map[uint16]string, now time.Duration) View {
	v := View{
		Proxy:    *p,
		Resolved: reconcile.Resolved(p.Owner, r.cfg.BootID),
		Waiting:  placement.Waiting(vs, now),
		Counters: vs.Counters,
	}
	for _, id := range p.Ranked {
		if reconcile.Usable(s, id) {
			v.Servers = append(v.Servers, *s.Servers[id])
		}
	}
	held := placement.Held(vs, names, r.cfg.Hold, now)
	for _, id := range p.Ranked {
		if held[id] != "" {
			v.Held = append(v.Held, id)
		}
	}
	return v
}
