// Package lifecycle looks after the processes of proxies where no process of
// ours stays beside them: it notices their end, drains Envoy when it is told to
// terminate, and serves what a pod asks for on its own loopback address.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/lictor-mesh/lictor/daemon/registry"
	"github.com/lictor-mesh/lictor/state"
)

const (
	// lookEvery is how long a change of a registration goes unnoticed, unless
	// Look is called.
	lookEvery = time.Second
	// defaultHold is how long a proxy whose process ended keeps its VIP. A
	// supervisor that restarts it at once, or with a short pause, takes less.
	defaultHold = time.Minute
	// defaultHoldBoot is the same for processes of an earlier boot: what starts
	// after a boot takes its time.
	defaultHoldBoot = 10 * time.Minute
)

// Registry is what a Manager needs of the registry.
type Registry interface {
	Snapshot(ctx context.Context) (registry.Snapshot, error)
	// Release ends the registration if its process is still that one.
	Release(ctx context.Context, id string, p state.Process) error
}

// Config of a Manager.
type Config struct {
	Registry Registry
	BootID   string // of this boot, from /proc/sys/kernel/random/boot_id
	Log      *slog.Logger
	Hold     time.Duration // 0 means a minute
	HoldBoot time.Duration // for processes of an earlier boot; 0 means ten minutes
}

// Phase is what a proxy's process is doing, in a word.
type Phase string

// Phases of a process.
const (
	Running  Phase = "running"
	Draining Phase = "draining" // told to terminate, and not yet to quit
	Quitting Phase = "quitting" // told to quit
	Gone     Phase = "gone"     // its registration ends after the hold time
)

// Info says how a proxy's process is.
type Info struct {
	Phase Phase
	Alive bool
	// Problems are sentences about what cannot be done for it, each with what
	// to do.
	Problems []string
}

// Manager looks after the processes of all proxies that have one. Its methods
// may be called concurrently.
type Manager struct {
	cfg      Config
	log      *slog.Logger
	look     chan struct{} // of one element: a look that is asked for and not begun
	sessions chan struct{} // a place for each connection that pods may have at once

	mu    sync.Mutex
	lives map[string]*life // by proxy id
}

// New makes a manager; it starts nothing.
func New(cfg Config) *Manager {
	if cfg.Hold == 0 {
		cfg.Hold = defaultHold
	}
	if cfg.HoldBoot == 0 {
		cfg.HoldBoot = defaultHoldBoot
	}
	return &Manager{
		cfg: cfg, log: cfg.Log.With("component", "lifecycle"),
		look: make(chan struct{}, 1), sessions: make(chan struct{}, maxSessions), lives: map[string]*life{},
	}
}

// Look makes the manager take up changes of registrations now. It does not wait.
func (m *Manager) Look() {
	select {
	case m.look <- struct{}{}:
	default: // one is asked for already
	}
}

// Info says how the process of a proxy is; ok is false for a proxy without one.
func (m *Manager) Info(id string) (info Info, ok bool) {
	m.mu.Lock()
	l := m.lives[id]
	m.mu.Unlock()
	if l == nil {
		return Info{}, false
	}
	return l.info(), true
}

// Problems are the sentences of all proxies, each with the proxy's name, by
// name.
func (m *Manager) Problems() (sentences []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, l := range m.lives {
		for _, problem := range l.info().Problems {
			sentences = append(sentences, fmt.Sprintf("proxy %s: %s", id, problem))
		}
	}
	slices.Sort(sentences)
	return sentences
}

// Run looks after the processes until ctx ends. It leaves them as they are: what
// was not finished goes on at the next start.
func (m *Manager) Run(ctx context.Context) error {
	defer m.stopAll()
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() { m.watchTerms(ctx) }) // not here: a slow disk holds this loop up
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		if err := m.follow(ctx); err != nil && ctx.Err() == nil {
			m.log.Warn("processes not looked at, next try in a second", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-m.look:
		}
	}
}

// Processes are looked at for SIGTERM this often, less where there are many: a
// look takes 10 µs, and all together are to take a hundredth of a CPU at most.
const (
	termEvery    = 200 * time.Millisecond
	termEveryMax = 2 * time.Second
	termShare    = time.Millisecond // of the interval, for each process
)

// watchTerms looks at the processes whose SIGTERM is ours to answer.
func (m *Manager) watchTerms(ctx context.Context) {
	for every := termEvery; sleep(ctx, every); {
		looked := 0
		for _, l := range m.all() {
			if l.settings.HoldsTerm() && l.lookForTerm() {
				looked++
			}
		}
		every = min(max(termEvery, time.Duration(looked)*termShare), termEveryMax)
	}
}

// follow makes the lives those of the registered proxies.
func (m *Manager) follow(ctx context.Context) error {
	snap, err := m.cfg.Registry.Snapshot(ctx)
	if err != nil {
		return fmt.Errorf("read the registrations: %w", err)
	}
	wanted := map[string]subject{}
	for id, p := range snap.State.Proxies {
		if p.Process != nil && p.Process.PID > 0 {
			wanted[id] = subjectOf(p)
		}
	}
	for id, l := range m.all() {
		want, ok := wanted[id]
		switch {
		case !ok || !want.equal(l.subject):
			m.forget(id, l)
		case l.due():
			m.release(ctx, l)
		}
	}
	for id, want := range wanted {
		m.mu.Lock()
		if m.lives[id] == nil {
			m.lives[id] = m.begin(ctx, want)
		}
		m.mu.Unlock()
	}
	return nil
}

// all copies the lives, which only Run changes.
func (m *Manager) all() map[string]*life {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make(map[string]*life, len(m.lives))
	for id, l := range m.lives {
		all[id] = l
	}
	return all
}

// forget ends the care for a process that is no longer registered as it was.
func (m *Manager) forget(id string, l *life) {
	l.stop()
	m.mu.Lock()
	delete(m.lives, id)
	m.mu.Unlock()
}

func (m *Manager) stopAll() {
	all := m.all()
	for _, l := range all {
		l.cancel()
	}
	for id, l := range all {
		m.forget(id, l)
	}
}

// release ends the registration of a proxy whose process has been gone for
// long, unless another process has taken its place meanwhile.
func (m *Manager) release(ctx context.Context, l *life) {
	switch err := m.cfg.Registry.Release(ctx, l.id, l.process); {
	case err == nil:
		l.log.Info("registration ended: the process is gone and none took its place", "hold_s", int(l.hold().Seconds()))
		m.Look()
	case ctx.Err() == nil && !errors.Is(err, registry.ErrNotRegistered):
		l.log.Warn("registration of a process that is gone not ended, next try in a second", "err", err)
	}
}
