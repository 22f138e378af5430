package registry

import (
	"context"
	"fmt"

	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/state"
)

// Request asks for a VIP.
type Request struct {
	ID, Node, Namespace, Partition string
	Owner                          state.Owner
	// OwnerGone says whether a former owner is gone from the host; it is asked
	// when the proxy is registered with another one.
	OwnerGone func(state.Owner) bool
	// Override lets a new owner replace one that is still there.
	Override bool
}

// Register promises a VIP. The same request again answers the same VIP. What it
// returns has no counters.
func (r *Registry) Register(ctx context.Context, req Request) (View, error) {
	var v View
	err := r.submit(ctx, &promise{
		subject: req.ID,
		decide: func(b *batch) ([]state.Body, error) {
			if p := r.s.Proxies[req.ID]; p != nil {
				return r.reregister(p, req)
			}
			reg, err := r.grant(b, req)
			if err != nil {
				return nil, err
			}
			return []state.Body{state.ProxyRegistered{Proxy: reg}}, nil
		},
		done: func() { v = r.viewOf(r.s, r.s.Proxies[req.ID], kernel.VIPState{}, nil, 0) },
	})
	if err != nil {
		return View{}, err // v may be written still
	}
	return v, nil
}

// reregister decides on a request for a proxy that is registered.
func (r *Registry) reregister(p *state.Proxy, req Request) ([]state.Body, error) {
	if p.Node != req.Node || p.Namespace != req.Namespace || p.Partition != req.Partition {
		return nil, fmt.Errorf("%w: %s belongs to node %q, namespace %q, partition %q; deregister it first, or choose another id",
			ErrIdentity, p.ID, p.Node, p.Namespace, p.Partition)
	}
	old, owner := p.Owner, req.Owner
	if old.Kind == owner.Kind && old.ID == owner.ID && old.BootID == owner.BootID && old.Path == owner.Path {
		return nil, nil
	}
	if !req.Override && old.BootID == r.cfg.BootID && !req.OwnerGone(old) {
		return nil, fmt.Errorf("%w: %s is owned by another %s, which is still there; deregister it from there, or as root",
			ErrIdentity, p.ID, old.Kind)
	}
	return []state.Body{state.ProxyChanged{ID: p.ID, Owner: &owner}}, nil
}

// grant finds the next free VIP.
func (r *Registry) grant(b *batch, req Request) (state.Registration, error) {
	var failed error
	busy := func(index uint32) bool {
		if b.taken[index] || failed != nil {
			return true
		}
		free, err := r.clear(index)
		failed = err
		return !free
	}
	limit := r.cfg.Pools.Limit()
	index, ok := r.s.NextIndex(limit, restFor, r.now(), busy)
	switch {
	case failed != nil:
		return state.Registration{}, failed
	case !ok:
		return state.Registration{}, fmt.Errorf("%w: all %d are taken, or were until a minute ago; deregister proxies, or give a wider --vip-cidr",
			ErrPoolFull, limit-1)
	}
	b.taken[index] = true
	vip, vip6 := r.cfg.Pools.At(index)
	return state.Registration{
		ID: req.ID, Node: req.Node, Namespace: req.Namespace, Partition: req.Partition,
		Owner: req.Owner, Index: index, VIP: vip, VIP6: vip6,
	}, nil
}

// clear readies the kernel's words of a VIP slot for another proxy. A slot
// that a socket still holds is not free: its close would count for the next.
func (r *Registry) clear(index uint32) (bool, error) {
	vs, err := r.cfg.Maps.VIPStates([]uint32{index})
	if err != nil {
		return false, fmt.Errorf("read the VIP's words in the kernel: %w", err)
	}
	c := vs[0].Counters
	if c.Attempted != c.Failed+c.Closed {
		return false, nil
	}
	if err := r.cfg.Maps.ResetVIP(index); err != nil {
		return false, fmt.Errorf("clear the VIP's words in the kernel: %w", err)
	}
	return true, nil
}

// Deregister ends a registration and returns when the VIP redirects no longer.
// An absent proxy is success. allow refuses on behalf of the caller.
func (r *Registry) Deregister(ctx context.Context, id string, reason state.LeaveReason, allow func(state.Owner) error) error {
	return r.submit(ctx, &promise{
		subject: id,
		decide: func(*batch) ([]state.Body, error) {
			p := r.s.Proxies[id]
			if p == nil {
				return nil, nil
			}
			if err := allow(p.Owner); err != nil {
				return nil, err
			}
			return []state.Body{state.ProxyDeregistered{ID: id, Reason: reason}}, nil
		},
		done: func() {},
	})
}

// Change replaces a proxy's owner, or records that Consul knows it. A proxy
// that left meanwhile is success.
func (r *Registry) Change(ctx context.Context, c state.ProxyChanged) error {
	return r.submit(ctx, &promise{
		subject: c.ID,
		decide: func(*batch) ([]state.Body, error) {
			if r.s.Proxies[c.ID] == nil {
				return nil, nil
			}
			return []state.Body{c}, nil
		},
		done: func() {},
	})
}

// Drain moves proxies away from a server and keeps them away, or ends that.
// It is ErrNotRegistered for a server that was never seen.
func (r *Registry) Drain(ctx context.Context, id, by string, drained bool) error {
	return r.submit(ctx, &promise{
		subject: serverSubject(id),
		decide: func(*batch) ([]state.Body, error) {
			if _, seen := r.s.Slots[id]; !seen {
				return nil, fmt.Errorf("%w: server %s was never seen on this host; `lictor servers` lists them", ErrNotRegistered, id)
			}
			_, is := r.s.Drained[id]
			switch {
			case is == drained:
				return nil, nil
			case drained:
				return []state.Body{state.ServerDrained{ID: id, By: by}}, nil
			default:
				return []state.Body{state.ServerUndrained{ID: id, By: by}}, nil
			}
		},
		done: func() {},
	})
}
