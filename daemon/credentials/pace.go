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
func (p *pace) wait(ctx context.Context) error {
	p.mu.Lock()
	now := time.Now()
	if earliest := now.Add(-time.Duration(p.burst) * p.every); p.next.Before(earliest) {
		p.next = earliest
	}
	p.next = p.next.Add(p.every)
	d := p.next.Sub(now)
	p.mu.Unlock()
	return sleep(ctx, d)
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
