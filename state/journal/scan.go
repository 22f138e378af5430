package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/lictor-mesh/lictor/state"
)

// Names of the buckets. In this order they are visited.
const (
	bucketEvents    = "events"
	bucketMeta      = "meta"
	bucketSnapshots = "snapshots"
)

// maxDamage is how many damaged parts are listed; more are only counted.
const maxDamage = 100

// scan is what one pass over every page of a journal found.
type scan struct {
	meta        Meta
	hasMeta     bool
	first, last uint64 // events retained; last is first-1 when there is none
	firstTime   time.Time
	lastTime    time.Time
	snapshots   []uint64          // in order
	heads       map[uint64]uint64 // by the hash of a proxy's id: its last event retained
	damage      []Damage          // at most maxDamage
	more        int               // damaged parts beyond
	format      error             // the first ErrFormat, or nil
	chunks      assembly          // of the snapshot that the walk is in
}

// visitor is told of what a scan passes. Nil functions are not told.
type visitor struct {
	progress func(done, total int64)       // bytes, from time to time
	record   func(r record) error          // each sound record of an event, in order
	snapshot func(seq uint64, data []byte) // the JSON of each snapshot that is whole
}

// scanFile reads a journal's file of size bytes and checks all that can be
// checked without decoding the events. What is damaged is in the result; the
// error is that of the context or of a visitor.
func scanFile(ctx context.Context, r io.ReaderAt, size int64, v visitor) (*scan, error) {
	s := &scan{heads: map[uint64]uint64{}, chunks: assembly{keep: v.snapshot != nil}}
	var done int64
	pages := 0
	p := &pager{r: r, size: size, bad: s.add}
	p.read = func(n int64) {
		done += n
		if pages++; v.progress != nil && pages%256 == 0 {
			v.progress(min(done, size), size)
		}
	}
	pairs := 0
	p.pair = func(bucket string, k, val []byte) error {
		if pairs++; pairs%1024 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return s.pair(bucket, k, val, v)
	}
	if err := p.open(); err != nil {
		s.add(asDamage(err))
		return s, nil
	}
	if err := p.walk(); err != nil {
		return nil, err
	}
	s.finish()
	if v.progress != nil {
		v.progress(size, size)
	}
	return s, nil
}

func (s *scan) add(d Damage) {
	if len(s.damage) == maxDamage {
		s.more++
		return
	}
	s.damage = append(s.damage, d)
}

// fail sorts an error of a decoder: a later version's format, or damage.
func (s *scan) fail(err error) {
	if errors.Is(err, ErrFormat) {
		if s.format == nil {
			s.format = err
		}
		return
	}
	s.add(asDamage(err))
}

func asDamage(err error) Damage {
	var d Damage
	if errors.As(err, &d) {
		return d
	}
	return Damage{What: err.Error()}
}

func (s *scan) pair(bucket string, k, val []byte, v visitor) error {
	switch bucket {
	case bucketEvents:
		r, err := parseRecord(k, val)
		if err != nil {
			s.fail(err)
			if seq, err := parseKey(k); err == nil && s.first != 0 && seq == s.last+1 {
				s.last = seq // it is there, and named already
			}
			return nil
		}
		s.event(r)
		if v.record != nil {
			return v.record(r)
		}
	case bucketMeta:
		m, err := parseMeta(val)
		if err != nil || string(k) != string(metaKey) {
			s.fail(errors.Join(err, fmt.Errorf("meta: key %q", k)))
			return nil
		}
		s.meta, s.hasMeta = m, true
	case bucketSnapshots:
		s.endSnapshot(k)
		done, err := s.chunks.add(k, val)
		if err != nil {
			s.fail(err)
			s.chunks.left = 0
			return nil
		}
		if !done {
			return nil
		}
		s.snapshots = append(s.snapshots, s.chunks.seq)
		if v.snapshot != nil {
			v.snapshot(s.chunks.seq, s.chunks.data)
		}
	default:
		s.format = fmt.Errorf("bucket %q: %w", bucket, ErrFormat)
	}
	return nil
}

// endSnapshot reports a snapshot of which the last chunks are not there. k is the
// key after it, nil at the end.
func (s *scan) endSnapshot(k []byte) {
	seq, n, err := parseChunkKey(k)
	if s.chunks.left > 0 && (k == nil || err == nil && (n == 0 || seq != s.chunks.seq)) {
		s.fail(damagedSnapshot(s.chunks.seq, errors.New("its end is not there")))
		s.chunks.left = 0
	}
}

// event checks a record against those before it.
func (s *scan) event(r record) {
	if _, known := kinds[string(r.kind)]; !known && s.format == nil {
		s.format = fmt.Errorf("event %d: %w %q: %w", r.seq, state.ErrUnknownKind, r.kind, ErrFormat)
	}
	switch {
	case s.first == 0:
		s.first, s.firstTime = r.seq, r.time
	case r.seq != s.last+1:
		s.add(Damage{First: s.last + 1, Last: r.seq - 1, What: "not there"})
	case r.time.Before(s.lastTime):
		s.add(Damage{First: r.seq, Last: r.seq, What: fmt.Sprintf("is of %s, before the event before it", r.time)})
	}
	head := s.heads[r.proxy]
	if len(s.damage) > 0 {
		head = r.prev // the one that it follows may be lost
	}
	if r.prev >= r.seq || r.prev >= s.first && r.prev != head || head != 0 && r.prev != head {
		s.add(Damage{First: r.seq, Last: r.seq, What: fmt.Sprintf("its proxy's event before it is %d, not %d", head, r.prev)})
	}
	s.last, s.lastTime = r.seq, r.time
	if r.proxy != 0 {
		s.heads[r.proxy] = r.seq
	}
}

// finish checks the parts against each other: a state can be had only from a
// snapshot and every event after it, or from every event there ever was.
func (s *scan) finish() {
	s.endSnapshot(nil)
	if !s.hasMeta && s.format == nil {
		s.add(Damage{What: "meta: not there"})
	}
	if s.first == 0 { // no events
		s.first, s.last = s.meta.Base+1, s.meta.Base
	}
	if s.first > 1 && (len(s.snapshots) == 0 || s.snapshots[0]+1 < s.first) {
		s.add(Damage{First: 1, Last: s.first - 1, What: "not there, and no snapshot stands for them"})
	}
	if n := len(s.snapshots); n > 0 && s.snapshots[n-1] > s.last {
		s.add(Damage{First: s.last + 1, Last: s.snapshots[n-1], What: "not there, though there is a snapshot of them"})
	}
}

// err returns what keeps the journal from being used, or nil. Damage comes
// before an unknown format, which may be its consequence.
func (s *scan) err() error {
	if len(s.damage) == 0 {
		return s.format
	}
	first := s.damage[0]
	for _, d := range s.damage {
		if d.First != 0 && (first.First == 0 || d.First < first.First) {
			first = d
		}
	}
	if n := len(s.damage) + s.more - 1; n > 0 {
		return fmt.Errorf("%w: %w (and %d more)", ErrDamaged, first, n)
	}
	return fmt.Errorf("%w: %w", ErrDamaged, first)
}
