package storm

import (
	"context"
	"encoding/json"
	"fmt"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/state"
)

// Follower folds the journal as the API tells it, a part at a time. What it has
// read once was on disk: it must never be missing or different after a crash.
type Follower struct {
	State state.State
	// Kinds counts the events read.
	Kinds map[state.Kind]int
	// Placed counts the placements read by reason.
	Placed map[state.PlaceReason]int
	newest v1.JournalEvent
}

// NewFollower begins with a journal's first event.
func NewFollower() *Follower {
	return &Follower{State: state.New(), Kinds: map[state.Kind]int{}, Placed: map[state.PlaceReason]int{}}
}

// Read folds what was journaled since the last time.
func (f *Follower) Read(ctx context.Context, api *v1.Client) error {
	since := f.newest.Seq
	if since > 0 {
		since-- // the newest event read comes again, and must be the same
	}
	next := since + 1
	err := api.Journal(ctx, since, false, func(e v1.JournalEvent) error {
		if e.Seq != next {
			return fmt.Errorf("journal goes on with event %d after event %d", e.Seq, next-1)
		}
		next++
		if e.Seq == f.newest.Seq {
			if string(e.Data) != string(f.newest.Data) || !e.Time.Equal(f.newest.Time) || e.Kind != f.newest.Kind {
				return fmt.Errorf("event %d of the journal is not what it was: %s %s, before: %s %s",
					e.Seq, e.Kind, e.Data, f.newest.Kind, f.newest.Data)
			}
			return nil
		}
		return f.fold(e)
	})
	if err == nil && next <= f.newest.Seq {
		err = fmt.Errorf("journal ends with event %d, and had event %d before", next-1, f.newest.Seq)
	}
	return err
}

func (f *Follower) fold(e v1.JournalEvent) error {
	raw, err := json.Marshal(e)
	if err != nil {
		return err
	}
	var event state.Event
	if err := json.Unmarshal(raw, &event); err != nil {
		return err
	}
	f.State = state.Fold(f.State, event)
	f.Kinds[event.Body.Kind()]++
	if p, ok := event.Body.(state.Placed); ok {
		f.Placed[p.Reason]++
	}
	f.newest = e
	return nil
}
