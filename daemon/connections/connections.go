// Package connections passes the kernel's connection events on to whoever
// follows them, without ever waiting for one of them.
package connections

import (
	"context"
	"sync"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

// buffered is how many events a follower may be behind before it loses some.
const buffered = 1024

// Hub hands each event to every follower. The zero value is ready to use, and
// safe for concurrent use.
type Hub struct {
	mu        sync.Mutex
	followers map[*follower]struct{}
}

type follower struct {
	// events holds those not taken yet, in order. Publish never waits for
	// room: it counts in lost.
	events chan v1.ConnectionEvent
	lost   uint64 // guarded by Hub.mu: lost since the last line that said so
}

// Followed says whether anybody would see an event, so that the work of
// describing one can be spared.
func (h *Hub) Followed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.followers) > 0
}

// Publish hands an event to all followers. It never blocks.
func (h *Hub) Publish(e v1.ConnectionEvent) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for f := range h.followers {
		if f.lost > 0 && cap(f.events)-len(f.events) >= 2 {
			f.events <- v1.ConnectionEvent{Kind: v1.ConnectionsDropped, Time: e.Time, Dropped: f.lost}
			f.lost = 0
		}
		select {
		case f.events <- e:
		default:
			f.lost++
		}
	}
}

// Lost tells all followers that the kernel dropped n events.
func (h *Hub) Lost(n uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for f := range h.followers {
		f.lost += n
	}
}

// Follow calls fn for each event from now on, until ctx ends or fn fails, and
// returns fn's error, or nil.
func (h *Hub) Follow(ctx context.Context, fn func(v1.ConnectionEvent) error) error {
	f := &follower{events: make(chan v1.ConnectionEvent, buffered)}
	h.mu.Lock()
	if h.followers == nil {
		h.followers = map[*follower]struct{}{}
	}
	h.followers[f] = struct{}{}
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.followers, f)
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-f.events:
			if err := fn(e); err != nil {
				return err
			}
		}
	}
}
