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
		`Shows the journal's events: what was registered, placed, drained. With --follow those to
come, from now on or after --since, until it is interrupted, also over restarts of lictord.

With --connections it shows connections as the kernel reports them, from now on: one line
for each that was established, failed, closed, bounced or denied. They are not kept.`, nil)
	c.RunE = func(c *cobra.Command, _ []string) error {
		a.started = true
		if connections && c.Flags().Changed("since") {
			return usageError{errors.New("connections are not kept: --since does not go with --connections")}
		}
		client := a.client()
		defer client.Close()
		ctx := c.Context()
		switch {
		case connections:
			return a.follow(ctx, func() error { return client.Connections(ctx, a.showConnection) })
		case !follow:
			return client.Journal(ctx, since, false, a.showEvent)
		}
		if !c.Flags().Changed("since") {
			status, err := client.Status(ctx)
			if err != nil {
				return err
			}
			since = status.Journal.Seq
		}
		return a.follow(ctx, func() error {
			return client.Journal(ctx, since, true, func(event v1.JournalEvent) error {
				since = event.Seq // where to go on with the next daemon
				return a.showEvent(event)
			})
		})
	}
	flags := c.Flags()
	flags.BoolVarP(&follow, "follow", "f", false, "go on with events as they happen")
	flags.Uint64Var(&since, "since", 0, "begin after this sequence number")
	flags.BoolVar(&connections, "connections", false, "show connections instead of the journal")
	return c
}

// follow reads a stream until it is interrupted, which is the way to end it. A
// daemon that goes away, as it does for an upgrade, is waited for; one that was
// never there, or refuses, is an error.
func (a *app) follow(ctx context.Context, stream func() error) error {
	for reached := false; ; {
		err := stream()
		var absent *v1.ConnectError
		var refusal *v1.ProblemError
		var output *outputError
		gone := errors.As(err, &absent)
		if errors.Is(err, context.Canceled) {
			return nil
		}
		if errors.As(err, &refusal) || errors.As(err, &output) || gone && !reached {
			return err
		}
		if !gone {
			reached = true
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

func (a *app) historyCommand() *cobra.Command {
	c := a.command("history ID", "show what became of one proxy", "",
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
			if first := history.Events[0]; first.Kind != "ProxyRegistered" {
				a.printf("what was before event %d is no longer kept\n", first.Seq)
			}
			for _, event := range history.Events {
				if err := a.showEvent(event); err != nil {
					return err
				}
			}
			return nil
		})
	c.ValidArgsFunction = a.completeProxies
	return c
}

// showEvent writes one event of the journal.
func (a *app) showEvent(event v1.JournalEvent) error {
	if a.json {
		return written(a.writeLine(event))
	}
	_, err := fmt.Fprintf(a.stdout, "%s  %6d  %-17s  %s\n",
		a.clock(event.Time), event.Seq, clean(event.Kind), clean(eventText(event)))
	return written(err)
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
