package statuspage

import (
	"context"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

// again follows something until ctx ends, from the beginning after an error.
func (p *Page) again(ctx context.Context, what string, follow func(context.Context) error) {
	for ctx.Err() == nil {
		if err := follow(ctx); err != nil && ctx.Err() == nil {
			p.log.Debug("cannot follow; trying again", "what", what, "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(p.timing.retry):
		}
	}
}

// followJournal hands the journal's newest events, and all that follow, to the
// hub, until ctx ends.
func (p *Page) followJournal(ctx context.Context) (err error) {
	defer caught(&err)
	within, cancel := context.WithTimeout(ctx, p.timing.patience)
	st, err := p.source.Status(within)
	cancel()
	if err != nil {
		return err
	}
	since := uint64(0)
	if st.Journal.Seq > tail {
		since = st.Journal.Seq - tail
	}
	if st.Journal.Oldest > 0 {
		since = max(since, st.Journal.Oldest-1)
	}
	return p.source.Journal(ctx, since, true, func(e v1.JournalEvent) error {
		return hand(ctx, p.journal, e)
	})
}

// followConnections hands what may be news to the hub, until ctx ends.
func (p *Page) followConnections(ctx context.Context) (err error) {
	defer caught(&err)
	return p.source.Connections(ctx, func(e v1.ConnectionEvent) error {
		switch e.Kind {
		case "established", "failed", "failed_local", "bounced":
			return hand(ctx, p.connects, e)
		}
		return nil
	})
}

// hand waits until the hub takes an event.
func hand[T any](ctx context.Context, to chan<- T, event T) error {
	select {
	case to <- event:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
