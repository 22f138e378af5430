package statuspage

import (
	"context"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

// followJournal hands the journal's newest events, and all that follow, to the
// hub, until ctx ends.
func (p *Page) followJournal(ctx context.Context) {
	for ctx.Err() == nil {
		if err := p.followFromTail(ctx); err != nil && ctx.Err() == nil {
			p.log.Debug("journal cannot be followed; trying again", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(p.timing.retry):
		}
	}
}

func (p *Page) followFromTail(ctx context.Context) (err error) {
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
		select {
		case p.journal <- e:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}
