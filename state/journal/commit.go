package journal

import (
	"fmt"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"

	"github.com/lictor-mesh/lictor/state"
)

// guard turns a panic of bbolt, and a fault while it reads its memory map (the
// file was cut off, or the disk returned an error), into damage. Use it as
// defer guard(&err)(), in the goroutine that calls bbolt.
func guard(err *error) func() {
	old := debug.SetPanicOnFault(true)
	return func() {
		debug.SetPanicOnFault(old)
		if p := recover(); p != nil {
			*err = Damage{What: fmt.Sprintf("the file changed beneath the journal, or cannot be read: %v", p)}
		}
	}
}

// Append journals the bodies as one transaction: when it returns without error
// they are on the disk, and when it returns one, none of them is. It returns
// them as events, stamped with their sequence numbers and with the time, which
// is the clock's or, if that went back, that of the event before.
//
// The error is ErrFull (nothing was written; try again), ErrBroken (none of
// these is promised; only a restart tells whether they are there), ErrClosed,
// ErrReadOnly, or state.ErrMalformed for a body that cannot be journaled.
func (j *Journal) Append(bodies ...state.Body) ([]state.Event, error) {
	if len(bodies) == 0 {
		return nil, nil
	}
	records := make([]record, len(bodies))
	for i, b := range bodies {
		data, err := state.EncodeBody(b)
		if err == nil && len(data) > maxBody {
			err = fmt.Errorf("%d bytes of JSON, at most %d: %w", len(data), maxBody, state.ErrMalformed)
		}
		if err != nil {
			return nil, fmt.Errorf("append: %w", err)
		}
		records[i] = record{kind: b.Kind(), proxy: hashID(b.ProxyID()), body: data}
	}
	j.write.Lock()
	defer j.write.Unlock()
	heads, err := j.stamp(records)
	if err != nil {
		return nil, fmt.Errorf("append: %w", err)
	}
	var wrote *bbolt.Tx
	err = j.update(func(tx *bbolt.Tx) error {
		wrote = tx
		b := tx.Bucket([]byte(bucketEvents))
		b.FillPercent = 1 // keys only ever grow: a page that is split is never written again
		for _, r := range records {
			if err := b.Put(key(r.seq), r.encode()); err != nil {
				return err
			}
		}
		return nil
	})
	j.noteRoom(wrote, err)
	if err != nil {
		return nil, fmt.Errorf("append: %w", err)
	}
	return j.publish(records, bodies, heads), nil
}

// stamp numbers the records and links each to the event of its proxy before it.
// It returns the last event of each proxy among them.
func (j *Journal) stamp(records []record) (heads map[uint64]uint64, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	now := j.opts.now(j.lastTime)
	heads = make(map[uint64]uint64, len(records))
	for i := range records {
		r := &records[i]
		r.seq, r.time = j.last+1+uint64(i), now
		if r.proxy == 0 {
			continue
		}
		if in, ok := heads[r.proxy]; ok {
			r.prev = in
		} else {
			r.prev = j.heads[r.proxy]
		}
		heads[r.proxy] = r.seq
	}
	return heads, nil
}

// now returns the time of an event after one of last. It has no monotonic part
// and fits what a record holds.
func (o Options) now(last time.Time) time.Time {
	now := time.Unix(0, o.Now().UnixNano()).UTC()
	if now.Before(last) {
		return last
	}
	return now
}

// publish makes committed records visible and wakes those who follow.
func (j *Journal) publish(records []record, bodies []state.Body, heads map[uint64]uint64) []state.Event {
	events := make([]state.Event, len(records))
	for i, r := range records {
		events[i] = state.Event{Seq: r.seq, Time: r.time, Body: bodies[i]}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.last < j.first { // the first event ever
		j.firstTime = records[0].time
	}
	newest := records[len(records)-1]
	j.last, j.lastTime = newest.seq, newest.time
	for proxy, seq := range heads {
		j.heads[proxy] = seq
	}
	if !j.closed {
		close(j.appended)
		j.appended = make(chan struct{})
	}
	return events
}

// update runs one write transaction and sorts its error. The write lock is
// held, or the journal is not shared yet.
func (j *Journal) update(fn func(tx *bbolt.Tx) error) error {
	if err := j.writable(); err != nil {
		return err
	}
	err := j.commit(fn)
	switch {
	case err == nil:
		return nil
	case retryable(err):
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	err = fmt.Errorf("%w: %w", ErrBroken, renumber(err))
	j.mu.Lock()
	j.broken = err
	j.mu.Unlock()
	return err
}

func (j *Journal) commit(fn func(tx *bbolt.Tx) error) (err error) {
	whole := false
	defer func() {
		if !whole { // a panic has passed through bbolt: its locks may still be held
			j.poisoned = true
		}
	}()
	defer guard(&err)()
	if j.opts.Fault != nil {
		if err := j.opts.Fault(); err != nil {
			whole = true
			return err
		}
	}
	err = j.db.Update(fn)
	whole = true
	return err
}

func (j *Journal) writable() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case j.closed:
		return ErrClosed
	case j.ro:
		return ErrReadOnly
	}
	return j.broken
}
