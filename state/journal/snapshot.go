package journal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"github.com/lictor-mesh/lictor/state"
)

const (
	// snapshotEvery is after how many events a snapshot is due: replaying them
	// at the next start takes about 50 ms.
	snapshotEvery = 10_000
	// maxDrop is how many events one Snapshot deletes. What is left over goes
	// with the next ones, so that no append waits long.
	maxDrop = 20_000
	// keepSnapshots is how many snapshots there are: the oldest stands for what
	// is no longer retained, the next one will, and the newest is for the next
	// start.
	keepSnapshots = 3
)

// SnapshotDue reports whether it is time to call Snapshot.
func (j *Journal) SnapshotDue() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	var newest uint64
	if n := len(j.snapshots); n > 0 {
		newest = j.snapshots[n-1]
	}
	tail := j.last - newest
	age := j.opts.Now().Sub(j.snapTime) // negative: the clock was set back, who knows how old it is
	old := j.opts.Retain.Age > 0 && (age > j.opts.Retain.Age/2 || age < 0)
	return tail >= snapshotEvery || tail > 0 && old
}

// Snapshot keeps a state, so that a replay begins there, and drops what is
// beyond Options.Retain, in one transaction. s must hold the journaled events up
// to s.Seq and nothing else: no placement that is not journaled yet. It is
// encoded before the journal is locked and may be a Clone; the daemon calls this
// in a goroutine of its own. A state without news since the last snapshot is
// not kept. Errors are as those of Append.
func (j *Journal) Snapshot(s state.State) error {
	if s.Seq == 0 {
		return nil
	}
	data, err := s.MarshalJSON()
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	j.write.Lock()
	defer j.write.Unlock()
	p, err := j.plan(s.Seq)
	if err != nil || p.nothing {
		return err
	}
	var firstTime time.Time
	err = j.update(func(tx *bbolt.Tx) error {
		snapshots := tx.Bucket([]byte(bucketSnapshots))
		if err := putSnapshot(snapshots, s.Seq, data); err != nil {
			return err
		}
		for _, seq := range p.drop {
			if err := deleteSnapshot(snapshots, seq); err != nil {
				return err
			}
		}
		firstTime, err = dropEvents(tx, p.first, p.newFirst)
		return err
	})
	if err != nil {
		return fmt.Errorf("snapshot at event %d: %w", s.Seq, err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.snapshots, j.first, j.firstTime = p.keep, p.newFirst, firstTime
	j.snapTime = j.opts.Now()
	for proxy, seq := range j.heads {
		if seq < j.first {
			delete(j.heads, proxy)
		}
	}
	return nil
}

// dropEvents deletes the events from first up to and without newFirst, and
// returns the time of newFirst. The sequence numbers are contiguous, so it needs
// no cursor, which a delete would invalidate.
func dropEvents(tx *bbolt.Tx, first, newFirst uint64) (time.Time, error) {
	events := tx.Bucket([]byte(bucketEvents))
	for seq := first; seq < newFirst; seq++ {
		if err := events.Delete(key(seq)); err != nil {
			return time.Time{}, err
		}
	}
	r, err := parseRecord(key(newFirst), events.Get(key(newFirst)))
	return r.time, err
}

// snapshotPlan is what one Snapshot does.
type snapshotPlan struct {
	nothing         bool
	keep, drop      []uint64 // snapshots
	first, newFirst uint64   // the oldest event, before and after
}

// plan decides what a snapshot at seq replaces.
func (j *Journal) plan(seq uint64) (snapshotPlan, error) {
	j.mu.Lock()
	first, last, had := j.first, j.last, slices.Clone(j.snapshots)
	j.mu.Unlock()
	if seq > last {
		return snapshotPlan{}, fmt.Errorf("snapshot at event %d: the newest event is %d", seq, last)
	}
	if n := len(had); n > 0 && had[n-1] >= seq {
		return snapshotPlan{nothing: true}, nil
	}
	cut, err := j.cut(first, last)
	if err != nil {
		return snapshotPlan{}, fmt.Errorf("snapshot at event %d: %w", seq, err)
	}
	p := planSnapshots(had, seq, cut)
	p.first, p.newFirst = first, first
	// Only a snapshot before the newest can stand for what is dropped.
	if base := p.keep[0]; len(p.keep) > 1 && base <= cut && base >= first {
		p.newFirst = min(base+1, first+maxDrop)
	}
	return p, nil
}

// planSnapshots decides which snapshots are kept beside a new one. The newest
// that is at or below cut stands for everything before it; were there more than
// keepSnapshots left, the second is kept until it can take the first one's
// place, rather than the later ones.
func planSnapshots(had []uint64, seq, cut uint64) snapshotPlan {
	var p snapshotPlan
	base := 0
	for i, at := range had {
		if at <= cut {
			base = i
		}
	}
	p.drop = append(p.drop, had[:base]...)
	p.keep = append(p.keep, had[base:]...)
	for len(p.keep) >= keepSnapshots {
		n := len(p.keep) - 1
		p.drop = append(p.drop, p.keep[n])
		p.keep = p.keep[:n]
	}
	p.keep = append(p.keep, seq)
	return p
}

// cut returns the last event that need not be retained, 0 for none.
func (j *Journal) cut(first, last uint64) (uint64, error) {
	var cut uint64
	if last > j.opts.Retain.Events {
		cut = last - j.opts.Retain.Events
	}
	if j.opts.Retain.Age == 0 {
		return cut, nil
	}
	old, err := j.seqAt(first, last, j.opts.Now().Add(-j.opts.Retain.Age))
	return max(cut, old), err
}

// seqAt returns the last event of first to last that is not after t, or first-1.
// Times never go back, so a binary search finds it.
func (j *Journal) seqAt(first, last uint64, t time.Time) (uint64, error) {
	low, high := first-1, last // low is not after t, high+1 is
	err := j.view(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(bucketEvents))
		for low < high {
			mid := high - (high-low)/2
			v := b.Get(key(mid))
			if v == nil {
				return missing(tx, mid)
			}
			r, err := parseRecord(key(mid), v)
			if err != nil {
				return err
			}
			if r.time.After(t) {
				high = mid - 1
			} else {
				low = mid
			}
		}
		return nil
	})
	return low, err
}

// StateAtSeq returns the state after the event seq, 0 being before the first. It
// replays from the nearest snapshot. The error is ErrNotRetained, ErrDamaged or
// ErrClosed, or that of the context.
func (j *Journal) StateAtSeq(ctx context.Context, seq uint64) (state.State, error) {
	s, err := j.stateAt(ctx, seq)
	if err != nil {
		return state.State{}, fmt.Errorf("state at event %d: %w", seq, err)
	}
	return s, nil
}

// StateAtTime returns the state after the last event that is not after t. The
// error is as that of StateAtSeq.
func (j *Journal) StateAtTime(ctx context.Context, t time.Time) (state.State, error) {
	first, last, _ := j.bounds()
	seq, err := j.seqAt(first, last, t)
	if err == nil && seq+1 == first && first > 1 {
		// The state before the oldest event is that of a snapshot, of an
		// instant that only the snapshot knows.
		s, err := j.stateAt(ctx, seq)
		if err != nil {
			return state.State{}, fmt.Errorf("state at %s: %w", t.Format(time.RFC3339Nano), err)
		}
		if s.Time.After(t) {
			return state.State{}, &RetentionError{What: "the state at " + t.Format(time.RFC3339Nano), Seq: s.Seq, Time: s.Time}
		}
		return s, nil
	}
	if err != nil {
		return state.State{}, fmt.Errorf("state at %s: %w", t.Format(time.RFC3339Nano), err)
	}
	return j.StateAtSeq(ctx, seq)
}

func (j *Journal) stateAt(ctx context.Context, seq uint64) (state.State, error) {
	_, last, _ := j.bounds()
	if seq > last {
		return state.State{}, fmt.Errorf("the newest event is %d", last)
	}
	s, err := j.snapshotBefore(seq)
	if err != nil {
		return state.State{}, err
	}
	err = j.readTo(s.Seq, seq, func(e state.Event) error {
		if e.Seq%1024 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		s = state.Fold(s, e)
		return nil
	})
	return s, err
}

// snapshotBefore returns the newest snapshot that is not after seq, or the
// state before the first event if that one is still retained.
func (j *Journal) snapshotBefore(seq uint64) (state.State, error) {
	s := state.New()
	err := j.view(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(bucketSnapshots))
		c := b.Cursor()
		k, _ := c.Seek(key(seq + 1)) // the first chunk after it
		if k == nil {
			k, _ = c.Last()
		} else {
			k, _ = c.Prev()
		}
		if k == nil {
			return notBefore(tx)
		}
		at, _, err := parseChunkKey(k)
		if err == nil {
			s, err = loadSnapshot(b, at)
		}
		return err
	})
	return s, err
}

// notBefore is nil when the state before the first event can be replayed from,
// else it names the oldest state that can be had.
func notBefore(tx *bbolt.Tx) error {
	snapshots := tx.Bucket([]byte(bucketSnapshots))
	if k, _ := tx.Bucket([]byte(bucketEvents)).Cursor().First(); k == nil || string(k) == string(key(1)) {
		return nil
	}
	k, _ := snapshots.Cursor().First()
	seq, _, err := parseChunkKey(k)
	if err != nil {
		return err
	}
	s, err := loadSnapshot(snapshots, seq)
	if err != nil {
		return err
	}
	return &RetentionError{What: "it", Seq: s.Seq, Time: s.Time}
}

// replay returns the state after the newest event. Its time is that of the
// newest event, also where only a snapshot of that is left. It maps the file for
// itself: the snapshot and what came after it, megabytes, are hardly read again,
// and would stay in the memory of the process for as long as the map is there.
func (j *Journal) replay(ctx context.Context) (s state.State, err error) {
	if err := j.openBolt(true); err != nil {
		return state.State{}, err
	}
	defer func() { err = errors.Join(err, j.db.Close()) }()
	_, last, _ := j.bounds()
	s, err = j.stateAt(ctx, last)
	if s.Time.After(j.lastTime) {
		j.lastTime = s.Time
	}
	return s, err
}

func fileBytes(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}
