package catalog

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Failures in a row make the pauses longer, up to a bound and never alike on two
// hosts; a server that was followed for a while makes them short again, and one
// that answers and fails at once does not.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := New(Config{Addresses: "10.0.0.1", TLS: TLS{Disabled: true}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var lasts time.Duration // how long the server is followed
		var failed time.Time
		pauses := make(chan time.Duration)
		c.source = func(ctx context.Context, _ string) error {
			if !failed.IsZero() {
				pauses <- time.Since(failed)
			}
			sleep(ctx, lasts)
			failed = time.Now()
			return errors.New("down")
		}
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		next := func(what string, lo, hi time.Duration) time.Duration {
			t.Helper()
			d := <-pauses
			synctest.Wait()
			if d < lo || d > hi {
				t.Errorf("%s: a pause of %v, want %v to %v", what, d, lo, hi)
			}
			return d
		}
		next("the first", 0, c.timing.rotate)
		for hi := c.timing.backoff; hi < c.timing.backoffTo; hi *= 2 {
			next("doubling", hi/2, hi)
		}
		longest, alike := next("the longest", c.timing.backoffTo/2, c.timing.backoffTo), 0
		for range 10 {
			if next("the longest", c.timing.backoffTo/2, c.timing.backoffTo) == longest {
				alike++
			}
		}
		if alike == 10 {
			t.Errorf("all pauses are %v", longest)
		}
		lasts = c.timing.steady / 2
		next("while it is down", c.timing.backoffTo/2, c.timing.backoffTo)
		lasts = c.timing.steady
		next("after a moment's contact", c.timing.backoffTo/2, c.timing.backoffTo)
		lasts = 0
		next("after a long one", 0, c.timing.rotate)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A server that answers each query at once, for want of a change or of patience,
// is not asked in a tight loop.
func TestARestlessServerIsAskedSlowly(t *testing.T) {
	f := newFake(t, node("a", "10.0.0.1", 8502))
	f.restless = true
	c := start(t, plain(f), func(tm *timing) { tm.quiet = 50 * time.Millisecond })
	began := time.Now()
	want(t, c, "a")
	none(t, c)
	if n, most := len(f.queries()), 3+int(time.Since(began)/c.timing.quiet); n > most {
		t.Errorf("asked %d times in %v, want at most %d", n, time.Since(began), most)
	}
}

// While a query blocks, a small question tells how the contact is: a server that
// is busy is there, one that fails is left.
func TestHeartbeat(t *testing.T) {
	f := newFake(t, node("a", "10.0.0.1", 8502))
	c := start(t, plain(f))
	want(t, c, "a")
	first := c.Status().LastContact
	eventually(t, c, "contact goes on", func(s Status) bool { return s.LastContact.After(first) })
	answer := func(status int, body string) {
		f.mu.Lock() // blocked queries are not woken
		defer f.mu.Unlock()
		f.status, f.body, f.beats = status, body, 0
	}
	answer(http.StatusTooManyRequests, "rate limit exceeded")
	s := eventually(t, c, "asked", func(Status) bool { f.mu.Lock(); defer f.mu.Unlock(); return f.beats > 1 })
	if s.Problem != "" || s.Server != f.addr() {
		t.Errorf("a busy server: %+v", s)
	}
	answer(http.StatusInternalServerError, "fault")
	eventually(t, c, "it fails", func(s Status) bool { return strings.Contains(s.Problem, "cannot answer") })
}
