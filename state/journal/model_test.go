package journal_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/state/journal"
)

// model is what a journal must be: every event that Append has returned.
type model struct {
	t      *rapid.T
	dir    string
	clock  *clock
	fault  error
	j      *journal.Journal
	s      state.State
	events []state.Event
	states []state.State // by sequence number
}

func (m *model) opts() journal.Options {
	return journal.Options{
		Now: m.clock.now, Retain: journal.Retain{Events: 12}, NoSync: true,
		Fault: func() error { return m.fault },
	}
}

func (m *model) check(err error) {
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *model) open() {
	j, s, err := journal.Open(context.Background(), m.dir, m.opts())
	m.check(err)
	if !s.Equal(m.s) {
		m.t.Fatalf("opened at event %d, want %d, or as another state", s.Seq, m.s.Seq)
	}
	m.j, m.s = j, s
}

// bodies draws a batch.
func (m *model) bodies() []state.Body {
	var all []state.Body
	for range rapid.IntRange(1, 6).Draw(m.t, "batch") {
		n := uint32(rapid.IntRange(1, 5).Draw(m.t, "proxy"))
		switch rapid.IntRange(0, 2).Draw(m.t, "kind") {
		case 0:
			all = append(all, registered(n))
		case 1:
			all = append(all, placed(n, state.PlaceRebalance))
		case 2:
			all = append(all, state.ProxyDeregistered{ID: registered(n).Proxy.ID, Reason: state.LeaveOperator})
		}
	}
	return all
}

func (m *model) Append(t *rapid.T) {
	m.t = t
	m.clock.at = m.clock.at.Add(time.Duration(rapid.IntRange(-5, 60).Draw(t, "seconds")) * time.Second)
	bodies := m.bodies()
	events, err := m.j.Append(bodies...)
	m.check(err)
	for i, e := range events {
		if e.Seq != uint64(len(m.events))+1 || e.Time.Before(m.s.Time) || !reflect.DeepEqual(e.Body, bodies[i]) {
			t.Fatalf("appended %+v after event %d of %s", e, len(m.events), m.s.Time)
		}
		m.events = append(m.events, e)
		m.s = state.Fold(m.s, e)
		m.states = append(m.states, m.s.Clone())
	}
}

func (m *model) AppendToAFullDisk(t *rapid.T) {
	m.t = t
	m.fault = errFull
	if _, err := m.j.Append(m.bodies()...); !errors.Is(err, journal.ErrFull) {
		t.Fatalf("append: %v", err)
	}
	m.fault = nil
}

func (m *model) AppendToABrokenDiskAndRestart(t *rapid.T) {
	m.t = t
	m.fault = syscall.EIO
	for range 2 {
		if _, err := m.j.Append(m.bodies()...); !errors.Is(err, journal.ErrBroken) {
			t.Fatalf("append: %v", err)
		}
		m.fault = nil
	}
	m.Reopen(t)
}

func (m *model) Snapshot(t *rapid.T) {
	m.t = t
	m.check(m.j.Snapshot(m.s.Clone()))
}

func (m *model) Reopen(t *rapid.T) {
	m.t = t
	m.check(m.j.Close())
	m.open()
}

// Recover goes on with a recovered copy of the journal, which nothing was wrong
// with.
func (m *model) Recover(t *rapid.T) {
	m.t = t
	m.check(m.j.Close())
	path := filepath.Join(m.dir, journal.FileName)
	rec, err := journal.Recover(context.Background(), path, path+".saved", nil)
	m.check(err)
	if rec.Last != m.s.Seq || len(rec.Lost)+len(rec.Damage) > 0 {
		t.Fatalf("recovered %+v of %d events", rec, m.s.Seq)
	}
	m.check(os.Rename(path+".saved", path))
	m.open()
}

// Check compares everything that can be asked. It runs after each step.
func (m *model) Check(t *rapid.T) {
	m.t = t
	st := m.j.Stats()
	if st.Last != uint64(len(m.events)) || st.Last-st.First+1 < min(st.Last, 12) {
		t.Fatalf("events %d to %d of %d are there", st.First, st.Last, len(m.events))
	}
	kept := m.events[st.First-1:]
	var got []state.Event
	m.check(m.j.Read(st.First-1, func(e state.Event) error { got = append(got, e); return nil }))
	if len(got) != len(kept) || len(got) > 0 && !reflect.DeepEqual(got, kept) {
		t.Fatalf("read %d events, want %d", len(got), len(kept))
	}
	id := registered(uint32(rapid.IntRange(1, 5).Draw(t, "history of"))).Proxy.ID
	var want []state.Event
	for _, e := range kept {
		if e.Body.ProxyID() == id {
			want = append(want, e)
		}
	}
	history, err := m.j.History(id, 0)
	m.check(err)
	if len(history) != len(want) || len(want) > 0 && !reflect.DeepEqual(history, want) {
		t.Fatalf("history of %s: %d events, want %d", id, len(history), len(want))
	}
	seq := rapid.IntRange(0, len(m.events)).Draw(t, "state at")
	s, err := m.j.StateAtSeq(context.Background(), uint64(seq))
	if errors.Is(err, journal.ErrNotRetained) && st.First > 1 && uint64(seq) < st.Snapshots[0] {
		return
	}
	m.check(err)
	if !s.Equal(m.states[seq]) {
		t.Fatalf("the state at event %d is another", seq)
	}
}

// TestModel runs random commands against a journal and the model of it.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "journal-model")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		m := &model{t: t, dir: dir, clock: newClock(), s: state.New(), states: []state.State{state.New()}}
		m.open()
		defer m.close()
		actions := rapid.StateMachineActions(m)
		delete(actions, "open")
		actions[""] = m.Check
		t.Repeat(actions)
	})
}

func (m *model) close() {
	m.check(m.j.Close())
	_, err := journal.Verify(context.Background(), m.dir, nil)
	m.check(err)
}
