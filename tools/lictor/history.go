package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

func (a *app) historyCommand() *cobra.Command {
	c := a.command("history ID", "say why a proxy is on its server, and what became of it before",
		`Says first on which server the proxy is, since when and why, and who or what moved it; then
what became of it from its registration on. Times are in local time; --json has UTC.`,
		func(ctx context.Context, args []string) error {
			if err := checkID("proxy id", args[0]); err != nil {
				return err
			}
			history, err := ask(a, func(c *v1.Client) (v1.History, error) { return c.History(ctx, args[0]) })
			if err != nil {
				return err
			}
			if a.json {
				return a.writeJSON(history)
			}
			if len(history.Events) == 0 {
				a.printf("nothing is kept of %s; the oldest event kept is %d\n", args[0], history.Oldest)
				return nil
			}
			a.showHistory(history, a.serverEvents(ctx, history))
			return nil
		})
	c.ValidArgsFunction = a.completeProxies
	return c
}

// showHistory tells a proxy's events, after what they come to. servers are those
// of servers that may have led to them.
func (a *app) showHistory(history v1.History, servers []v1.JournalEvent) {
	n := a.narrator()
	story := story{id: history.ProxyID}
	var lines []string
	for _, event := range history.Events {
		for len(servers) > 0 && servers[0].Seq < event.Seq {
			n.hear(servers[0])
			servers = servers[1:]
		}
		story.add(n, event)
		lines = append(lines, a.eventLine(n, event))
	}
	a.printf("%s\n\n", clean(story.text(a)))
	if first := history.Events[0]; first.Kind != "ProxyRegistered" {
		a.printf("what was before event %d is no longer kept\n", first.Seq)
	}
	a.printf("%s\n", strings.Join(lines, "\n"))
}

// story is what a proxy's events come to.
type story struct {
	id     string
	whole  bool // its registration is among what is kept
	placed bool // it has been, since it was registered
	server string
	next   []string
	since  time.Time // it has that server, or has gone
	why    string
	moves  int    // since it was registered
	gone   string // why it is not registered; "" while it is
	bad    string // what is wrong with its credential
}

// add goes on with an event that the narrator has not heard yet.
func (s *story) add(n *narrator, event v1.JournalEvent) {
	var d eventData
	if json.Unmarshal(event.Data, &d) != nil {
		return
	}
	at := event.Time
	if !d.At.IsZero() {
		at = d.At
	}
	switch event.Kind {
	case "ProxyRegistered":
		*s = story{id: s.id, whole: true}
	case "ProxyDeregistered":
		*s = story{id: s.id, gone: leaveWords(d.Reason), since: at}
	case "CredentialChanged":
		s.bad = ""
		if d.State != "ok" {
			s.bad = join(credentialState(d.State), d.Problem)
		}
	case "Placed":
		s.next = d.Ranked[min(1, len(d.Ranked)):]
		if now := first(d.Ranked); !s.placed || now != s.server {
			if s.placed {
				s.moves++
			}
			s.placed, s.server, s.since, s.why = true, now, at, n.why(event, d)
		}
	}
}

// text says it in two lines at most.
func (s *story) text(a *app) string {
	when := fmt.Sprintf("since %s (%s)", a.clock(s.since), a.age(s.since))
	var text string
	switch {
	case s.gone != "":
		return fmt.Sprintf("%s is not registered %s: %s", s.id, when, s.gone)
	case !s.placed:
		return s.id + " is registered, and was on no server yet"
	case s.server == "":
		text = fmt.Sprintf("%s has no server %s: %s", s.id, when, s.why)
	default:
		text = fmt.Sprintf("%s is on %s %s: %s", s.id, s.server, when, s.why)
	}
	if len(s.next) > 0 {
		text += "; next would be " + strings.Join(s.next, ", ")
	}
	if s.moves > 0 {
		times, over := "once", "since it was registered"
		if s.moves > 1 {
			times = fmt.Sprintf("%d times", s.moves)
		}
		if !s.whole {
			over = "in what is kept"
		}
		text += fmt.Sprintf("; moved %s %s", times, over)
	}
	if s.bad != "" {
		text += "; its credential: " + s.bad
	}
	return text
}

const (
	// causeWithin is how many events lie between what became of a server and the
	// last proxy that was moved for it, at most.
	causeWithin = 3000
	// causesOf is of how many of the last placements the cause is looked for.
	causesOf = 20
)

// errEnough ends the reading of a stream.
var errEnough = errors.New("enough was read")

// serverEvents reads the events of servers that may have led to a proxy's
// placements. Without the right to read the journal there are none.
func (a *app) serverEvents(ctx context.Context, history v1.History) (found []v1.JournalEvent) {
	progress := a.progress("looking for what moved it")
	defer progress.end()
	for _, w := range causeWindows(history.Events) {
		after := max(w.after, max(history.Oldest, 1)-1) // before that nothing is kept
		err := a.readJournal(ctx, after, func(event v1.JournalEvent) error {
			if event.Seq > w.last {
				return errEnough
			}
			if strings.HasPrefix(event.Kind, "Server") {
				found = append(found, event)
			}
			progress.say(fmt.Sprintf("event %d", event.Seq))
			return nil
		})
		if err != nil && !errors.Is(err, errEnough) {
			break // the story is told with what there is
		}
	}
	return found
}

// window is a part of the journal: what comes after one event, up to another.
type window struct{ after, last uint64 }

// causeWindows are the parts of the journal where the causes of a proxy's last
// placements are, in order and apart from each other.
func causeWindows(events []v1.JournalEvent) (out []window) {
	n := 0
	for _, event := range slices.Backward(events) {
		var d eventData
		if event.Kind != "Placed" || json.Unmarshal(event.Data, &d) != nil ||
			!slices.Contains([]string{"server-gone", "operator", "rebalance"}, d.Reason) {
			continue
		}
		if n++; n > causesOf {
			break
		}
		out = append(out, window{after: event.Seq - min(event.Seq, causeWithin), last: event.Seq})
	}
	slices.SortFunc(out, func(x, y window) int { return cmp.Compare(x.after, y.after) })
	merged := out[:0]
	for _, w := range out {
		if last := len(merged) - 1; last >= 0 && w.after <= merged[last].last {
			merged[last].last = max(merged[last].last, w.last)
			continue
		}
		merged = append(merged, w)
	}
	return merged
}
