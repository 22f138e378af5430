package presence

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lictor-mesh/lictor/daemon/catalog"
	"github.com/lictor-mesh/lictor/state"
)

// sickly is a registry whose journal cannot be written for a while.
type sickly struct {
	*world
	sick bool
}

var errSick = errors.New("the journal cannot be written")

func (s *sickly) Change(ctx context.Context, c state.ProxyChanged, allow func(*state.Proxy) error) error {
	if s.sick {
		return errSick
	}
	return s.world.Change(ctx, c, allow)
}

func (s *sickly) Deregister(ctx context.Context, id string, why state.LeaveReason, allow func(*state.Proxy) error) error {
	if s.sick {
		return errSick
	}
	return s.world.Deregister(ctx, id, why, allow)
}

// What keeps the watcher from asking is said once for as long as it lasts.
func TestTroubleIsSaidOnce(t *testing.T) {
	w, _ := newWorld("a")
	var log strings.Builder
	watcher := NewWatcher(w, w, slog.New(slog.NewTextHandler(&log, nil)))
	said := func() int { return strings.Count(log.String(), "no contact") }
	w.problem = errors.New("no contact")
	for i := range 3 {
		watcher.look(t.Context(), time.Duration(i)*time.Minute)
	}
	if said() != 1 {
		t.Errorf("said %d times, want once:\n%s", said(), log.String())
	}
	w.problem = nil
	watcher.look(t.Context(), 4*time.Minute)
	w.problem = errors.New("no contact")
	watcher.look(t.Context(), 5*time.Minute)
	if said() != 2 {
		t.Errorf("said %d times after it was over and came back, want twice", said())
	}
}

// What could not be promised is tried again at the next look.
func TestARegistryThatCannotPromiseIsAskedAgain(t *testing.T) {
	w, _ := newWorld("a")
	s := &sickly{world: w, sick: true}
	watcher := NewWatcher(s, w, slog.New(slog.DiscardHandler))
	w.in = []string{"a"}
	watcher.look(t.Context(), 0)
	s.sick = false
	watcher.look(t.Context(), time.Minute)
	if !w.s.Proxies["a"].Known {
		t.Fatal("it is not recorded that Consul knows the proxy")
	}
	w.in = nil
	watcher.look(t.Context(), 2*time.Minute)
	s.sick = true
	watcher.look(t.Context(), 2*time.Minute+missingFor)
	s.sick = false
	watcher.look(t.Context(), 2*time.Minute+missingFor+time.Second)
	if !slices.Equal(w.reaped, []string{"a"}) {
		t.Errorf("reaped %v, want a at once when the journal can be written", w.reaped)
	}
}

// A proxy is looked for where it is registered: an id that another namespace
// has does not keep it.
func TestTenanciesAreAskedForApart(t *testing.T) {
	w, watcher := newWorld("a")
	w.s = state.Fold(w.s, state.Event{Body: state.ProxyRegistered{Proxy: state.Registration{
		ID: "b", Node: "node", Namespace: "ns", Partition: "part", Index: 9,
	}}})
	watcher.look(t.Context(), 0)
	want := []catalog.Node{{Name: "node"}, {Name: "node", Namespace: "ns", Partition: "part"}}
	slices.SortFunc(w.asked, func(x, y catalog.Node) int { return strings.Compare(x.Namespace, y.Namespace) })
	if !slices.Equal(w.asked, want) {
		t.Errorf("asked about %v, want %v", w.asked, want)
	}
}

// Run looks at its pace until its context ends, and reaps when it is time.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, watcher := newWorld("a")
		w.in = []string{"a"}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- watcher.Run(ctx) }()
		after := func(d time.Duration, look func()) {
			time.Sleep(d)
			synctest.Wait()
			w.mu.Lock()
			defer w.mu.Unlock()
			look()
		}
		after(2*lookEvery, func() {
			if len(w.asked) == 0 || !w.s.Proxies["a"].Known {
				t.Errorf("asked %d times within two rounds", len(w.asked))
			}
			w.in = nil
		})
		after(missingFor, func() {
			if len(w.reaped) > 0 {
				t.Error("reaped before its time")
			}
		})
		after(4*lookEvery, func() {
			if !slices.Equal(w.reaped, []string{"a"}) {
				t.Errorf("reaped %v, want a", w.reaped)
			}
		})
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run = %v", err)
		}
	})
}
