package journal_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/state/journal"
)

// past is a journal with what it was at each event.
type past struct {
	*journal.Journal
	c      *clock
	s      state.State
	states []state.State // by sequence number
}

func newPast(t *testing.T, dir string, retain uint64) *past {
	t.Helper()
	c := newClock()
	j, s := mustOpen(t, dir, journal.Options{Now: c.now, Retain: journal.Retain{Events: retain}, NoSync: true})
	return &past{j, c, s, []state.State{s.Clone()}}
}

// add journals n registrations in one batch, so of one time, so long after the
// last one.
func (p *past) add(t *testing.T, after time.Duration, n int) {
	t.Helper()
	p.c.at = p.c.at.Add(after)
	bodies := make([]state.Body, n)
	for i := range bodies {
		bodies[i] = registered(uint32(len(p.states) + i))
	}
	p.append(t, bodies)
}

func (p *past) append(t *testing.T, bodies []state.Body) {
	t.Helper()
	for _, e := range mustAppend(t, p.Journal, bodies...) {
		p.s = state.Fold(p.s, e)
		p.states = append(p.states, p.s.Clone())
	}
}

func (p *past) snapshot(t *testing.T) {
	t.Helper()
	if err := p.Snapshot(p.s.Clone()); err != nil {
		t.Fatal(err)
	}
}

// each runs a test on the journal as it is, opened again, and opened offline.
func (p *past) each(t *testing.T, dir string, test func(t *testing.T, j *journal.Journal)) {
	t.Run("live", func(t *testing.T) { test(t, p.Journal) })
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	t.Run("reopened", func(t *testing.T) {
		j, _ := mustOpen(t, dir, journal.Options{NoSync: true})
		test(t, j)
	})
	t.Run("offline", func(t *testing.T) {
		j, err := journal.OpenReadOnly(context.Background(), dir, journal.Options{})
		if err != nil {
			t.Fatal(err)
		}
		test(t, j)
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A state at a time is that after the last event which is not later.
func TestStateAtTheEdgesOfTime(t *testing.T) {
	dir := t.TempDir()
	p := newPast(t, dir, 0)
	p.add(t, 0, 1)             // event 1
	p.add(t, time.Second, 3)   // 2 to 4, at one time
	p.add(t, 2*time.Second, 1) // 5
	p.add(t, -24*time.Hour, 1) // 6, with the clock set back: of the time of 5
	start := p.states[1].Time  // of event 1
	at := func(d time.Duration) time.Time { return start.Add(d) }
	p.each(t, dir, func(t *testing.T, j *journal.Journal) {
		if st := j.Stats(); !st.FirstTime.Equal(start) || !st.LastTime.Equal(at(3*time.Second)) {
			t.Errorf("events of %s to %s, want %s to %s", st.FirstTime, st.LastTime, start, at(3*time.Second))
		}
		for _, ask := range []struct {
			at   time.Time
			want uint64
		}{
			{time.Time{}, 0}, {at(-1), 0}, {at(0), 1}, {at(1), 1},
			{at(time.Second - 1), 1}, {at(time.Second), 4}, {at(time.Second + 1), 4},
			{at(3*time.Second - 1), 4}, {at(3 * time.Second), 6}, {at(1000 * time.Hour), 6},
			{at(time.Second).In(time.FixedZone("east", 7200)), 4},
		} {
			got, err := j.StateAtTime(context.Background(), ask.at)
			if err != nil || !got.Equal(p.states[ask.want]) {
				t.Errorf("at %s: event %d, want %d: %v", ask.at, got.Seq, ask.want, err)
			}
		}
		for seq := range uint64(7) {
			if got, err := j.StateAtSeq(context.Background(), seq); err != nil || !got.Equal(p.states[seq]) {
				t.Errorf("event %d: %v", seq, err)
			}
		}
		if _, err := j.StateAtSeq(context.Background(), 7); err == nil || !strings.Contains(err.Error(), "the newest event is 6") {
			t.Errorf("an event that is yet to come: %v", err)
		}
	})
}

// Of what is no longer retained the oldest is named, and it can be had: by its
// number, and at its own time, and not a nanosecond before.
func TestStateAtTheOldest(t *testing.T) {
	dir := t.TempDir()
	p := newPast(t, dir, 10)
	for range 6 {
		for range 10 {
			p.add(t, time.Second, 1)
		}
		p.snapshot(t)
	}
	st := p.Stats()
	oldest := st.Snapshots[0]
	if st.First == 1 || oldest+1 != st.First {
		t.Fatalf("events from %d, snapshots %v: nothing to test", st.First, st.Snapshots)
	}
	p.each(t, dir, func(t *testing.T, j *journal.Journal) {
		wantOldest(t, j, oldest, p.states[oldest].Time)
		for seq := oldest; seq <= st.Last; seq++ {
			for name, ask := range asks(j, seq, p.states[seq].Time) {
				if got, err := ask(); err != nil || !got.Equal(p.states[seq]) {
					t.Errorf("state by %s of event %d: %v", name, seq, err)
				}
			}
		}
		err := j.Read(st.First-2, func(state.Event) error { return nil })
		if late := (*journal.RetentionError)(nil); !errors.As(err, &late) || late.Seq != st.First || !late.Time.Equal(p.states[st.First].Time) {
			t.Errorf("read from one before the oldest event %d: %v", st.First, err)
		}
	})
}

// A snapshot drops a bounded number of events; those that are left over can be
// read until the next one, but the states before the snapshot cannot be had.
func TestSnapshotDropsABoundedNumber(t *testing.T) {
	const most = 20_000
	dir := t.TempDir()
	p := newPast(t, dir, 10)
	same := func(n int) []state.Body { return slices.Repeat([]state.Body{placed(1, state.PlaceRebalance)}, n) }
	p.add(t, 0, 1)
	p.append(t, same(most))
	p.c.at = p.c.at.Add(time.Second)
	p.append(t, same(499))
	if !p.SnapshotDue() {
		t.Errorf("no snapshot is due after %d events", most)
	}
	p.snapshot(t)
	base := p.s.Clone()
	p.append(t, same(100))
	if p.SnapshotDue() {
		t.Error("one is due after a hundred more")
	}
	p.snapshot(t)
	p.each(t, dir, func(t *testing.T, j *journal.Journal) {
		st := j.Stats()
		if st.First != most+1 || len(st.Snapshots) != 2 {
			t.Fatalf("events from %d, snapshots %v: want no more than %d dropped", st.First, st.Snapshots, most)
		}
		wantOldest(t, j, base.Seq, base.Time)
		if got, err := j.StateAtSeq(context.Background(), base.Seq); err != nil || !got.Equal(base) {
			t.Errorf("the state of the oldest snapshot: %v", err)
		}
		n := 0
		if err := j.Read(most, func(state.Event) error { n++; return nil }); err != nil || n != 600 {
			t.Errorf("%d events are read, want 600: %v", n, err)
		}
	})
	again, s := mustOpen(t, dir, journal.Options{Retain: journal.Retain{Events: 10}, NoSync: true})
	s = state.Fold(s, mustAppend(t, again, registered(49_999))[0])
	if err := again.Snapshot(s); err != nil || again.Stats().First != base.Seq+1 {
		t.Errorf("the next one leaves events from %d, want from %d: %v", again.Stats().First, base.Seq+1, err)
	}
}

// asks are the ways to ask for the state at an event.
func asks(j *journal.Journal, seq uint64, at time.Time) map[string]func() (state.State, error) {
	return map[string]func() (state.State, error){
		"number": func() (state.State, error) { return j.StateAtSeq(context.Background(), seq) },
		"time":   func() (state.State, error) { return j.StateAtTime(context.Background(), at) },
	}
}

// wantOldest fails the test unless what is asked for from before an event is
// refused, that event being named as the oldest.
func wantOldest(t *testing.T, j *journal.Journal, oldest uint64, at time.Time) {
	t.Helper()
	for _, seq := range []uint64{0, 1, oldest - 1} {
		for name, ask := range asks(j, seq, at.Add(-1-time.Duration(oldest-1-seq)*time.Second)) {
			_, err := ask()
			var late *journal.RetentionError
			if !errors.As(err, &late) || !errors.Is(err, journal.ErrNotRetained) || late.Seq != oldest || !late.Time.Equal(at) {
				t.Errorf("state by %s of event %d: %v; want event %d of %s named as the oldest", name, seq, err, oldest, at)
			}
		}
	}
}

// A snapshot and what it makes superfluous are one transaction: when that fails
// nothing is dropped, and nothing is kept of it.
func TestSnapshotIsOneTransaction(t *testing.T) {
	var fault error
	var older state.State
	commits := 0
	c := newClock()
	dir := t.TempDir()
	j, s := mustOpen(t, dir, journal.Options{
		Now: c.now, Retain: journal.Retain{Events: 10}, NoSync: true,
		Fault: func() error { commits++; return fault },
	})
	for n := uint32(1); n <= 50; n++ {
		older = s.Clone()
		s = state.Fold(s, mustAppend(t, j, registered(n))[0])
		if n%10 == 0 && n < 50 {
			if err := j.Snapshot(s); err != nil {
				t.Fatal(err)
			}
		}
	}
	was := j.Stats()
	fault = errFull
	if err := j.Snapshot(s); !errors.Is(err, journal.ErrFull) {
		t.Fatalf("snapshot on a full disk: %v", err)
	}
	if is := j.Stats(); is.First != was.First || len(is.Snapshots) != len(was.Snapshots) || !is.FirstTime.Equal(was.FirstTime) {
		t.Errorf("events from %d and snapshots %v were kept, after a failure from %d and %v", was.First, was.Snapshots, is.First, is.Snapshots)
	}
	n := 0
	if err := j.Read(was.First-1, func(state.Event) error { n++; return nil }); err != nil || n != int(was.Last+1-was.First) {
		t.Errorf("%d events are read after a failure, want %d to %d: %v", n, was.First, was.Last, err)
	}
	fault, commits = nil, 0
	if err := j.Snapshot(s); err != nil {
		t.Fatal(err)
	}
	is := j.Stats()
	if is.First == was.First || is.Snapshots[len(is.Snapshots)-1] != s.Seq || is.Snapshots[0] == was.Snapshots[0] {
		t.Fatalf("events from %d, snapshots %v: it was to drop some of each", is.First, is.Snapshots)
	}
	if commits != 1 {
		t.Errorf("it took %d transactions", commits)
	}
	for _, nothingNew := range []state.State{s, older} {
		if err := j.Snapshot(nothingNew); err != nil {
			t.Fatal(err)
		}
	}
	if again := j.Stats(); commits != 1 || !slices.Equal(again.Snapshots, is.Snapshots) {
		t.Errorf("states without news took %d transactions and left snapshots %v, not %v", commits-1, again.Snapshots, is.Snapshots)
	}
}
