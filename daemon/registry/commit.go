package registry

import (
	"errors"
	"fmt"
	"time"

	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/state/journal"
)

// commit is one sync: the pending facts first, then the batch.
type commit struct {
	pending pending
	batch   *batch
	events  []state.Event // as journaled
	err     error
	kind    commitKind
}

// commitKind says what was written. Of what is no batch only err counts.
type commitKind int

const (
	commitBatch commitKind = iota
	commitSnapshot
	commitProbe // nothing, to see whether it could be
)

// sync starts the next sync when none is under way and there is something to
// journal.
func (r *Registry) sync() {
	if r.inflight {
		return
	}
	b := r.decide()
	if len(b.promises) == 0 && (r.pending.len() == 0 || r.flushIn() > 0) {
		r.probe()
		return
	}
	c := commit{batch: b, pending: r.pending.take()}
	todo := c.pending.list()
	for _, d := range b.promises {
		todo = append(todo, d.bodies...)
	}
	r.begin()
	r.underway = c.pending.len()
	go func() {
		c.events, c.err = r.append(todo)
		r.committed <- c
	}()
}

// append journals events and measures how long it took.
func (r *Registry) append(todo []state.Body) ([]state.Event, error) {
	began := time.Now()
	events, err := r.cfg.Journal.Append(todo...)
	if err == nil {
		r.cfg.Observer.JournalAppended(time.Since(began))
	}
	return events, err
}

// flushIn says in how long pending facts are journaled without a promise whose
// sync they share: a moment after the first of them came, and after a failure
// when it is time to try again.
func (r *Registry) flushIn() time.Duration {
	if r.stats.journalProblem() != nil {
		return retryEvery - r.age(r.failed)
	}
	return flushWithin - r.age(r.pending.since)
}

// finish brings a batch into force once it is on disk: fold, map, answer.
func (r *Registry) finish(c commit) {
	r.ended()
	switch {
	case c.kind == commitProbe && c.err != nil:
		r.notWritable(c.err)
		return
	case c.kind == commitProbe:
		r.writable()
		return
	case c.kind == commitSnapshot && c.err != nil:
		r.log.Warn("snapshot not written, next try in a minute: replay takes longer until then", "err", c.err)
		r.snapFailed = r.now()
		return
	case c.kind == commitSnapshot:
		return
	case c.err != nil:
		r.refuse(c)
		return
	}
	r.writable()
	r.stamp(c.events[:c.pending.len()])
	err := r.enforce(c.batch, c.events[c.pending.len():])
	if err != nil {
		err = fmt.Errorf("journaled, but not in the kernel yet, which is tried again: %w", err)
	}
	for _, d := range c.batch.promises {
		d.answer(err)
	}
}

// enforce folds what was promised and writes it to the map.
func (r *Registry) enforce(b *batch, events []state.Event) error {
	if len(events) == 0 {
		return nil
	}
	var gone []kernel.VIPKey
	var changed []string
	for _, e := range events {
		id := e.Body.ProxyID()
		switch body := e.Body.(type) {
		case state.LoggedIn, state.LoggedOut, state.CredentialChanged:
			r.fold(e) // of no concern to the kernel
			continue
		case state.ProxyDeregistered:
			if p := r.s.Proxies[id]; p != nil {
				gone = append(gone, r.keys(p)...)
			}
		case state.Placed:
			r.cfg.Observer.Placed(body.Reason)
		}
		r.fold(e)
		r.drained(e.Body)
		changed = append(changed, id)
	}
	// Servers that came or went while the disk synced are not in the lists
	// that were decided before.
	if r.refreshSet() || b.set != r.set {
		r.place(-1)
		changed = r.ids()
	}
	return errors.Join(r.remove(gone), r.write(changed...), r.setMeta())
}

// refuse answers a batch that could not be journaled. What is pending stays in
// force and is tried again.
func (r *Registry) refuse(c commit) {
	answer := fmt.Errorf("%w, nothing was changed: %w", ErrNotDurable, c.err)
	if errors.Is(c.err, journal.ErrFull) {
		answer = fmt.Errorf("%w; make room there, lictord then goes on by itself", answer)
	}
	if errors.Is(c.err, journal.ErrBroken) && !errors.Is(r.stats.journalProblem(), journal.ErrBroken) {
		// This one may have reached the disk, as the next start will see.
		answer = fmt.Errorf("%w, nothing is in force; ask again after a restart of lictord, which may find it on the disk: %w", ErrNotDurable, c.err)
	}
	r.notWritable(c.err)
	r.pending.putBack(c.pending)
	for _, d := range c.batch.promises {
		d.answer(answer)
	}
}

// writable takes note that the journal could be written.
func (r *Registry) writable() {
	if r.stats.journalProblem() != nil {
		r.log.Info("journal writable again")
		r.stats.journal(nil)
	}
}

// notWritable takes note that it could not.
func (r *Registry) notWritable(err error) {
	if r.stats.journalProblem() == nil {
		r.log.Error("journal not writable: nothing new is promised until it is, redirects go on", "err", err)
	}
	r.stats.journal(err)
	r.failed = r.now()
}

// stamp tells the state under which sequence numbers pending facts were
// journaled. They are folded already, and may have been overtaken since.
func (r *Registry) stamp(events []state.Event) {
	for _, e := range events {
		r.s, r.shared = state.Fold(r.s, state.Event{Seq: e.Seq, Time: e.Time}), nil
	}
}

// snapshot bounds replay. It takes the place of a sync, and a state that is
// exactly what the journal holds.
func (r *Registry) snapshot() {
	if r.inflight || r.pending.len() > 0 || r.age(r.snapFailed) < snapshotRetry || !r.cfg.Journal.SnapshotDue() {
		return
	}
	r.begin()
	s := r.s.Clone()
	go func() {
		r.committed <- commit{kind: commitSnapshot, err: r.cfg.Journal.Snapshot(s)}
	}()
}
