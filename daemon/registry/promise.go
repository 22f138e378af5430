package registry

import (
	"context"
	"fmt"

	"github.com/lictor-mesh/lictor/state"
)

// promise is a change that its caller relies on once it is answered.
type promise struct {
	subject string // what it changes; one change of a subject is under way at a time
	// decide says what is to be journaled, or refuses. Nothing to journal
	// means that it holds already.
	decide func(b *batch) ([]state.Body, error)
	// done runs in Run after the map was written, before the answer; may be nil.
	done   func()
	result chan error // buffered: an answer waits for no caller
}

func (p *promise) answer(err error) {
	if err == nil && p.done != nil {
		p.done()
	}
	p.result <- err
}

// batch is what is decided before one sync.
type batch struct {
	set      uint32 // of servers, under which it was decided
	promises []decided
	subjects map[string]bool
	taken    map[uint32]bool     // VIP indices given within the batch
	ranked   [][]string          // lists given within the batch
	owned    map[state.Owner]int // proxies given to owners within the batch, as forKernel
}

type decided struct {
	*promise
	bodies []state.Body
}

// submit queues a promise and waits for its answer. When ctx ends after it was
// queued, the promise may still come into force.
func (r *Registry) submit(ctx context.Context, p *promise) error {
	p.result = make(chan error, 1)
	select {
	case r.promises <- p:
	case <-r.stopped:
		return ErrStopped
	case <-ctx.Done():
		return fmt.Errorf("%w: nothing was changed", ctx.Err())
	}
	select {
	case err := <-p.result:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: whether it came into force is not known, ask again", ctx.Err())
	}
}

// decide takes from the queue what can be decided together: one change of each
// subject. What holds already, or is refused, is answered at once.
func (r *Registry) decide() *batch {
	b := &batch{set: r.set}
	if len(r.queue) == 0 {
		return b
	}
	b.subjects, b.taken, b.owned = map[string]bool{}, map[uint32]bool{}, map[state.Owner]int{}
	var later []*promise
	for _, p := range r.queue {
		if b.subjects[p.subject] {
			later = append(later, p)
			continue
		}
		todo, err := p.decide(b)
		switch {
		case err != nil:
			p.answer(err)
		case len(todo) == 0:
			p.answer(r.confirm(p))
		default:
			b.subjects[p.subject] = true
			b.promises = append(b.promises, decided{p, todo})
		}
	}
	r.queue = later
	for _, ranked := range b.ranked { // they count from when they are in force
		r.loads.Remove(ranked)
	}
	return b
}

// confirm answers a promise that holds already. A proxy's entry is written
// again, since its caller relies on it from now on; and when an earlier write
// of the map failed, it may be this one's.
func (r *Registry) confirm(p *promise) error {
	if r.unwritten {
		if err := r.repair(); err != nil {
			return err
		}
	}
	if r.s.Proxies[p.subject] != nil {
		return r.write(p.subject)
	}
	return nil
}
