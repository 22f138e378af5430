package registry

import (
	"context"
	"fmt"

	"github.com/lictor-mesh/lictor/daemon/placement"
	"github.com/lictor-mesh/lictor/daemon/reconcile"
	"github.com/lictor-mesh/lictor/state"
)

// Doing is what a proxy is doing, the most pressing thing of all that it does.
type Doing int

// What proxies do.
const (
	Idle      Doing = iota // nothing is connected
	Connected              // at least one connection is established
	Waiting                // every server has refused it
	NoServer               // none may be used
	NoOwner                // its owner is not on the host, its VIP denies
	doings
)

// Doing says what a proxy was doing when it was viewed.
func (v View) Doing() Doing {
	return doing(v.Resolved, v.Counters.Active() > 0, len(v.Servers) > 0, v.Waiting)
}

func doing(resolved, connected, server, waiting bool) Doing {
	switch {
	case !resolved:
		return NoOwner
	case connected:
		return Connected
	case !server:
		return NoServer
	case waiting:
		return Waiting
	}
	return Idle
}

// Tally counts proxies by what they are doing.
type Tally [doings]int

// Tally counts the proxies. It costs a fraction of what their views do, for
// those who ask again and again.
func (r *Registry) Tally(ctx context.Context) (Tally, error) {
	var (
		tally   Tally
		proxies []*state.Proxy // entries of a state are never written
		usable  map[string]bool
	)
	err := r.do(ctx, func() {
		proxies = make([]*state.Proxy, 0, len(r.s.Proxies))
		for _, p := range r.s.Proxies {
			proxies = append(proxies, p)
		}
		usable = make(map[string]bool, len(r.s.Servers))
		for id := range r.s.Servers {
			usable[id] = reconcile.Usable(r.s, id)
		}
	})
	if err != nil {
		return tally, err
	}
	slots := make([]uint32, len(proxies))
	for i, p := range proxies {
		slots[i] = p.Index
	}
	states, err := r.cfg.Maps.VIPStates(slots)
	if err != nil {
		return tally, fmt.Errorf("read what the kernel counted: %w", err)
	}
	now := r.cfg.Maps.Now()
	for i, p := range proxies {
		server := false
		for _, id := range p.Ranked {
			server = server || usable[id]
		}
		vs := states[i]
		tally[doing(reconcile.Resolved(p.Owner, r.cfg.BootID), vs.Counters.Active() > 0, server, placement.Waiting(vs, now))]++
	}
	return tally, nil
}
