// Package drain closes this host's connections to servers that are to be left:
// those that are drained, that left the catalog, or that changed their address.
// Their VIPs lead elsewhere already; this makes live streams follow.
//
// It keeps nothing: what is to be done follows from the state and from the
// sockets that there are, so that a restart goes on where the process before
// stopped, and an undrain ends it.
package drain

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/lictor-mesh/lictor/daemon/registry"
	"github.com/lictor-mesh/lictor/kernel"
)

const (
	// tick is the pace while connections are being closed.
	tick = 200 * time.Millisecond
	// lookEvery is how often it is looked whether some are to be.
	lookEvery = time.Second
	// patrolEvery is how often all sockets are walked though the counters
	// give no reason to: a server that moved has the same counters as before.
	patrolEvery = 10 * time.Second
	// retryAfter is the pause after a connection could not be closed; to find a
	// namespace may take a scan of the host.
	retryAfter = 30 * time.Second
)

// Registry is what a Closer needs of the registry.
type Registry interface {
	Snapshot(ctx context.Context) (registry.Snapshot, error)
}

// Kernel is what a Closer needs of package kernel.
type Kernel interface {
	Servers() (map[uint16]kernel.Counters, error)
	Sockets() ([]kernel.Socket, error)
	VIPs() ([]kernel.VIP, error)
	VIPStates(slots []uint32) ([]kernel.VIPState, error)
	Now() time.Duration
}

// Closer closes connections to servers that are to be left. Kept may be called
// from anywhere, the rest is Run's.
type Closer struct {
	registry Registry
	kernel   Kernel
	destroy  func([]kernel.Socket) []error
	followed bool
	log      *slog.Logger

	gentle, fast budget
	leaving      map[string]*record       // by server id: those with connections to be closed
	moving       map[uint32]time.Duration // VIP slots whose connection was closed, when (CLOCK_MONOTONIC), until they have another
	tried        map[uint64]time.Duration // by cookie: when a socket could last not be closed
	patrolled    time.Duration
	problem      string // what kept it from looking; said once

	mu   sync.Mutex
	kept map[string]string
}

// New makes a closer; it starts nothing. followed says that the servers are those
// that Consul lists. Where they are only what the operator gave, perhaps a name
// that resolves to other addresses each time, only drains close connections.
func New(r Registry, k Kernel, followed bool, log *slog.Logger) *Closer {
	return &Closer{
		registry: r, kernel: k, destroy: kernel.Destroy, followed: followed, log: log.With("component", "drain"),
		gentle: budget{floor: gentleFloor, share: gentleShare}, fast: budget{floor: fastFloor, share: fastShare},
		leaving: map[string]*record{}, moving: map[uint32]time.Duration{}, tried: map[uint64]time.Duration{},
		kept: map[string]string{},
	}
}

// Run closes connections until ctx ends.
func (c *Closer) Run(ctx context.Context) error {
	pause := time.NewTimer(tick)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-pause.C:
		}
		busy, err := c.step(ctx)
		c.complain(ctx, err)
		if busy {
			pause.Reset(tick)
		} else {
			pause.Reset(lookEvery)
		}
	}
}

// Kept says, as the end of a sentence, why connections to a server that is to be
// left are not being closed now; "" when there are none, or they are.
func (c *Closer) Kept(server string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.kept[server]
}

// step looks once, and closes what may be closed in a tick. It says whether
// there is more to close.
func (c *Closer) step(ctx context.Context) (busy bool, err error) {
	snap, err := c.registry.Snapshot(ctx)
	if err != nil {
		return false, err
	}
	all := servers{Snapshot: snap, followed: c.followed}
	due, err := c.due(all)
	if err != nil || !due {
		return false, err
	}
	sockets, err := c.kernel.Sockets()
	if err != nil {
		return false, err
	}
	var vips []kernel.VIP
	if len(c.moving) > 0 || all.leavers(sockets) { // else nobody asks where VIPs lead
		if vips, err = c.kernel.VIPs(); err != nil {
			return false, err
		}
	}
	now := c.kernel.Now()
	p := makePlan(all, sockets, vips)
	unsettled, full, err := c.settle(p, vips, now)
	if err != nil {
		return false, err
	}
	c.forget(now)
	c.record(p, all, full)
	gentle, fast := p.ready(c.tried)
	batch := pick(fast, c.fast.take(len(fast)))
	if !full {
		n := min(c.gentle.take(len(gentle)), c.gentle.window(len(gentle))-unsettled)
		batch = append(batch, pick(gentle, n)...)
	}
	c.close(batch, p, now)
	return len(fast) > 0 || len(gentle) > 0 && !full, nil
}

// due says whether a walk over the sockets may find some to close. The counters
// say it, for less.
func (c *Closer) due(all servers) (bool, error) {
	now := c.kernel.Now()
	if len(c.leaving) > 0 || now-c.patrolled >= patrolEvery {
		c.patrolled = now
		return true, nil
	}
	var slots []uint16
	for id, slot := range all.Slots {
		if all.why(id) != "" {
			slots = append(slots, slot)
		}
	}
	if len(slots) == 0 {
		return false, nil
	}
	counters, err := c.kernel.Servers()
	if err != nil {
		return false, err
	}
	for _, slot := range slots {
		if counters[slot].Active() > 0 {
			return true, nil
		}
	}
	return false, nil
}

// close closes sockets and takes note of what came of it.
func (c *Closer) close(batch []kernel.Socket, p plan, now time.Duration) {
	if len(batch) == 0 {
		return
	}
	for i, err := range c.destroy(batch) {
		s := batch[i]
		r := c.leaving[p.server[s.Cookie]]
		if err == nil {
			r.closed++
			c.moving[s.VIPSlot] = now
			continue
		}
		// One that is gone is not listed again. If it is, it is not tried at once.
		c.tried[s.Cookie] = now
		if !errors.Is(err, kernel.ErrGone) && r.failed == "" {
			r.failed = err.Error()
			c.log.Warn("connection not closed, next try in half a minute", "server", r.id, "vip", s.VIP, "err", err)
		}
	}
}

// forget drops what was noted of sockets that may be tried again.
func (c *Closer) forget(now time.Duration) {
	maps.DeleteFunc(c.tried, func(_ uint64, at time.Duration) bool { return now-at >= retryAfter })
}

// pick takes n of the sockets at random, so that no proxy is always the first.
func pick(sockets []kernel.Socket, n int) []kernel.Socket {
	rand.Shuffle(len(sockets), func(i, j int) { sockets[i], sockets[j] = sockets[j], sockets[i] })
	return sockets[:max(0, min(n, len(sockets)))]
}

// complain says once what keeps the closer from looking.
func (c *Closer) complain(ctx context.Context, err error) {
	problem := ""
	if err != nil {
		problem = err.Error()
	}
	if problem != "" && problem != c.problem && ctx.Err() == nil {
		c.log.Warn("connections to servers that are to be left are not looked for, next try in a second", "err", err)
	}
	c.problem = problem
}
