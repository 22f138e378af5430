package journal_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/state/journal"
)

func TestReadAndExport(t *testing.T) {
	j, _ := mustOpen(t, t.TempDir(), journal.Options{})
	var want []state.Event
	for n := uint32(1); n <= 400; n++ { // more than one chunk
		want = append(want, mustAppend(t, j, registered(n), placed(n, state.PlaceInitial))...)
	}
	for _, since := range []uint64{0, 1, 255, 256, 257, 799, 800, 9999} {
		var got []state.Event
		if err := j.Read(since, func(e state.Event) error { got = append(got, e); return nil }); err != nil {
			t.Fatal(err)
		}
		if tail := want[min(since, 800):]; len(got) != len(tail) || len(got) > 0 && !reflect.DeepEqual(got, tail) {
			t.Errorf("since %d: %d events, want %d", since, len(got), len(tail))
		}
	}
	var out bytes.Buffer
	if err := j.Export(&out); err != nil {
		t.Fatal(err)
	}
	var exported []state.Event
	for lines := bufio.NewScanner(&out); lines.Scan(); {
		var e state.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		exported = append(exported, e)
	}
	if !reflect.DeepEqual(exported, want) {
		t.Errorf("export: %d events, want %d", len(exported), len(want))
	}
	ended, end := context.WithCancel(context.Background())
	end()
	// Enough for a replay to look whether anybody waits for it.
	mustAppend(t, j, slices.Repeat([]state.Body{placed(1, state.PlaceRebalance)}, 600)...)
	if _, err := j.StateAtSeq(ended, j.Stats().Last); !errors.Is(err, context.Canceled) {
		t.Errorf("a replay that nobody waits for: %v", err)
	}
	stop := errors.New("stop")
	if err := j.Read(0, func(state.Event) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("error of fn: %v", err)
	}
}

func TestFollow(t *testing.T) {
	j, _ := mustOpen(t, t.TempDir(), journal.Options{})
	mustAppend(t, j, registered(1))
	ctx, cancel := context.WithCancel(context.Background())
	got := make(chan uint64)
	var wg sync.WaitGroup
	wg.Go(func() {
		err := j.Follow(ctx, 0, func(e state.Event) error { got <- e.Seq; return nil })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("follow: %v", err)
		}
	})
	const events = 1000
	wg.Go(func() {
		// The reader takes one at a time; the writer does not wait for it.
		for n := uint32(2); n <= events; n++ {
			mustAppend(t, j, registered(n))
		}
	})
	for want := uint64(1); want <= events; want++ {
		if seq := <-got; seq != want {
			t.Fatalf("got event %d, want %d", seq, want)
		}
	}
	cancel()
	wg.Wait()
}

func TestCloseEndsFollow(t *testing.T) {
	j, _ := mustOpen(t, t.TempDir(), journal.Options{})
	done := make(chan error)
	go func() { done <- j.Follow(context.Background(), 0, func(state.Event) error { return nil }) }()
	time.Sleep(10 * time.Millisecond)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, journal.ErrClosed) {
		t.Errorf("follow: %v", err)
	}
	if _, err := j.Append(registered(1)); !errors.Is(err, journal.ErrClosed) {
		t.Errorf("append: %v", err)
	}
	if err := j.Read(0, nil); !errors.Is(err, journal.ErrClosed) {
		t.Errorf("read: %v", err)
	}
	if _, err := j.History("x", 0); !errors.Is(err, journal.ErrClosed) {
		t.Errorf("history: %v", err)
	}
}

// TestSlowReaderDoesNotHoldUpTheWriter stops a reader inside fn.
func TestSlowReaderDoesNotHoldUpTheWriter(t *testing.T) {
	j, _ := mustOpen(t, t.TempDir(), journal.Options{NoSync: true})
	mustAppend(t, j, registered(1))
	inside, release, done := make(chan bool), make(chan bool), make(chan error)
	go func() {
		done <- j.Read(0, func(state.Event) error { inside <- true; <-release; return nil })
	}()
	<-inside
	for n := uint32(2); n < 60_000; n += 1000 { // the file grows meanwhile
		var bodies []state.Body
		for i := range uint32(1000) {
			bodies = append(bodies, registered(n+i))
		}
		mustAppend(t, j, bodies...)
	}
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestHistory(t *testing.T) {
	dir := t.TempDir()
	j, _ := mustOpen(t, dir, journal.Options{})
	want := map[string][]state.Event{}
	add := func(bodies ...state.Body) {
		for _, e := range mustAppend(t, j, bodies...) {
			want[e.Body.ProxyID()] = append(want[e.Body.ProxyID()], e)
		}
	}
	gone := registered(7).Proxy.ID
	add(registered(7), placed(7, state.PlaceInitial), placed(7, state.PlaceBounced)) // one batch
	add(state.ServerSeen{Server: state.ServerSpec{ID: "s1", Slot: 1, Port: 8502}})
	add(registered(8), state.ProxyDeregistered{ID: gone, Reason: state.LeaveOperator})
	for range 600 {
		add(placed(8, state.PlaceRebalance))
	}
	check := func(t *testing.T, j *journal.Journal) {
		t.Helper()
		for _, id := range []string{gone, registered(8).Proxy.ID, "nobody"} {
			for _, limit := range []int{0, 1, 2, 300} {
				got, err := j.History(id, limit)
				if err != nil {
					t.Fatal(err)
				}
				w := want[id]
				if limit > 0 && len(w) > limit {
					w = w[len(w)-limit:]
				}
				if len(got) != len(w) || len(w) > 0 && !reflect.DeepEqual(got, w) {
					t.Errorf("history of %s, limit %d: %d events, want %d", id, limit, len(got), len(w))
				}
			}
		}
	}
	check(t, j)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	again, _ := mustOpen(t, dir, journal.Options{})
	check(t, again)
}

// TestReadersWhileEventsAreDropped reads everything there is to read while
// snapshots drop it. What is gone is not retained; it is never damage.
func TestReadersWhileEventsAreDropped(t *testing.T) {
	j, s := mustOpen(t, t.TempDir(), journal.Options{NoSync: true, Retain: journal.Retain{Events: 20}})
	s = state.Fold(s, mustAppend(t, j, registered(1))[0])
	done := make(chan struct{})
	var wg sync.WaitGroup
	ask := func(what string, fn func() error) {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if err := fn(); err != nil && !errors.Is(err, journal.ErrNotRetained) {
					t.Errorf("%s: %v", what, err)
					return
				}
			}
		})
	}
	ctx := context.Background()
	ask("read", func() error { return j.Read(j.Stats().First-1, func(state.Event) error { return nil }) })
	ask("history", func() error { _, err := j.History(registered(1).Proxy.ID, 0); return err })
	ask("state at seq", func() error { _, err := j.StateAtSeq(ctx, j.Stats().First); return err })
	ask("state at time", func() error { _, err := j.StateAtTime(ctx, j.Stats().FirstTime); return err })
	ask("export", func() error { return j.Export(io.Discard) })
	for n := range 1500 {
		s = state.Fold(s, mustAppend(t, j, placed(1, state.PlaceRebalance))[0])
		if n%5 == 0 {
			if err := j.Snapshot(s); err != nil {
				t.Fatal(err)
			}
		}
	}
	close(done)
	wg.Wait()
}
