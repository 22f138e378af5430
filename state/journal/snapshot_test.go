package journal_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/state/journal"
)

// TestRetention takes a snapshot after every 10 events, and asks for every state
// there ever was.
func TestRetention(t *testing.T) {
	for name, retain := range map[string]journal.Retain{
		"by count": {Events: 50},
		"by age":   {Events: 1 << 40, Age: 50 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClock()
			j, s := mustOpen(t, t.TempDir(), journal.Options{Now: c.now, Retain: retain, NoSync: true})
			states := []state.State{s.Clone()}
			for n := uint32(1); n <= 200; n++ {
				c.at = c.at.Add(time.Second)
				s = state.Fold(s, mustAppend(t, j, registered(n))[0])
				states = append(states, s.Clone())
				if n%10 != 0 {
					continue
				}
				if err := j.Snapshot(s); err != nil {
					t.Fatal(err)
				}
				st := j.Stats()
				if len(st.Snapshots) > 3 {
					t.Fatalf("snapshots %v", st.Snapshots)
				}
				if kept := st.Last + 1 - st.First; kept < min(uint64(n), 50) || kept > 120 {
					t.Fatalf("at %d: %d events are kept", n, kept)
				}
				if n%100 == 0 {
					checkStates(t, j, states)
				}
			}
		})
	}
}

// checkStates asks for each state by number and by time: it is right, or is no
// longer retained and everything after the oldest that the error names is there.
func checkStates(t *testing.T, j *journal.Journal, states []state.State) {
	t.Helper()
	ctx := context.Background()
	for seq := range states {
		got, err := j.StateAtSeq(ctx, uint64(seq))
		var late *journal.RetentionError
		if errors.As(err, &late) {
			if uint64(seq) >= late.Seq || !errors.Is(err, journal.ErrNotRetained) || !late.Time.Equal(states[late.Seq].Time) {
				t.Fatalf("state at %d: %v", seq, err)
			}
			if _, err := j.StateAtTime(ctx, states[seq].Time); !errors.Is(err, journal.ErrNotRetained) {
				t.Fatalf("state at the time of %d: %v", seq, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if !got.Equal(states[seq]) {
			t.Fatalf("state at %d differs", seq)
		}
		if byTime, err := j.StateAtTime(ctx, states[seq].Time.Add(time.Millisecond)); err != nil || !byTime.Equal(states[seq]) {
			t.Fatalf("state at the time of %d: %v", seq, err)
		}
	}
}

func TestReadNotRetained(t *testing.T) {
	j, s := mustOpen(t, t.TempDir(), journal.Options{Retain: journal.Retain{Events: 10}})
	for n := uint32(1); n <= 100; n++ {
		s = state.Fold(s, mustAppend(t, j, registered(n))[0])
		if n%10 == 0 {
			if err := j.Snapshot(s); err != nil {
				t.Fatal(err)
			}
		}
	}
	first := j.Stats().First
	if first == 1 {
		t.Fatal("nothing was dropped")
	}
	var late *journal.RetentionError
	if err := j.Read(first-2, func(state.Event) error { return nil }); !errors.As(err, &late) || late.Seq != first {
		t.Errorf("read: %v", err)
	}
	if err := j.Read(first-1, func(state.Event) error { return nil }); err != nil {
		t.Errorf("read from the oldest: %v", err)
	}
	if h, err := j.History(registered(1).Proxy.ID, 0); err != nil || len(h) != 0 {
		t.Errorf("history of what is dropped: %d events, %v", len(h), err)
	}
}

func TestSnapshotOfTheFutureIsRefused(t *testing.T) {
	j, s := mustOpen(t, t.TempDir(), journal.Options{})
	s = state.Fold(s, mustAppend(t, j, registered(1))[0])
	s.Seq = 2
	if err := j.Snapshot(s); err == nil {
		t.Error("a snapshot of an event that is not there was kept")
	}
}

// TestVerifyFindsAWrongSnapshot keeps a state that the events do not give.
func TestVerifyFindsAWrongSnapshot(t *testing.T) {
	dir := t.TempDir()
	j, s, err := journal.Open(context.Background(), dir, journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s = state.Fold(s, mustAppend(t, j, registered(1))[0])
	s = state.Fold(s, state.Event{Time: s.Time, Body: placed(1, state.PlaceInitial)}) // not journaled
	if err := errors.Join(j.Snapshot(s), j.Close()); err != nil {
		t.Fatal(err)
	}
	if r, err := journal.Verify(context.Background(), dir, nil); !errors.Is(err, journal.ErrDamaged) || len(r.Damage) == 0 {
		t.Errorf("verify: %v", err)
	}
	rec, err := journal.Recover(context.Background(), dir, filepath.Join(t.TempDir(), "saved"), nil)
	if err != nil || rec.Last != 1 || len(rec.Snapshots) != 0 || len(rec.Damage) != 1 {
		t.Errorf("recovered %+v, %v; want the event, and not the snapshot", rec, err)
	}
}

// TestVerifyChecksTheInvariants of the state at the end: sound events need not
// make sense.
func TestVerifyChecksTheInvariants(t *testing.T) {
	dir := t.TempDir()
	j, _, err := journal.Open(context.Background(), dir, journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	twin := registered(1)
	twin.Proxy.ID = "twin"
	mustAppend(t, j, registered(1), twin)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if r, err := journal.Verify(context.Background(), dir, nil); !errors.Is(err, journal.ErrDamaged) || len(r.Damage) != 1 || !strings.Contains(r.Damage[0].What, "both hold VIP") {
		t.Errorf("verify: %v, %+v", err, r.Damage)
	}
}

func TestForeign(t *testing.T) {
	dir := t.TempDir()
	ctx := context.Background()
	j, _, err := journal.Open(ctx, dir, journal.Options{MachineID: "a"})
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, j, registered(1))
	was := j.Meta()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := journal.Open(ctx, dir, journal.Options{MachineID: "b"}); !errors.Is(err, journal.ErrForeign) {
		t.Fatalf("open on another machine: %v", err)
	}
	taken := t.TempDir()
	if _, err := journal.Recover(ctx, dir, filepath.Join(taken, journal.FileName), nil); err != nil {
		t.Fatal(err)
	}
	j, s := mustOpen(t, taken, journal.Options{MachineID: "b"})
	if m := j.Meta(); m.Epoch != was.Epoch+1 || m.UUID != was.UUID || m.MachineID != "b" || len(s.Proxies) != 1 {
		t.Errorf("taken over: %+v, %d proxies", m, len(s.Proxies))
	}
}

func TestReadOnly(t *testing.T) {
	dir := t.TempDir()
	ctx := context.Background()
	j, s := mustOpen(t, dir, journal.Options{})
	s = state.Fold(s, mustAppend(t, j, registered(1))[0])
	if _, err := journal.OpenReadOnly(ctx, dir, journal.Options{}); !errors.Is(err, journal.ErrLocked) {
		t.Errorf("while a daemon writes: %v", err)
	}
	if _, err := journal.Verify(ctx, dir, nil); !errors.Is(err, journal.ErrLocked) {
		t.Errorf("verify while a daemon writes: %v", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, filepath.Join(dir, journal.FileName)} {
		ro, err := journal.OpenReadOnly(ctx, path, journal.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ro.StateAtSeq(ctx, 1); err != nil || !got.Equal(s) {
			t.Errorf("state: %v", err)
		}
		if _, err := ro.Append(registered(2)); !errors.Is(err, journal.ErrReadOnly) {
			t.Errorf("append: %v", err)
		}
		if err := ro.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := journal.OpenReadOnly(ctx, filepath.Join(dir, "none"), journal.Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no such file: %v", err)
	}
}
