package registry

import (
	"fmt"
	"maps"
	"time"

	"github.com/lictor-mesh/lictor/state"
)

// A process in a pod needs no right to register proxies for its own network
// namespace. What the pods of a host have together, VIPs and the journal, must not
// be for one of them to use up; root is not bounded.
const (
	// ownMost is how many proxies a namespace may have: 110 pods, as many as the
	// kubelet runs, cannot have half of a /16.
	ownMost = 256
	// A namespace may change changeBurst registrations at once, which is more than
	// it may have, as all of them start anew after a boot; then one each
	// changeEvery. A registration and its end are three events and an end alone is
	// always possible, so that a loop of both takes nine hours to push all else out
	// of a journal that keeps 100,000.
	changeBurst = 300
	changeEvery = time.Second
)

// allowances say when namespaces, by cookie, may change registrations: the time,
// by the kernel's clock, at which a change would be due had there been no burst.
type allowances map[uint64]time.Duration

// take takes one change of a namespace's allowance, or says in how long it may.
func (a allowances) take(netns uint64, now time.Duration) (wait time.Duration) {
	full := now - changeBurst*changeEvery
	maps.DeleteFunc(a, func(_ uint64, due time.Duration) bool { return due <= full })
	due, ok := a[netns]
	if !ok {
		due = full
	}
	if due += changeEvery; due > now {
		return due - now
	}
	a[netns] = due
	return 0
}

// permit says whether the caller may have another registration changed, which
// becomes its owner's if it is not.
func (r *Registry) permit(b *batch, req Request, becomes bool) error {
	if req.UID == 0 {
		return nil
	}
	owner := forKernel(req.Owner)
	if becomes && r.owned[owner]+b.owned[owner] >= ownMost {
		return fmt.Errorf("%w: the caller's network namespace has %d proxies, as many as it may; deregister some, or register more as root",
			ErrPoolFull, ownMost)
	}
	if wait := r.allowances.take(owner.ID, r.clock()); wait > 0 {
		return fmt.Errorf("%w: the caller's network namespace has changed registrations %d times of late; ask again in %d s, or as root",
			ErrTooOften, changeBurst, (wait+time.Second-1)/time.Second)
	}
	if becomes {
		b.owned[owner]++
	}
	return nil
}

// forKernel is an owner without what does not matter to the kernel, such as the
// path by which it was found.
func forKernel(o state.Owner) state.Owner {
	return state.Owner{Kind: o.Kind, ID: o.ID, BootID: o.BootID}
}
