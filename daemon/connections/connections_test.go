package connections

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

// event is the n-th event of a test.
func event(n int) v1.ConnectionEvent {
	return v1.ConnectionEvent{Kind: "established", PID: uint32(n)}
}

func TestFollowInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h Hub
		if h.Followed() {
			t.Error("followed by nobody")
		}
		h.Publish(event(0)) // before anybody follows
		var got [3][]uint32
		var wg sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		for i := range got {
			wg.Go(func() {
				if err := h.Follow(ctx, func(e v1.ConnectionEvent) error {
					got[i] = append(got[i], e.PID)
					return nil
				}); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if !h.Followed() {
			t.Error("not followed")
		}
		for n := range 500 {
			h.Publish(event(n + 1))
		}
		synctest.Wait()
		cancel()
		wg.Wait()
		for i := range got {
			if len(got[i]) != 500 {
				t.Fatalf("follower %d: %d events", i, len(got[i]))
			}
			for n, pid := range got[i] {
				if pid != uint32(n+1) {
					t.Fatalf("follower %d: event %d in place %d", i, pid, n)
				}
			}
		}
		if h.Followed() {
			t.Error("still followed")
		}
	})
}

// A follower that stands still delays nobody, and learns how many events it
// lost, in their place, also when nothing comes after them.
func TestSlowFollower(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h Hub
		var slow, fast []v1.ConnectionEvent
		wait := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		follow := func(fn func(v1.ConnectionEvent)) {
			wg.Go(func() {
				_ = h.Follow(ctx, func(e v1.ConnectionEvent) error { fn(e); return nil })
			})
			synctest.Wait()
		}
		follow(func(e v1.ConnectionEvent) {
			<-wait
			slow = append(slow, e)
		})
		follow(func(e v1.ConnectionEvent) { fast = append(fast, e) })

		h.Publish(event(0))
		synctest.Wait() // slow has it in hand
		const published = buffered + 300
		for n := 1; n < published; n++ {
			h.Publish(event(n)) // would hang if it waited
			synctest.Wait()
		}
		h.Lost(20)
		close(wait)
		synctest.Wait()
		if len(fast) != published+1 {
			t.Errorf("the fast one has %d events", len(fast))
		}
		lost := uint64(published - 1 - buffered + 20)
		if len(slow) != 1+buffered+1 {
			t.Fatalf("the slow one has %d events", len(slow))
		}
		if last := slow[len(slow)-1]; last.Kind != v1.ConnectionsDropped || last.Dropped != lost || last.Time.IsZero() {
			t.Errorf("last of the slow one: %+v, want %d dropped", last, lost)
		}
		h.Publish(event(published))
		synctest.Wait()
		if last := slow[len(slow)-1]; last.PID != published {
			t.Errorf("after the gap: %+v", last)
		}
		cancel()
		wg.Wait()
	})
}

func TestLostInTheKernel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h Hub
		stop := errors.New("stop")
		var got v1.ConnectionEvent
		ended := make(chan error)
		go func() {
			ended <- h.Follow(t.Context(), func(e v1.ConnectionEvent) error { got = e; return stop })
		}()
		synctest.Wait()
		h.Lost(0)
		h.Lost(7)
		if err := <-ended; !errors.Is(err, stop) {
			t.Errorf("Follow: %v", err)
		}
		if got.Kind != v1.ConnectionsDropped || got.Dropped != 7 {
			t.Errorf("got %+v", got)
		}
		if h.Followed() {
			t.Error("still followed")
		}
	})
}

// What is published and what is lost adds up, whoever runs when.
func TestEveryEventIsCounted(t *testing.T) {
	var h Hub
	var seen, dropped uint64
	const each, publishers = 20_000, 4
	all := errors.New("all")
	ready := make(chan struct{})
	ended := make(chan error)
	go func() {
		ended <- h.Follow(t.Context(), func(e v1.ConnectionEvent) error {
			if e.Kind == "ready" {
				close(ready)
				return nil
			}
			if e.Kind == v1.ConnectionsDropped {
				dropped += e.Dropped
			} else {
				seen++
			}
			if seen+dropped == each*publishers {
				return all
			}
			return nil
		})
	}()
	for !h.Followed() {
		time.Sleep(time.Millisecond)
	}
	h.Publish(v1.ConnectionEvent{Kind: "ready"})
	<-ready
	var wg sync.WaitGroup
	for range publishers {
		wg.Go(func() {
			for n := range each {
				h.Publish(event(n))
			}
		})
	}
	wg.Wait()
	if err := <-ended; !errors.Is(err, all) {
		t.Error(err)
	}
	t.Logf("%d seen, %d dropped", seen, dropped)
}
