package journal

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/lictor-mesh/lictor/state"
)

// TestOpenRefusesLaterVersions writes what a later version might, and opens it
// with this one: refused as such, and never said to be damaged.
func TestOpenRefusesLaterVersions(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	event := func(kind state.Kind, body string) func(tx *bbolt.Tx) error {
		r := record{seq: 1, time: at, kind: kind, body: []byte(body)}
		return func(tx *bbolt.Tx) error { return tx.Bucket([]byte(bucketEvents)).Put(key(1), r.encode()) }
	}
	for name, write := range map[string]func(tx *bbolt.Tx) error{
		"kind":  event("ServerMoved", "{}"),
		"field": event(state.KindServerGone, `{"id":"a","why":"b"}`),
		"format": func(tx *bbolt.Tx) error {
			v := record{seq: 1, time: at, kind: state.KindServerGone, body: []byte(`{"id":"a"}`)}.encode()
			v[4] = Format + 1
			return tx.Bucket([]byte(bucketEvents)).Put(key(1), reseal(key(1), v))
		},
		"bucket": func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucket([]byte("indexes"))
			if err != nil {
				return err
			}
			return b.Put([]byte("k"), []byte("v"))
		},
		"field of meta": func(tx *bbolt.Tx) error {
			v := append(make([]byte, sealSize), `{"uuid":"u","epoch":1,"machine_id":"","created":"2026-01-02T03:04:05Z","owner":"o"}`...)
			return tx.Bucket([]byte(bucketMeta)).Put(metaKey, seal(metaKey, v))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			j, _, err := Open(context.Background(), dir, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(j.update(write), j.Close()); err != nil {
				t.Fatal(err)
			}
			if _, _, err := Open(context.Background(), dir, Options{}); !errors.Is(err, ErrFormat) || errors.Is(err, ErrDamaged) {
				t.Errorf("open: %v", err)
			}
			if _, err := Recover(context.Background(), dir, dir+"/saved", nil); !errors.Is(err, ErrFormat) {
				t.Errorf("recover: %v", err)
			}
		})
	}
}

// TestVerifyDecodesWhatIsLeftOver: a snapshot drops a bounded number of events, so
// that some before it may be left. What nobody folds is checked all the same.
func TestVerifyDecodesWhatIsLeftOver(t *testing.T) {
	dir := t.TempDir()
	opts := Options{NoSync: true, Now: func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }}
	j, s, err := Open(context.Background(), dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	for range 6 {
		events, err := j.Append(state.ServerUndrained{ID: "a"})
		if err != nil {
			t.Fatal(err)
		}
		s = state.Fold(s, events[0])
	}
	left := func(body string) error {
		return j.update(func(tx *bbolt.Tx) error {
			b := tx.Bucket([]byte(bucketEvents))
			r := record{seq: 3, time: s.Time, kind: state.KindServerUndrained, body: []byte(body)}
			return errors.Join(b.Delete(key(1)), b.Delete(key(2)), b.Put(key(3), r.encode()))
		})
	}
	if err := errors.Join(j.Snapshot(s), left(`{"id":"a","by":""}`), j.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(context.Background(), dir, nil); err != nil {
		t.Errorf("with events left over: %v", err)
	}
	if j, _, err = Open(context.Background(), dir, opts); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(left(`{"id":7}`), j.Close()); err != nil {
		t.Fatal(err)
	}
	if r, err := Verify(context.Background(), dir, nil); !errors.Is(err, ErrDamaged) || len(r.Damage) != 1 || r.Damage[0].First != 3 {
		t.Errorf("with one that cannot be decoded: %v, %+v", err, r.Damage)
	}
}

// TestTimeWhenOnlyASnapshotIsLeft: a recovery may have saved a snapshot and no
// event. Time goes on from there, and does not go back.
func TestTimeWhenOnlyASnapshotIsLeft(t *testing.T) {
	dir := t.TempDir()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	opts := Options{NoSync: true, Now: func() time.Time { return at }}
	j, s, err := Open(context.Background(), dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	events, err := j.Append(state.ServerUndrained{ID: "a"})
	if err != nil {
		t.Fatal(err)
	}
	s = state.Fold(s, events[0])
	err = errors.Join(j.Snapshot(s), j.update(func(tx *bbolt.Tx) error {
		m := j.Meta()
		m.Base = s.Seq
		value, err := m.encode()
		return errors.Join(err, tx.Bucket([]byte(bucketMeta)).Put(metaKey, value), tx.Bucket([]byte(bucketEvents)).Delete(key(1)))
	}), j.Close())
	if err != nil {
		t.Fatal(err)
	}
	at = at.Add(-time.Hour)
	j, again, err := Open(context.Background(), dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	next, err := j.Append(state.ServerUndrained{ID: "a"})
	if err != nil || !again.Equal(s) || next[0].Seq != 2 || next[0].Time.Before(s.Time) {
		t.Errorf("after event %d of %s comes %+v: %v", s.Seq, s.Time, next, err)
	}
	for ask, want := range map[time.Time]uint64{s.Time: 2, at: 0} { // both are of one time
		got, err := j.StateAtTime(context.Background(), ask)
		if want == 0 && !errors.Is(err, ErrNotRetained) || want > 0 && (err != nil || got.Seq != want) {
			t.Errorf("at %s: event %d, want %d: %v", ask, got.Seq, want, err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestOpenRefusesWhatDoesNotFit: every record is sound by itself here, and a
// snapshot stands for all of them, so that nobody would read them at a start.
func TestOpenRefusesWhatDoesNotFit(t *testing.T) {
	rewrite := func(seq uint64, change func(r *record)) func(b *bbolt.Bucket) error {
		return func(b *bbolt.Bucket) error {
			r, err := parseRecord(key(seq), b.Get(key(seq)))
			if err != nil {
				return err
			}
			change(&r)
			return b.Put(key(seq), r.encode())
		}
	}
	for name, test := range map[string]struct {
		spoil func(events *bbolt.Bucket) error
		want  string
	}{
		"a gap":             {func(b *bbolt.Bucket) error { return b.Delete(key(3)) }, "event 3: not there"},
		"time goes back":    {rewrite(4, func(r *record) { r.time = r.time.Add(-time.Hour) }), "event 4: is of"},
		"a chain too short": {rewrite(4, func(r *record) { r.prev = 2 }), "event 4: its proxy's event before it is 3, not 2"},
		"a chain forwards":  {rewrite(4, func(r *record) { r.prev = 5 }), "event 4: its proxy's event before it is 3, not 5"},
		"no chain":          {rewrite(4, func(r *record) { r.prev = 0 }), "event 4: its proxy's event before it is 3, not 0"},
		"no end":            {func(b *bbolt.Bucket) error { return b.Delete(key(6)) }, "event 6: not there, though there is a snapshot of them"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			j, s, err := Open(context.Background(), dir, Options{NoSync: true})
			if err != nil {
				t.Fatal(err)
			}
			for range 6 {
				events, err := j.Append(state.Placed{ID: "one"})
				if err != nil {
					t.Fatal(err)
				}
				s = state.Fold(s, events[0])
			}
			err = errors.Join(j.Snapshot(s), j.update(func(tx *bbolt.Tx) error { return test.spoil(tx.Bucket([]byte(bucketEvents))) }), j.Close())
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := Open(context.Background(), dir, Options{NoSync: true}); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("open: %v; want %q", err, test.want)
			}
		})
	}
}

// TestOpenRefusesAJournalWithoutABeginning: a state can be had only from the first
// event or from a snapshot.
func TestOpenRefusesAJournalWithoutABeginning(t *testing.T) {
	dir := t.TempDir()
	j, _, err := Open(context.Background(), dir, Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := j.Append(state.ServerUndrained{ID: "a"}); err != nil {
			t.Fatal(err)
		}
	}
	err = errors.Join(j.update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte(bucketEvents)).Delete(key(1)) }), j.Close())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(context.Background(), dir, Options{NoSync: true}); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "event 1: not there, and no snapshot stands for them") {
		t.Errorf("open: %v", err)
	}
}
