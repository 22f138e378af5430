package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

// feed is what just happened. On a terminal the view shows the end of it; else
// each line is printed. Its methods may be called concurrently.
type feed struct {
	ui      *screen
	paint   palette
	started time.Time

	mu   sync.Mutex
	last []string
}

// keepLines is how much of the feed is kept for the view.
const keepLines = 12

// say adds a line, with the time since the start.
func (f *feed) say(format string, args ...any) {
	at := time.Since(f.started)
	stamp := fmt.Sprintf("%02d:%04.1f", int(at.Minutes()), (at % time.Minute).Seconds())
	line := f.paint.quiet(stamp) + "  " + fmt.Sprintf(format, args...)
	if !f.ui.terminal() {
		f.ui.print(line)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last = append(f.last, line)
	f.last = f.last[max(0, len(f.last)-keepLines):]
}

// tail is at most the last n lines.
func (f *feed) tail(n int) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.last[max(0, len(f.last)-n):])
}

// followJournal tells what lictord decides, across its restarts, until the
// context ends.
func (f *feed) followJournal(ctx context.Context, m *mesh) {
	var seen uint64
	first := map[string]string{} // proxy, server
	for ctx.Err() == nil {
		_ = m.client.Journal(ctx, seen, true, func(e v1.JournalEvent) error {
			seen = e.Seq
			if what := decision(e, first); what != "" {
				f.say("lictord  #%d %s", e.Seq, what)
			}
			return nil
		})
		select { // it is not there: that is what the demo shows
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// decision puts an event into words. It is told which server each proxy has
// first, and notes what changes. Left out are what the demo itself asked for,
// registrations and first placements, and new orders of the servers behind the
// first.
func decision(e v1.JournalEvent, first map[string]string) string {
	var body struct {
		ID     string
		Server struct{ ID string }
		Ranked []string
		Reason string
	}
	if err := json.Unmarshal(e.Data, &body); err != nil {
		return ""
	}
	switch e.Kind {
	case "ServerSeen":
		return body.Server.ID + " is in the catalog"
	case "ServerGone":
		return body.ID + " is no longer in the catalog"
	case "Placed":
		was := first[body.ID]
		if len(body.Ranked) == 0 || body.Ranked[0] == was {
			return ""
		}
		first[body.ID] = body.Ranked[0]
		if body.Reason != "initial" {
			return fmt.Sprintf("%s placed on %s: %s", memberOf(body.ID), body.Ranked[0], body.Reason)
		}
	}
	return ""
}
