package presence

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/daemon/catalog"
	"github.com/lictor-mesh/lictor/daemon/registry"
	"github.com/lictor-mesh/lictor/state"
)

// world is a registry and a catalog that a test sets, under the lock where a
// watcher runs beside it.
type world struct {
	mu      sync.Mutex
	s       state.State
	in      []string // ids that Consul knows
	problem error    // of asking Consul
	asked   []catalog.Node
	reaped  []string
	// replaced is the owner that a proxy has got when it is to be reaped or changed.
	replaced *state.Owner
}

func (w *world) Snapshot(context.Context) (registry.Snapshot, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return registry.Snapshot{State: w.s.Clone()}, nil
}

// now is a proxy as it is by the time that the registry is called.
func (w *world) now(id string) *state.Proxy {
	p := *w.s.Proxies[id]
	if w.replaced != nil {
		p.Owner = *w.replaced
	}
	return &p
}

func (w *world) Change(_ context.Context, c state.ProxyChanged, allow func(*state.Proxy) error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := allow(w.now(c.ID)); err != nil {
		return err
	}
	w.s = state.Fold(w.s, state.Event{Body: c})
	return nil
}

func (w *world) Deregister(_ context.Context, id string, why state.LeaveReason, allow func(*state.Proxy) error) error {
	if why != state.LeaveCatalogGone {
		return errors.New("reaped for " + string(why))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := allow(w.now(id)); err != nil {
		return err
	}
	w.s = state.Fold(w.s, state.Event{Body: state.ProxyDeregistered{ID: id, Reason: why}})
	w.reaped = append(w.reaped, id)
	return nil
}

func (w *world) Services(_ context.Context, n catalog.Node) ([]string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, n)
	return w.in, w.problem
}

func newWorld(ids ...string) (*world, *Watcher) {
	w := &world{s: state.New()}
	for i, id := range ids {
		w.s = state.Fold(w.s, state.Event{Body: state.ProxyRegistered{
			Proxy: state.Registration{ID: id, Node: "node", Index: uint32(i + 1)},
		}})
	}
	return w, NewWatcher(w, w, slog.New(slog.DiscardHandler))
}

// A proxy that Consul knew is reaped once it has been missing for long enough,
// and not for what was not seen; one that Consul never knew is waited for.
func TestReaping(t *testing.T) {
	type step struct {
		at      time.Duration
		in      []string
		problem error
		reaped  []string
	}
	down := errors.New("no contact")
	for name, steps := range map[string][]step{
		"missing":      {{at: 0, in: []string{"a", "b"}}, {at: time.Minute, in: []string{"b"}}, {at: time.Minute + missingFor - 1, in: []string{"b"}}, {at: time.Minute + missingFor, in: []string{"b"}, reaped: []string{"a"}}},
		"never known":  {{at: 0, in: []string{"b"}}, {at: 24 * time.Hour, in: []string{"b"}}},
		"back in time": {{at: 0, in: []string{"a"}}, {at: 1}, {at: missingFor - 1, in: []string{"a"}}, {at: missingFor + 1}, {at: 2 * missingFor}},
		"not seen meanwhile": {
			{at: 0, in: []string{"a"}}, {at: 1},
			{at: missingFor - 1, problem: down}, {at: missingFor + 1, problem: down},
			{at: missingFor + 2}, {at: 2*missingFor + 1}, {at: 2*missingFor + 2, reaped: []string{"a"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, watcher := newWorld("a", "b")
			for _, s := range steps {
				w.in, w.problem, w.reaped = s.in, s.problem, nil
				watcher.look(t.Context(), s.at)
				if !slices.Equal(w.reaped, s.reaped) {
					t.Fatalf("after %v reaped %v, want %v", s.at, w.reaped, s.reaped)
				}
			}
		})
	}
}

// Who registers an id anew, just when the former one of that name has been missing
// for long enough, was promised a VIP.
func TestAnotherOwnerIsNotReaped(t *testing.T) {
	w, watcher := newWorld("a")
	w.in = []string{"a"}
	watcher.look(t.Context(), 0)
	w.in, w.replaced = nil, &state.Owner{Kind: state.OwnerAny}
	watcher.look(t.Context(), 1)
	watcher.look(t.Context(), 1+missingFor)
	if len(w.reaped) > 0 {
		t.Errorf("reaped %v", w.reaped)
	}
}

// Consul is asked once for each node, however many proxies are registered on it.
func TestOneQuestionANode(t *testing.T) {
	w, watcher := newWorld("a", "b", "c")
	watcher.look(t.Context(), 0)
	if len(w.asked) != 1 || w.asked[0].Name != "node" {
		t.Errorf("asked %v", w.asked)
	}
}
