// Package presence makes the state follow Consul's catalog: a proxy that Consul
// knew and no longer knows is reaped after a while. One that Consul never knew
// is waited for; it may be registered there after it is here.
package presence

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/lictor-mesh/lictor/daemon/catalog"
	"github.com/lictor-mesh/lictor/daemon/registry"
	"github.com/lictor-mesh/lictor/state"
)

const (
	// lookEvery is the pace of questions to Consul, one for each node that
	// proxies of this host are registered on: on Kubernetes one in all.
	lookEvery = 15 * time.Second
	// missingFor is how long Consul must not know a proxy before it is reaped.
	// A service that is registered anew, or a catalog that is restored, keeps
	// its VIP.
	missingFor = 5 * time.Minute
)

// Registry is what a Watcher needs of the registry.
type Registry interface {
	Snapshot(ctx context.Context) (registry.Snapshot, error)
	Change(ctx context.Context, c state.ProxyChanged, allow func(*state.Proxy) error) error
	Deregister(ctx context.Context, id string, reason state.LeaveReason, allow func(*state.Proxy) error) error
}

// Catalog is what a Watcher needs of the catalog.
type Catalog interface {
	Services(ctx context.Context, n catalog.Node) ([]string, error)
}

// Watcher compares the proxies of this host with Consul's catalog.
type Watcher struct {
	registry   Registry
	catalog    Catalog
	log        *slog.Logger
	every      time.Duration
	missingFor time.Duration
	began      time.Time                // of elapsed
	since      map[string]time.Duration // by proxy id: since when Consul does not know it, as of elapsed
	problem    string                   // what kept it from asking; said once
}

// NewWatcher makes a watcher; it starts nothing.
func NewWatcher(r Registry, c Catalog, log *slog.Logger) *Watcher {
	return &Watcher{
		registry: r, catalog: c, log: log.With("component", "presence"),
		every: lookEvery, missingFor: missingFor, began: time.Now(), since: map[string]time.Duration{},
	}
}

// Run watches until ctx ends.
func (w *Watcher) Run(ctx context.Context) error {
	for {
		// Hosts that start together must not ask together.
		pause := time.NewTimer(w.every/2 + rand.N(w.every))
		select {
		case <-ctx.Done():
			pause.Stop()
			return nil
		case <-pause.C:
		}
		w.look(ctx, w.elapsed())
	}
}

// elapsed is the time that this watcher has been there. It does not jump when
// the wall clock is set.
func (w *Watcher) elapsed() time.Duration { return time.Since(w.began) }

// look asks Consul once about every node.
func (w *Watcher) look(ctx context.Context, now time.Duration) {
	snap, err := w.registry.Snapshot(ctx)
	if err != nil {
		return // stopping
	}
	nodes := map[catalog.Node][]*state.Proxy{}
	for _, p := range snap.State.Proxies {
		if p.Node == "" {
			continue // adopted from the kernel: Consul's name of it is not known
		}
		n := catalog.Node{Name: p.Node, Namespace: p.Namespace, Partition: p.Partition}
		nodes[n] = append(nodes[n], p)
	}
	since := map[string]time.Duration{}
	problem := ""
	for n, proxies := range nodes {
		ids, err := w.catalog.Services(ctx, n)
		if err != nil {
			// Not known is not gone: what was missing has not been missing
			// meanwhile, as far as anybody can say.
			problem = err.Error()
			continue
		}
		for _, p := range proxies {
			if slices.Contains(ids, p.ID) {
				w.known(ctx, p)
			} else if p.Known {
				since[p.ID] = now
				if at, ok := w.since[p.ID]; ok {
					since[p.ID] = at
				}
			}
		}
	}
	w.since = since
	w.complain(ctx, problem)
	w.reap(ctx, now, snap.State.Proxies)
}

func (w *Watcher) known(ctx context.Context, p *state.Proxy) {
	if p.Known {
		return
	}
	yes := true
	err := w.registry.Change(ctx, state.ProxyChanged{ID: p.ID, Known: &yes}, registry.Still(p))
	if err != nil && !errors.Is(err, registry.ErrReplaced) && ctx.Err() == nil {
		w.log.Warn("not recorded that Consul knows a proxy, next try soon", "proxy", p.ID, "err", err)
	}
}

// reap ends the registrations of what has been missing for long, unless another
// owner has registered it since it was looked at.
func (w *Watcher) reap(ctx context.Context, now time.Duration, seen map[string]*state.Proxy) {
	for id, since := range w.since {
		if now-since < w.missingFor {
			continue
		}
		switch err := w.registry.Deregister(ctx, id, state.LeaveCatalogGone, registry.Still(seen[id])); {
		case err == nil:
			w.log.Info("proxy reaped: Consul no longer knows it", "proxy", id, "missing_s", int((now - since).Seconds()))
		case !errors.Is(err, registry.ErrReplaced) && ctx.Err() == nil:
			w.log.Warn("proxy not reaped, next try soon", "proxy", id, "err", err)
		}
	}
}

// complain says once what keeps the watcher from asking.
func (w *Watcher) complain(ctx context.Context, problem string) {
	if problem != "" && problem != w.problem && ctx.Err() == nil {
		w.log.Warn("proxies not compared with Consul's catalog; none is reaped meanwhile", "problem", problem)
	}
	w.problem = problem
}
