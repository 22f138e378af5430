// Package connections passes the kernel's connection events on to whoever
// follows them, without ever waiting for one of them.
package connections

import (
	"context"
	"sync"
	"time"

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

// follower is one who follows, with what it has still to be told.
type follower struct {
	wake chan struct{} // buffered for one; a wake-up that is due already is enough

	// events are in order, at most buffered of them and a line about what came
	// after these. Guarded by Hub.mu.
	events []v1.ConnectionEvent
}

// lose counts n events as lost, where they would be.
func (f *follower) lose(n uint64) {
	if last := len(f.events) - 1; last >= 0 && f.events[last].Kind == v1.ConnectionsDropped {
		f.events[last].Dropped += n
		return
	}
	f.events = append(f.events, v1.ConnectionEvent{Kind: v1.ConnectionsDropped, Time: time.Now().UTC(), Dropped: n})
}

// Followed says whether anybody would see an event, so that the work of
// describing one can be spared.
func (h *Hub) Followed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.followers) > 0
}

// Publish hands an event to all followers. It never waits for one: who is too
// far behind loses the event, and is told how many it lost.
func (h *Hub) Publish(e v1.ConnectionEvent) {
	h.each(func(f *follower) {
		if len(f.events) >= buffered {
			f.lose(1)
			return
		}
		f.events = append(f.events, e)
	})
}

// Lost tells all followers that the kernel dropped n events.
func (h *Hub) Lost(n uint64) {
	if n > 0 {
		h.each(func(f *follower) { f.lose(n) })
	}
}

func (h *Hub) each(tell func(*follower)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for f := range h.followers {
		tell(f)
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}
}

// Follow calls fn for each event from now on, until ctx ends or fn fails, and
// returns fn's error, or nil. Where events were lost there is one of kind
// v1.ConnectionsDropped in their place.
func (h *Hub) Follow(ctx context.Context, fn func(v1.ConnectionEvent) error) error {
	f := &follower{wake: make(chan struct{}, 1)}
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
		case <-f.wake:
		}
		for _, e := range h.take(f) {
			if ctx.Err() != nil {
				return nil
			}
			if err := fn(e); err != nil {
				return err
			}
		}
	}
}

// take gives what a follower has to be told, and makes room for more.
func (h *Hub) take(f *follower) []v1.ConnectionEvent {
	h.mu.Lock()
	defer h.mu.Unlock()
	events := f.events
	f.events = nil
	return events
}
