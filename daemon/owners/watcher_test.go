package owners

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/daemon/registry"
	"github.com/lictor-mesh/lictor/state"
)

// world is a registry that a test sets.
type world struct {
	s      state.State
	reaped []string
	// replaced is the owner that a proxy has got when it is to be reaped or changed.
	replaced *state.Owner
}

func (w *world) Snapshot(context.Context) (registry.Snapshot, error) {
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
	if err := allow(w.now(c.ID)); err != nil {
		return err
	}
	w.s = state.Fold(w.s, state.Event{Body: c})
	return nil
}

func (w *world) Deregister(_ context.Context, id string, why state.LeaveReason, allow func(*state.Proxy) error) error {
	if err := allow(w.now(id)); err != nil {
		return err
	}
	if why != state.LeaveOwnerGone {
		return errors.New("reaped for " + string(why))
	}
	w.s = state.Fold(w.s, state.Event{Body: state.ProxyDeregistered{ID: id, Reason: why}})
	w.reaped = append(w.reaped, id)
	return nil
}

func (w *world) proxies() []*state.Proxy { return slices.Collect(maps.Values(w.s.Proxies)) }

// A proxy is reaped once its owner has been gone for long enough without a
// break, and not when it has another owner by then.
func TestReaping(t *testing.T) {
	gone := state.Owner{Kind: state.OwnerNetns, Path: filepath.Join(t.TempDir(), "gone"), ID: 1, BootID: "boot"}
	start := func() (*world, *Watcher) {
		w := &world{s: state.New()}
		for i, p := range []struct {
			id    string
			owner state.Owner
		}{
			{"path gone", gone},
			{"of another boot", state.Owner{Kind: state.OwnerNetns, ID: 1, BootID: "the one before"}},
			{"anybody", state.Owner{Kind: state.OwnerAny}},
		} {
			w.s = state.Fold(w.s, state.Event{Body: state.ProxyRegistered{
				Proxy: state.Registration{ID: p.id, Index: uint32(i + 1), Owner: p.owner},
			}})
		}
		return w, NewWatcher(w, Resolver{BootID: "boot"}, slog.New(slog.DiscardHandler))
	}

	t.Run("for long", func(t *testing.T) {
		w, watcher := start()
		watcher.reap(t.Context(), w.proxies(), time.Minute)
		watcher.reap(t.Context(), w.proxies(), time.Minute+goneFor-1)
		if len(w.reaped) > 0 {
			t.Fatalf("reaped %v too early", w.reaped)
		}
		watcher.reap(t.Context(), w.proxies(), time.Minute+goneFor)
		slices.Sort(w.reaped)
		if !slices.Equal(w.reaped, []string{"of another boot", "path gone"}) {
			t.Errorf("reaped %v", w.reaped)
		}
	})
	t.Run("there again meanwhile", func(t *testing.T) {
		w, watcher := start()
		watcher.reap(t.Context(), w.proxies(), 0)
		watcher.reap(t.Context(), nil, goneFor/2) // as if none of them were gone
		watcher.reap(t.Context(), w.proxies(), goneFor)
		if len(w.reaped) > 0 {
			t.Errorf("reaped %v", w.reaped)
		}
	})
	t.Run("replaced meanwhile", func(t *testing.T) {
		w, watcher := start()
		w.replaced = &state.Owner{Kind: state.OwnerAny}
		watcher.reap(t.Context(), w.proxies(), 0)
		watcher.reap(t.Context(), w.proxies(), goneFor)
		if len(w.reaped) > 0 {
			t.Errorf("reaped %v, which have other owners", w.reaped)
		}
	})
}
