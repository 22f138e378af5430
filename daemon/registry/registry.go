// Package registry owns the state of the host. One goroutine, Run, is the only
// writer: it decides, journals, writes the kernel's map and answers, in the
// orders that belong to the two kinds of facts:
//
//   - a promise (registration, owner, drain) is journaled, then written to the
//     map, then answered. Callers that come while the disk syncs share the
//     next sync.
//   - a placement, and what the catalog says of servers, is written to the map
//     first and journaled soon after. A sick disk does not keep a host on a
//     dead server.
package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/lictor-mesh/lictor/daemon/assign"
	"github.com/lictor-mesh/lictor/daemon/reconcile"
	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/state"
)

const (
	// flushWithin is how long a placement may wait for a promise whose sync
	// it can share.
	flushWithin = 200 * time.Millisecond
	// retryEvery is how often a journal that could not be written is tried.
	retryEvery = time.Second
	// snapshotRetry is how often a snapshot that could not be written is.
	snapshotRetry = time.Minute
	// placeEvery is the pace at which one VIP is placed.
	placeEvery = time.Second
	// joinEvery is how often a server that could not have its share yet is
	// tried.
	joinEvery = 2 * time.Second
	// tickEvery is the pace of what has no event of its own: kernel moves that
	// had to settle, a map that could not be written.
	tickEvery = time.Second
	// reconcileEvery bounds how long drift lasts.
	reconcileEvery = 5 * time.Second
	// rebalanceEvery is the pace at which evenness comes back after failures,
	// one hundredth of the proxies at a time: slower than any hold-down, so
	// that a server which refuses again is found out before the next ones go.
	rebalanceEvery = 30 * time.Second
	// restFor is how long a VIP stays unused after its proxy left.
	restFor = time.Minute
)

// Errors that the registry's calls return, wrapped.
var (
	// ErrNotRegistered: no proxy, or no server, of that id.
	ErrNotRegistered = errors.New("not registered")
	// ErrIdentity: the id is registered with another identity or owner.
	ErrIdentity = errors.New("registered otherwise")
	// ErrReplaced: the proxy was registered anew since it was looked at.
	ErrReplaced = errors.New("registered anew meanwhile")
	// ErrNotDurable: the journal did not take it, nothing was changed.
	ErrNotDurable = errors.New("not journaled")
	// ErrPoolFull: every VIP of the pools is taken or rests.
	ErrPoolFull = errors.New("no VIP left")
	// ErrTooOften: the caller's network namespace changes registrations too often.
	ErrTooOften = errors.New("too often")
	// ErrStopped: the daemon is stopping; nothing was changed.
	ErrStopped = errors.New("lictord is stopping")
)

// Journal is what the registry needs of package journal.
type Journal interface {
	Append(bodies ...state.Body) ([]state.Event, error)
	SnapshotDue() bool
	Probe() error
	Snapshot(s state.State) error
}

// Maps is what the registry needs of package kernel.
type Maps interface {
	VIPs() ([]kernel.VIP, error)
	PutVIPs([]kernel.VIP) error
	DeleteVIPs([]kernel.VIPKey) error
	VIPStates(slots []uint32) ([]kernel.VIPState, error)
	ResetVIP(slot uint32) error
	Sockets() ([]kernel.Socket, error)
	ResetServer(slot uint16) error
	Meta() (kernel.Meta, error)
	SetMeta(kernel.Meta) error
	Now() time.Duration
}

// Config is what a Registry works with. All fields are needed but Now.
type Config struct {
	State       state.State // as replayed; the registry's from now on
	Journal     Journal
	JournalUUID [16]byte
	Maps        Maps
	Pools       Pools
	Port        uint16 // of every VIP
	BootID      string
	Seed        string // names the host in placements
	Hold        func(kernel.HoldReason) time.Duration
	Observer    Observer
	Now         func() time.Time // nil: time.Now
	Logger      *slog.Logger
}

// Registry is the owner of the state. Its methods are safe for concurrent use;
// they are answered by Run, and return ErrStopped when it has ended.
type Registry struct {
	cfg   Config
	log   *slog.Logger
	now   func() time.Time
	der   reconcile.Deriver
	stats stats

	calls     chan func()             // run in Run, in order of arrival, unbuffered
	promises  chan *promise           // unbuffered; Run queues them
	committed chan commit             // one at most is under way
	servers   chan []state.ServerSpec // latest value: an older one is thrown away
	stopped   chan struct{}           // closed when Run has returned

	touchedMu sync.Mutex
	touched   map[uint32]bool // VIP slots on which something failed since the last tick

	// Owned by Run.
	s          state.State
	set        uint32                   // reconcile.Set(s)
	byIndex    map[uint32]string        // proxies by VIP slot
	left       map[uint32]time.Duration // VIP slots whose proxies left since New, and when, by r.clock
	began      time.Duration            // when New was called, by r.clock
	owned      map[state.Owner]int      // proxies by owner, as forKernel
	slots      map[uint16]string        // servers by slot, listed or gone
	loads      assign.Loads
	allowances allowances  // of callers that are not root
	shared     *Snapshot   // of s as it is; nil once s has changed
	meta       kernel.Meta // as the kernel is to have it

	queue      []*promise // not decided yet
	inflight   bool       // a write to the journal is under way
	pending    pending    // in force, not journaled
	underway   int        // how many such facts are in the commit under way
	failed     time.Time  // when the journal could last not be written
	snapFailed time.Time  // when a snapshot could last not be
	slow       bool       // the disk was said to be slow

	settleAt    time.Duration                // when to decide what was put off, by r.clock; 0: nothing was
	settleMoves int                          // with how many moves
	joining     map[string]state.PlaceReason // servers that have not had their share yet, and why they get one
	joined      time.Time                    // when the last of them came
	unwritten   bool                         // a write of the map failed since the last repair
	drifting    bool                         // the last repair found drift: say it once
}

// New makes a registry; Start readies it, Run runs it.
func New(cfg Config) *Registry {
	r := &Registry{
		cfg:        cfg,
		log:        cfg.Logger.With("component", "registry"),
		now:        cfg.Now,
		der:        reconcile.Deriver{Port: cfg.Port, BootID: cfg.BootID},
		calls:      make(chan func()),
		promises:   make(chan *promise),
		committed:  make(chan commit, 1),
		servers:    make(chan []state.ServerSpec, 1),
		stopped:    make(chan struct{}),
		touched:    map[uint32]bool{},
		stats:      stats{drift: map[reconcile.Drift]uint64{reconcile.DriftMissing: 0, reconcile.DriftChanged: 0, reconcile.DriftUnknown: 0}},
		s:          cfg.State,
		byIndex:    map[uint32]string{},
		left:       map[uint32]time.Duration{},
		owned:      map[state.Owner]int{},
		allowances: allowances{},
		began:      cfg.Maps.Now(),
		slots:      map[uint16]string{},
		joining:    map[string]state.PlaceReason{},
	}
	if r.now == nil {
		r.now = time.Now
	}
	for id, p := range r.s.Proxies {
		r.byIndex[p.Index] = id
		r.own(p.Owner, 1)
		r.loads.Add(p.Ranked)
	}
	for id, t := range r.s.Slots {
		r.slots[t.Slot] = id
	}
	r.set = reconcile.Set(r.s)
	return r
}

// Run owns the state until ctx ends; then it journals what is in force and
// answers whoever still waits. Start comes before it.
func (r *Registry) Run(ctx context.Context) error {
	defer close(r.stopped)
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	full := time.NewTicker(reconcileEvery)
	defer full.Stop()
	even := time.NewTicker(rebalanceEvery)
	defer even.Stop()
	for {
		r.snapshot() // before the next sync: promises that keep coming must not keep it off
		r.sync()
		select {
		case <-ctx.Done():
			return r.stop()
		case f := <-r.calls:
			f()
		case p := <-r.promises:
			r.queue = append(r.queue, p)
			r.gather()
		case c := <-r.committed:
			r.finish(c)
		case found := <-r.servers:
			r.applyServers(found)
		case <-r.alarm():
			r.settle()
		case <-tick.C:
			r.tick()
		case <-full.C:
			r.reconcile()
		case <-even.C:
			r.rebalance()
		}
	}
}

// alarm fires when pending facts have waited for a promise long enough, or when
// what was put off may be decided.
func (r *Registry) alarm() <-chan time.Time {
	wait := time.Duration(math.MaxInt64)
	if !r.inflight && (r.pending.len() > 0 || r.stats.journalProblem() != nil) {
		wait = r.flushIn()
	}
	if r.settleAt != 0 {
		wait = min(wait, r.settleAt-r.clock())
	}
	if wait == math.MaxInt64 {
		return nil
	}
	return time.After(wait)
}

// gather takes the promises that are already waiting, so that they share a sync.
func (r *Registry) gather() {
	for {
		select {
		case p := <-r.promises:
			r.queue = append(r.queue, p)
		default:
			return
		}
	}
}

// stop refuses what has not been decided, waits for the sync under way, and
// journals the placements in force.
func (r *Registry) stop() error {
	for _, p := range r.queue {
		p.answer(ErrStopped)
	}
	r.queue = nil
	if r.inflight {
		r.finish(<-r.committed)
	}
	r.flush()
	if n := r.pending.len(); n > 0 {
		return fmt.Errorf("journal %d placements at stop: %w", n, r.JournalProblem())
	}
	return nil
}

// Touch says that something failed on a VIP, so that the kernel may have moved
// it. It never blocks.
func (r *Registry) Touch(slot uint32) {
	r.touchedMu.Lock()
	defer r.touchedMu.Unlock()
	r.touched[slot] = true
}

// SetServers hands over what the catalog lists now. It never blocks; a set
// that was not applied yet is replaced.
func (r *Registry) SetServers(found []state.ServerSpec) {
	for {
		select {
		case r.servers <- found:
			return
		default:
		}
		select {
		case <-r.servers:
		default:
		}
	}
}

// do runs f in Run's goroutine and waits for it.
func (r *Registry) do(ctx context.Context, f func()) error {
	done := make(chan struct{})
	select {
	case r.calls <- func() { defer close(done); f() }:
		<-done
		return nil
	case <-r.stopped:
		return ErrStopped
	case <-ctx.Done():
		return ctx.Err()
	}
}
