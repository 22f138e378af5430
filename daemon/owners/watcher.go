package owners

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/lictor-mesh/lictor/daemon/registry"
	"github.com/lictor-mesh/lictor/state"
)

const (
	// resolveEvery is how long an owner that is there again, or replaced at its
	// path, goes without its VIP.
	resolveEvery = time.Second
	// lookEvery is how often the host is scanned for owners that are gone, and
	// paths are followed to the end: a namespace that was made anew may have
	// the inode of the one before.
	lookEvery = 10 * time.Second
	// goneFor is how long an owner must be gone before its proxy is reaped: a
	// restart, or a reboot and what starts after it, keeps its VIP.
	goneFor = 10 * time.Minute
)

// Registry is what the watcher needs of the registry.
type Registry interface {
	Snapshot(ctx context.Context) (registry.Snapshot, error)
	Change(ctx context.Context, c state.ProxyChanged, allow func(*state.Proxy) error) error
	Deregister(ctx context.Context, id string, reason state.LeaveReason, allow func(*state.Proxy) error) error
}

// Watcher keeps owners resolved, and reaps the proxies of those that are gone.
type Watcher struct {
	registry Registry
	resolver Resolver
	log      *slog.Logger
	goneFor  time.Duration
	began    time.Time                // of elapsed
	since    map[string]time.Duration // by proxy id: since when its owner is gone, as of elapsed
}

// NewWatcher makes a watcher; it starts nothing.
func NewWatcher(r Registry, resolver Resolver, log *slog.Logger) *Watcher {
	return &Watcher{
		registry: r, resolver: resolver, log: log.With("component", "owners"),
		goneFor: goneFor, began: time.Now(), since: map[string]time.Duration{},
	}
}

// Run watches until ctx ends.
func (w *Watcher) Run(ctx context.Context) error {
	resolve := time.NewTicker(resolveEvery)
	defer resolve.Stop()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		thorough := false
		select {
		case <-ctx.Done():
			return nil
		case <-resolve.C:
		case <-look.C:
			thorough = true
		}
		snap, err := w.registry.Snapshot(ctx)
		if err != nil {
			continue // stopping; ctx says so next
		}
		var proxies []*state.Proxy // shared, and not to be written
		for _, p := range snap.State.Proxies {
			if p.Owner.Kind != state.OwnerAny {
				proxies = append(proxies, p)
			}
		}
		slices.SortFunc(proxies, func(a, b *state.Proxy) int { return int(a.Index) - int(b.Index) })
		w.resolve(ctx, proxies, thorough)
		if thorough {
			w.reap(ctx, proxies, w.elapsed())
		}
	}
}

// elapsed is the time that this watcher has been there. It does not jump when
// the wall clock is set.
func (w *Watcher) elapsed() time.Duration { return time.Since(w.began) }

// resolve follows what owners' paths lead to.
func (w *Watcher) resolve(ctx context.Context, proxies []*state.Proxy, thorough bool) {
	for _, p := range proxies {
		if p.Owner.Path == "" || !thorough && w.resolver.unchanged(p.Owner) {
			continue
		}
		owner, err := w.resolver.Resolve(p.Owner)
		if err != nil || owner == p.Owner {
			continue // not there; reap counts how long
		}
		if err := w.registry.Change(ctx, state.ProxyChanged{ID: p.ID, Owner: &owner}, registry.Still(p)); err != nil {
			if ctx.Err() == nil && !errors.Is(err, registry.ErrReplaced) {
				w.log.Warn("owner not changed, next try in a second", "proxy", p.ID, "err", err)
			}
			continue
		}
		w.log.Info("owner resolved", "proxy", p.ID, "path", owner.Path)
	}
}

// reap ends the registrations whose owners have been gone for long.
func (w *Watcher) reap(ctx context.Context, proxies []*state.Proxy, now time.Duration) {
	all := make([]state.Owner, len(proxies))
	for i, p := range proxies {
		all[i] = p.Owner
	}
	gone, err := w.resolver.gone(all)
	if err != nil {
		w.log.Warn("owners not looked for, next try in ten seconds", "err", err)
		return
	}
	since := map[string]time.Duration{}
	for i, p := range proxies {
		if !gone[i] {
			continue
		}
		since[p.ID] = now
		if at, ok := w.since[p.ID]; ok {
			since[p.ID] = at
		}
		if now-since[p.ID] < w.goneFor {
			continue
		}
		switch err := w.registry.Deregister(ctx, p.ID, state.LeaveOwnerGone, registry.Still(p)); {
		case err == nil:
			w.log.Info("proxy reaped: its owner is gone from the host", "proxy", p.ID, "gone_s", int((now - since[p.ID]).Seconds()))
		case !errors.Is(err, registry.ErrReplaced) && ctx.Err() == nil:
			w.log.Warn("proxy not reaped, next try in ten seconds", "proxy", p.ID, "err", err)
		}
	}
	w.since = since
}
