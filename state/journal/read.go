package journal

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"github.com/lictor-mesh/lictor/state"
)

// chunkEvents is how many events one read transaction copies. Between chunks no
// transaction is open, so that a slow reader holds up neither the writer nor
// the reuse of pages.
const chunkEvents = 256

// view runs fn in a read transaction.
func (j *Journal) view(fn func(tx *bbolt.Tx) error) (err error) {
	if err := j.readable(); err != nil {
		return err
	}
	defer guard(&err)()
	return j.db.View(fn)
}

func (j *Journal) readable() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return ErrClosed
	}
	return nil
}

// bounds returns the oldest and the newest event there are, newest < oldest
// when there is none.
func (j *Journal) bounds() (first, last uint64, firstTime time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.first, j.last, j.firstTime
}

// chunk decodes the events from a sequence number up to and with another, at
// most chunkEvents of them.
func (j *Journal) chunk(from, to uint64) ([]state.Event, error) {
	if to-from >= chunkEvents {
		to = from + chunkEvents - 1
	}
	events := make([]state.Event, 0, to-from+1)
	err := j.view(func(tx *bbolt.Tx) error {
		c := tx.Bucket([]byte(bucketEvents)).Cursor()
		for k, v := c.Seek(key(from)); k != nil; k, v = c.Next() {
			r, err := parseRecord(k, v)
			if err != nil {
				return err
			}
			if want := from + uint64(len(events)); r.seq != want {
				return missing(tx, want)
			}
			if r.seq > to {
				return nil
			}
			e, err := r.event()
			if err != nil {
				return err
			}
			events = append(events, e)
			if r.seq == to {
				return nil
			}
		}
		return missing(tx, from+uint64(len(events)))
	})
	return events, err
}

// missing says why an event is not there: it was dropped since the caller
// looked, which only the transaction itself knows, or it is lost.
func missing(tx *bbolt.Tx, seq uint64) error {
	k, v := tx.Bucket([]byte(bucketEvents)).Cursor().First()
	if k != nil {
		r, err := parseRecord(k, v)
		if err != nil {
			return err
		}
		if seq < r.seq {
			return notRetained(seq, r.seq, r.time)
		}
	}
	return Damage{First: seq, Last: seq, What: "not there"}
}

func notRetained(seq, oldest uint64, at time.Time) error {
	return &RetentionError{What: fmt.Sprintf("event %d", seq), Seq: oldest, Time: at}
}

func (j *Journal) oldest() uint64 {
	first, _, _ := j.bounds()
	return first
}

// Read calls fn with each event after since, in order, up to the newest at the
// time of the call. The error is fn's, or ErrNotRetained, ErrDamaged, ErrClosed.
// fn may call the journal.
func (j *Journal) Read(since uint64, fn func(state.Event) error) error {
	_, last, _ := j.bounds()
	err := j.readable()
	if err == nil {
		err = j.readTo(since, last, fn)
	}
	if err != nil {
		return fmt.Errorf("read journal: %w", err)
	}
	return nil
}

func (j *Journal) readTo(since, last uint64, fn func(state.Event) error) error {
	if first, _, at := j.bounds(); since < last && since+1 < first {
		return notRetained(since+1, first, at)
	}
	for since < last {
		events, err := j.chunk(since+1, last)
		if err != nil {
			return err
		}
		for _, e := range events {
			if err := fn(e); err != nil {
				return err
			}
		}
		since += uint64(len(events))
	}
	return nil
}

// Follow calls fn with each event after since, in order, those that are there
// and then those that are appended, until the context ends, fn returns an error,
// or the journal is closed; it returns that error. It holds at most a few
// hundred events. Who follows so slowly that what comes next is no longer
// retained gets ErrNotRetained.
func (j *Journal) Follow(ctx context.Context, since uint64, fn func(state.Event) error) error {
	for {
		// The channel is taken before the position: an append in between wakes
		// us for nothing, never too late.
		j.mu.Lock()
		appended, last := j.appended, j.last
		j.mu.Unlock()
		err := j.readTo(since, last, func(e state.Event) error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fn(e)
		})
		if err != nil {
			return fmt.Errorf("follow journal: %w", err)
		}
		since = max(since, last)
		select {
		case <-ctx.Done():
			return fmt.Errorf("follow journal: %w", context.Cause(ctx))
		case <-appended:
		}
		if err := j.readable(); err != nil {
			return fmt.Errorf("follow journal: %w", err)
		}
	}
}

// History returns the events of one proxy that are retained, the newest limit of
// them (0: all), oldest first. It goes from one to the next without a scan. A
// proxy that was never there has none. When the first is no ProxyRegistered,
// those before it are no longer retained.
func (j *Journal) History(proxyID string, limit int) ([]state.Event, error) {
	if err := j.readable(); err != nil {
		return nil, fmt.Errorf("history of proxy %q: %w", proxyID, err)
	}
	var events []state.Event
	for seq := j.head(hashID(proxyID)); seq != 0 && (limit == 0 || len(events) < limit); {
		next, err := j.historyChunk(seq, proxyID, limit, &events)
		if err != nil {
			return nil, fmt.Errorf("history of proxy %q: %w", proxyID, err)
		}
		seq = next
	}
	slices.Reverse(events)
	return events, nil
}

func (j *Journal) head(hash uint64) uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	if hash == 0 {
		return 0
	}
	return j.heads[hash]
}

// historyChunk appends events of a proxy from seq on backwards, and returns
// where to go on; 0 when that was all.
func (j *Journal) historyChunk(seq uint64, proxyID string, limit int, events *[]state.Event) (next uint64, err error) {
	err = j.view(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(bucketEvents))
		for n := 0; seq != 0 && n < chunkEvents && (limit == 0 || len(*events) < limit); n++ {
			v := b.Get(key(seq))
			if v == nil {
				err := missing(tx, seq)
				if errors.Is(err, ErrNotRetained) {
					seq, err = 0, nil // nor is what came before
				}
				return err
			}
			r, err := parseRecord(key(seq), v)
			if err != nil {
				return err
			}
			if r.prev >= seq {
				return Damage{First: seq, Last: seq, What: "its proxy's event before it is itself or later"}
			}
			e, err := r.event()
			if err != nil {
				return err
			}
			if e.Body.ProxyID() == proxyID {
				*events = append(*events, e)
			}
			seq = r.prev
		}
		return nil
	})
	return seq, err
}

// Export writes each retained event as a line of JSON, see state.Event. It
// writes what Read reads.
func (j *Journal) Export(w io.Writer) error {
	buf := bufio.NewWriter(w)
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	err := j.Read(j.oldest()-1, func(e state.Event) error { return enc.Encode(e) })
	if err != nil {
		return err
	}
	return buf.Flush()
}

// Stats is what a journal says of itself at a moment.
type Stats struct {
	Meta
	First, Last uint64    // oldest and newest event; Last is First-1 when there is none
	FirstTime   time.Time // of the oldest event, zero when there is none
	LastTime    time.Time // of the newest event, zero when there is none
	Snapshots   []uint64  // sequence numbers, in order
	Bytes       int64     // size of the file
}

// Meta returns what the journal says of itself.
func (j *Journal) Meta() Meta {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.meta
}

// Stats returns the journal's figures.
func (j *Journal) Stats() Stats {
	j.mu.Lock()
	s := Stats{
		Meta: j.meta, First: j.first, Last: j.last, FirstTime: j.firstTime, LastTime: j.lastTime,
		Snapshots: slices.Clone(j.snapshots),
	}
	j.mu.Unlock()
	s.Bytes = fileBytes(j.path)
	return s
}
