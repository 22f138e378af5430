package registry

import (
	"context"
	"errors"
	"fmt"

	"github.com/lictor-mesh/lictor/daemon/reconcile"
	"github.com/lictor-mesh/lictor/state"
)

// Request asks for a VIP.
type Request struct {
	ID, Node, Namespace, Partition string
	Owner                          state.Owner
	// OwnerGone says whether a former owner is gone from the host; it is asked
	// when the proxy is registered with another one, by the caller's goroutine, as
	// it may scan all processes. nil: it is not.
	OwnerGone func(state.Owner) bool
	// Override lets a new owner replace one that is still there.
	Override bool
	// UID is the caller's. The settings, the credential and the process of a
	// proxy are changed by its process's user and by root.
	UID uint32
	// Envoy, Credential and Process are as before when nil, unless the owner is
	// another one: it inherits nothing of what was given to the former.
	Envoy      *state.EnvoySettings
	Credential *state.Credential
	Process    *state.Process
	// ProcessGone says whether a process has ended. One that has is forgotten
	// when the proxy is registered without one. nil: it has not.
	ProcessGone func(state.Process) bool
}

// Register promises a VIP. The same request again answers the same VIP. What it
// returns has no counters.
func (r *Registry) Register(ctx context.Context, req Request) (View, error) {
	view := make(chan View, 1)
	var former *state.Owner // the last that was found to be gone
	for {
		err := r.submit(ctx, &promise{
			subject: req.ID,
			decide: func(b *batch) ([]state.Body, error) {
				if p := r.s.Proxies[req.ID]; p != nil {
					return r.reregister(b, p, req, former)
				}
				return r.grant(b, req)
			},
			done: func() { view <- r.viewOf(r.s, r.s.Proxies[req.ID]) },
		})
		if err == nil {
			return <-view, nil
		}
		taken := (*takenError)(nil)
		if !errors.As(err, &taken) || req.OwnerGone == nil || !req.OwnerGone(taken.owner) {
			return View{}, err
		}
		former = &taken.owner
	}
}

// takenError is ErrIdentity: the proxy is another owner's, who was on the host
// when he was last looked for.
type takenError struct {
	id    string
	owner state.Owner
}

func (e *takenError) Error() string {
	return fmt.Sprintf("%v: %s is owned by another %s, which is still there; deregister it from there, or as root", ErrIdentity, e.id, e.owner.Kind)
}

func (e *takenError) Unwrap() error { return ErrIdentity }

// reregister decides on a request for a proxy that is registered. gone is an owner
// that is not on the host, nil for none.
func (r *Registry) reregister(b *batch, p *state.Proxy, req Request, gone *state.Owner) ([]state.Body, error) {
	if p.Node != req.Node || p.Namespace != req.Namespace || p.Partition != req.Partition {
		return nil, fmt.Errorf("%w: %s belongs to node %q, namespace %q, partition %q; deregister it first, or choose another id",
			ErrIdentity, p.ID, p.Node, p.Namespace, p.Partition)
	}
	old, owner := p.Owner, req.Owner
	same := forKernel(old) == forKernel(owner)
	// One of another boot is not there: what has its path now has not asked.
	if !same && !req.Override && reconcile.Resolved(old, r.cfg.BootID) && (gone == nil || *gone != old) {
		return nil, &takenError{p.ID, old}
	}
	change := state.ProxyChanged{ID: p.ID}
	if !same {
		change.Owner = &owner
		req.disinherit()
		if p.Known { // the former one: of this one Consul may hear yet
			no := false
			change.Known = &no
		}
	} else if owner.Path != "" && owner.Path != old.Path {
		change.Owner = &owner
	}
	if req.settle(p, &change); same && !req.runs(p) && (change.Envoy != nil || change.Credential != nil || change.Process != nil) {
		return nil, fmt.Errorf("%w: %s is run by another user than uid %d; what it runs with is changed as that user, or as root",
			ErrIdentity, p.ID, req.UID)
	}
	if change == (state.ProxyChanged{ID: p.ID}) {
		return nil, nil
	}
	if err := r.permit(b, req, !same); err != nil {
		return nil, err
	}
	return []state.Body{change}, nil
}

// disinherit makes the request say all that was left as before.
func (q *Request) disinherit() {
	if q.Envoy == nil {
		q.Envoy = &state.EnvoySettings{}
	}
	if q.Credential == nil {
		q.Credential = &state.Credential{}
	}
	if q.Process == nil {
		q.Process = &state.Process{}
	}
}

// runs says whether the caller may change what a proxy runs with. A secret is
// handed to the user of its process, so nobody else may become that.
func (q *Request) runs(p *state.Proxy) bool {
	if q.UID == 0 {
		return true
	}
	if p.Process == nil {
		return p.Credential == nil // else root registered it
	}
	return p.Process.UID == q.UID
}

// settle notes what is not as it was.
func (q *Request) settle(p *state.Proxy, change *state.ProxyChanged) {
	if q.Envoy != nil && !q.Envoy.Equal(p.Envoy) {
		change.Envoy = q.Envoy
	}
	if q.Credential != nil && !q.Credential.Equal(p.Credential) {
		change.Credential = q.Credential
	}
	switch {
	case q.Process != nil && !q.Process.Equal(p.Process):
		change.Process = q.Process
	case q.Process == nil && p.Process != nil && q.ProcessGone != nil && q.ProcessGone(*p.Process):
		change.Process = &state.Process{}
	}
}

// grant gives the next free VIP and ranks servers for it. Both are journaled
// together, so that a proxy has the same placement after a crash.
func (r *Registry) grant(b *batch, req Request) ([]state.Body, error) {
	if err := r.permit(b, req, true); err != nil {
		return nil, err
	}
	index, err := r.freeIndex(b)
	if err != nil {
		return nil, err
	}
	b.taken[index] = true
	vip, vip6 := r.cfg.Pools.At(index)
	bodies := []state.Body{state.ProxyRegistered{Proxy: state.Registration{
		ID: req.ID, Node: req.Node, Namespace: req.Namespace, Partition: req.Partition,
		Owner: req.Owner, Index: index, VIP: vip, VIP6: vip6,
		Envoy: req.Envoy, Credential: req.Credential, Process: req.Process,
	}}}
	if ranked := r.rank(req.ID); len(ranked) > 0 {
		r.loads.Add(ranked) // for the next of this batch
		b.ranked = append(b.ranked, ranked)
		bodies = append(bodies, state.Placed{ID: req.ID, Ranked: ranked, Reason: state.PlaceInitial})
	}
	return bodies, nil
}

// freeIndex finds a VIP that nobody has, had a moment ago, or holds by a
// socket, and readies the kernel's words of its slot.
//
// How long a VIP has rested is told by the kernel's clock. Of those that left
// before this process began only the wall clock could tell, which may have been
// set: they rest anew, unless there is no other VIP.
func (r *Registry) freeIndex(b *batch) (uint32, error) {
	var failed error
	free := func(resting func(index uint32) bool) func(uint32) bool {
		return func(index uint32) bool {
			if b.taken[index] || failed != nil || resting(index) {
				return true
			}
			var held bool
			held, failed = r.held(index)
			return held || failed != nil
		}
	}
	limit := r.cfg.Pools.Limit()
	// No proxy left after the state's own time: NextIndex leaves resting to busy.
	index, ok := r.s.NextIndex(limit, 0, r.s.Time, free(func(index uint32) bool {
		return r.resting(index) || r.restsSinceStart(index)
	}))
	if !ok && failed == nil && r.justBegun() {
		index, ok = r.s.NextIndex(limit, restFor, r.now(), free(r.resting))
	}
	switch {
	case failed != nil:
		return 0, failed
	case !ok:
		return 0, fmt.Errorf("%w: all %d are taken, or were until a minute ago; deregister proxies, or give a wider --vip-cidr",
			ErrPoolFull, max(limit, 1)-1)
	}
	if err := r.cfg.Maps.ResetVIP(index); err != nil {
		return 0, fmt.Errorf("clear the VIP's words in the kernel: %w", err)
	}
	return index, nil
}

// resting says whether a VIP's proxy left a moment ago.
func (r *Registry) resting(index uint32) bool {
	left, known := r.left[index]
	if known && r.clock()-left >= restFor {
		delete(r.left, index)
		return false
	}
	return known
}

// restsSinceStart says so of a VIP that rested, or may have, when this process
// began.
func (r *Registry) restsSinceStart(index uint32) bool {
	_, was := r.s.Resting[index]
	return was && r.justBegun()
}

func (r *Registry) justBegun() bool { return r.clock()-r.began < restFor }

// held says whether a socket still holds a VIP slot: what it has yet to count
// must not count for another proxy.
func (r *Registry) held(index uint32) (bool, error) {
	states, err := r.cfg.Maps.VIPStates([]uint32{index})
	if err != nil {
		return true, fmt.Errorf("read the VIP's words in the kernel: %w", err)
	}
	c := states[0].Counters
	return c.Attempted != c.Failed+c.Closed, nil
}

// Deregister ends a registration and returns when the VIP redirects no longer.
// An absent proxy is success. allow refuses on behalf of the caller; nil allows.
func (r *Registry) Deregister(ctx context.Context, id string, reason state.LeaveReason, allow func(*state.Proxy) error) error {
	return r.submit(ctx, &promise{
		subject: id,
		decide: func(*batch) ([]state.Body, error) {
			p := r.s.Proxies[id]
			if p == nil {
				return nil, nil
			}
			if allow != nil {
				if err := allow(p); err != nil {
					return nil, err
				}
			}
			return []state.Body{state.ProxyDeregistered{ID: id, Reason: reason}}, nil
		},
	})
}

// Release ends a registration because its process ended. It does nothing when
// the proxy has another process by now, or none, or is gone.
func (r *Registry) Release(ctx context.Context, id string, process state.Process) error {
	return r.submit(ctx, &promise{
		subject: id,
		decide: func(*batch) ([]state.Body, error) {
			if p := r.s.Proxies[id]; p == nil || p.Process == nil || !p.Process.Equal(&process) {
				return nil, nil
			}
			return []state.Body{state.ProxyDeregistered{ID: id, Reason: state.LeaveProcessGone}}, nil
		},
	})
}

// Still refuses for Change and Deregister what is no longer the registration that
// was looked at, or has another owner by now: ErrReplaced.
func Still(seen *state.Proxy) func(*state.Proxy) error {
	return func(p *state.Proxy) error {
		if p.Seq != seen.Seq || p.Owner != seen.Owner {
			return ErrReplaced
		}
		return nil
	}
}

// Change replaces a proxy's owner, or records that Consul knows it. A proxy that
// left meanwhile is success. allow is as of Deregister.
func (r *Registry) Change(ctx context.Context, c state.ProxyChanged, allow func(*state.Proxy) error) error {
	return r.submit(ctx, &promise{
		subject: c.ID,
		decide: func(*batch) ([]state.Body, error) {
			p := r.s.Proxies[c.ID]
			if p == nil {
				return nil, nil
			}
			if allow != nil {
				if err := allow(p); err != nil {
					return nil, err
				}
			}
			return []state.Body{c}, nil
		},
	})
}
