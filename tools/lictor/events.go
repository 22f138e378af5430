package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

// comeBack is how often a daemon that has gone is tried again.
const comeBack = 500 * time.Millisecond

func (a *app) eventsCommand() *cobra.Command {
	var follow, connections bool
	var since uint64
	c := a.command("events", "show what was decided, or what connections do",
		`Shows the journal's events, with the reason in words: what was registered, moved, drained,
and by whom. With --follow those to come, from now on or after --since, until it is
interrupted, also over restarts of lictord. Times are in local time; --json has UTC.

With --connections it shows connections as the kernel reports them, from now on: one line
for each that was established, failed, closed, bounced or denied. They are not kept.`, nil)
	c.RunE = func(c *cobra.Command, _ []string) error {
		a.started = true
		if connections && c.Flags().Changed("since") {
			return usageError{errors.New("connections are not kept: --since does not go with --connections")}
		}
		ctx := c.Context()
		n := a.narrator()
		show := func(event v1.JournalEvent) error { return a.showEvent(n, event) }
		if !connections && !follow {
			return a.readJournal(ctx, since, show)
		}
		// Nothing may come for long, so first whether lictord answers at all.
		status, err := ask(a, func(c *v1.Client) (v1.Status, error) { return c.Status(ctx) })
		if err != nil {
			return err
		}
		client := a.client()
		defer client.Close()
		if connections {
			return a.follow(ctx, func() error { return client.Connections(ctx, a.showConnection) })
		}
		if !c.Flags().Changed("since") {
			since = status.Journal.Seq
			if !a.json {
				n.prime(ctx, client)
			}
		}
		return a.follow(ctx, func() error {
			return client.Journal(ctx, since, true, func(event v1.JournalEvent) error {
				since = event.Seq // where to go on with the next daemon
				return show(event)
			})
		})
	}
	flags := c.Flags()
	flags.BoolVarP(&follow, "follow", "f", false, "go on with events as they happen")
	flags.Uint64Var(&since, "since", 0, "begin after this sequence number")
	flags.BoolVar(&connections, "connections", false, "show connections instead of the journal")
	return c
}

// follow reads a stream of a daemon that has answered before, until it is
// interrupted, which is the way to end it. A daemon that goes away, as it does for
// an upgrade, is waited for; one that refuses is an error.
func (a *app) follow(ctx context.Context, stream func() error) error {
	for waiting := false; ; waiting = true {
		err := stream()
		var absent *v1.ConnectError
		var refusal *v1.ProblemError
		var output *outputError
		if errors.Is(err, context.Canceled) {
			return nil
		}
		if errors.As(err, &refusal) || errors.As(err, &output) {
			return err
		}
		if !waiting || !errors.As(err, &absent) { // it is still away: that was said
			_, _ = fmt.Fprintln(a.stderr, "lictor: lictord has gone away; waiting for it to come back")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(comeBack):
		}
	}
}

// outputError is that of writing to stdout.
type outputError struct{ error }

// written marks an error of stdout, nil staying nil.
func written(err error) error {
	if err == nil {
		return nil
	}
	return &outputError{err}
}

// showEvent writes one event of the journal.
func (a *app) showEvent(n *narrator, event v1.JournalEvent) error {
	if a.json {
		return written(a.writeLine(event))
	}
	_, err := fmt.Fprintln(a.stdout, a.eventLine(n, event))
	return written(err)
}

// eventLine is an event for people.
func (a *app) eventLine(n *narrator, event v1.JournalEvent) string {
	return fmt.Sprintf("%s  %6d  %-17s  %s", a.clock(event.Time), event.Seq, clean(event.Kind), clean(n.tell(event)))
}

// showConnection writes one connection event.
func (a *app) showConnection(e v1.ConnectionEvent) error {
	if a.json {
		return written(a.writeLine(e))
	}
	_, err := fmt.Fprintf(a.stdout, "%s  %-12s  %s\n",
		e.Time.In(a.zone).Format("15:04:05.000"), clean(e.Kind), clean(connectionText(e)))
	return written(err)
}

func connectionText(e v1.ConnectionEvent) string {
	if e.Kind == v1.ConnectionsDropped {
		return count(e.Dropped, "event was", "events were") + " lost"
	}
	var parts []string
	add := func(format string, values ...any) { parts = append(parts, fmt.Sprintf(format, values...)) }
	if e.ProxyID != "" {
		add("%s", e.ProxyID)
	} else if e.VIP != "" {
		add("%s", e.VIP)
	}
	if e.Server != "" || e.Address != "" {
		add("→ %s", words(e.Server, e.Address))
	}
	if words(e.Errno, e.Reason) != "" {
		add("%s", words(e.Errno, e.Reason))
	}
	if e.Comm != "" {
		add("%s[%d]", e.Comm, e.PID)
	}
	if e.TookMS > 0 {
		add("%.3g ms", e.TookMS)
	}
	if e.RTTMS > 0 {
		add("rtt %.3g ms", e.RTTMS)
	}
	if e.BytesIn+e.BytesOut > 0 {
		add("%s received, %s sent", size(int64(e.BytesIn)), size(int64(e.BytesOut)))
	}
	return strings.Join(parts, "  ")
}
