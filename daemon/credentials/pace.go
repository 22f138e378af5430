package credentials

import (
	"context"
	"sync"
	"time"
)

// pace spaces calls: so many at once, then one every so often. It is safe for
// concurrent use.
type pace struct {
	every time.Duration
	burst int

	mu   sync.Mutex
	next time.Time // when the next call would be due with no burst
}

// wait returns when it is the caller's turn, or with ctx's error.
func (p *pace) wait(ctx context.Context) error { return sleep(ctx, p.take()) }

// take takes a turn, and says in how long it is.
func (p *pace) take() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.due()
	p.next = time.Now().Add(d)
	return d
}

// free says whether a turn would be at once.
func (p *pace) free() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.due() <= 0
}

// due is in how long the next turn is, below 0 within a burst. p.mu is held.
func (p *pace) due() time.Duration {
	return max(time.Until(p.next), -time.Duration(p.burst)*p.every) + p.every
}

// hold lets nobody begin for a while, as when a server limits requests.
func (p *pace) hold(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if until := time.Now().Add(d); p.next.Before(until) {
		p.next = until
	}
}

// sleep waits for d, or for the end of ctx, whose error it returns.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
