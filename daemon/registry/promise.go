package registry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/state"
)

// promise is a change that its caller relies on once it is answered.
type promise struct {
	subject string // what it changes; one change of a subject is under way at a time
	// decide says what is to be journaled, or refuses. Nothing to journal
	// means that it holds already.
	decide func(b *batch) ([]state.Body, error)
	done   func()     // runs after the map was written, before the answer
	result chan error // buffered
}

func (p *promise) answer(err error) { p.result <- err }

// batch is what is decided before one sync.
type batch struct {
	promises []decided
	subjects map[string]bool
	taken    map[uint32]bool // VIP indices given within the batch
}

type decided struct {
	*promise
	bodies []state.Body
}

// commit is the end of one sync.
type commit struct {
	placements []state.Event // what was pending
	batch      *batch
	events     []state.Event // as journaled: the placements first
	snapshot   bool          // it was a snapshot, with nothing in the above
	err        error
}

// submit queues a promise and waits for its answer. When ctx ends first the
// promise may still come into force.
func (r *Registry) submit(ctx context.Context, p *promise) error {
	p.result = make(chan error, 1)
	select {
	case r.promises <- p:
	case <-r.stopped:
		return ErrStopped
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-p.result:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: whether it came into force is not known, ask again", ctx.Err())
	}
}

// pump starts the next sync when none is under way and there is something to
// journal. The channel it returns fires when placements that wait for a
// promise have waited long enough.
func (r *Registry) pump() <-chan time.Time {
	if r.inflight {
		return nil
	}
	b := r.decide()
	if len(b.promises) == 0 {
		if len(r.pending) == 0 {
			return nil
		}
		if wait := r.flushAt.Sub(r.now()); wait > 0 && wait <= flushWithin {
			return time.After(wait)
		}
	}
	if len(b.promises) == 0 && r.stats.journalProblem() != nil && r.now().Before(r.stats.retryAt()) {
		return nil // the tick comes back to it
	}
	r.inflight = true
	c := commit{placements: r.pending, batch: b}
	r.pending, r.flushAt = nil, time.Time{}
	todo := bodies(c.placements)
	for _, d := range b.promises {
		todo = append(todo, d.bodies...)
	}
	go func() {
		began := time.Now()
		c.events, c.err = r.cfg.Journal.Append(todo...)
		r.cfg.Observer.JournalAppended(time.Since(began))
		r.committed <- c
	}()
	return nil
}

// decide takes from the queue what can be decided together: one change of each
// subject. What holds already, or is refused, is answered at once.
func (r *Registry) decide() *batch {
	b := &batch{subjects: map[string]bool{}, taken: map[uint32]bool{}}
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
	return b
}

// confirm answers a promise that holds already: its entry is written again,
// since its caller relies on it from now on.
func (r *Registry) confirm(p *promise) error {
	if r.s.Proxies[p.subject] != nil {
		if err := r.write(p.subject); err != nil {
			return err
		}
	}
	p.done()
	return nil
}

// finish brings a batch into force once it is on disk: fold, map, answer.
func (r *Registry) finish(c commit) {
	r.inflight = false
	switch {
	case c.snapshot:
		if c.err != nil {
			r.log.Warn("snapshot not written: replay takes longer until the next one", "err", c.err)
		}
		return
	case c.err != nil:
		r.refuse(c)
		return
	}
	if r.stats.journalProblem() != nil {
		r.log.Info("journal writable again")
	}
	r.stats.journaled(nil, time.Time{})
	r.stamp(c.events[:len(c.placements)])

	rest := c.events[len(c.placements):]
	var gone []kernel.VIPKey
	var changed []string
	for _, d := range c.batch.promises {
		events := rest[:len(d.bodies)]
		rest = rest[len(d.bodies):]
		for _, e := range events {
			gone = append(gone, r.leaving(e.Body)...)
			r.fold(e)
			r.drained(e.Body)
			if id := e.Body.ProxyID(); r.s.Proxies[id] != nil {
				changed = append(changed, id)
			}
		}
	}
	r.placeNew(changed)
	if r.refreshSet() {
		r.place(-1)
		changed = r.ids()
	}
	err := errors.Join(r.cfg.Maps.DeleteVIPs(gone), r.write(changed...), r.setMeta())
	if err != nil {
		err = fmt.Errorf("journaled, but not in the kernel yet (it is tried again): %w", err)
	}
	for _, d := range c.batch.promises {
		if err == nil {
			d.done()
		}
		d.answer(err)
	}
	r.snapshot()
}

// refuse answers a batch that could not be journaled. The placements in it
// stay in force and are tried again.
func (r *Registry) refuse(c commit) {
	if r.stats.journalProblem() == nil {
		r.log.Error("journal not writable: nothing new is promised until it is, redirects go on", "err", c.err)
	}
	r.stats.journaled(c.err, r.now().Add(tickEvery))
	newer := r.pending
	r.pending = c.placements
	for _, e := range newer {
		r.pend(e)
	}
	for _, d := range c.batch.promises {
		d.answer(fmt.Errorf("%w, nothing was changed: %w", ErrNotDurable, c.err))
	}
}

// stamp tells the state under which sequence numbers placements were
// journaled. They are folded already, and may have been overtaken since.
func (r *Registry) stamp(events []state.Event) {
	for _, e := range events {
		r.s = state.Fold(r.s, state.Event{Seq: e.Seq, Time: e.Time})
	}
}

// setMeta records in the kernel how far the journal was when the map was written.
func (r *Registry) setMeta() error {
	return r.cfg.Maps.SetMeta(kernel.Meta{Journal: r.cfg.JournalUUID, LastPromise: r.s.Seq})
}

// snapshot bounds replay. It takes the place of a sync, and a state that is
// exactly what the journal holds.
func (r *Registry) snapshot() {
	if len(r.pending) > 0 || !r.cfg.Journal.SnapshotDue() {
		return
	}
	r.inflight = true
	s := r.s.Clone()
	go func() {
		r.committed <- commit{snapshot: true, err: r.cfg.Journal.Snapshot(s)}
	}()
}
