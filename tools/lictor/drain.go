package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

const (
	// drainEvery is how often the connections that are left are counted.
	drainEvery = 200 * time.Millisecond
	// drainStalled is how many counts without one less end the waiting: the
	// daemon goes on by itself.
	drainStalled = 50
	// drainKept is that when lictord says what keeps them: it may have changed
	// its mind a moment later.
	drainKept = 10
)

func (a *app) drainCommand() *cobra.Command {
	noWait, fleet := false, false
	c := a.drainOrUndrain("drain SERVER", "move this host's proxies, or all hosts', away from a server",
		`Moves this host's proxies away from a Consul server, closes their connections to it, a few
a second and only as long as the other servers take them, and keeps them away until
"lictor undrain". It holds over restarts of lictord.

It waits until no connection is left, or says how many are and why; lictord goes on closing
them by itself, also when this command is interrupted.

With --fleet it holds for every host, through Consul, and for those to come; a host that
cannot reach Consul does it when it can. It waits for the hosts that "lictor fleet" lists.`,
		&fleet, func(ctx context.Context, client *v1.Client, id string) error {
			drain, wait := client.Drain, a.awaitDrain
			if fleet {
				drain, wait = client.DrainFleet, a.awaitFleetDrain
			}
			if err := a.await("lictord", func() error { return drain(ctx, id) }); err != nil || noWait {
				return err
			}
			return wait(ctx, id)
		})
	c.Flags().BoolVar(&noWait, "no-wait", false, "do not wait until the connections are closed")
	c.Flags().BoolVar(&fleet, "fleet", false, "drain it for every host")
	return c
}

func (a *app) undrainCommand() *cobra.Command {
	fleet := false
	c := a.drainOrUndrain("undrain SERVER", "let proxies use a server again",
		`Ends a drain. Proxies come back to the server slowly, one after another.

With --fleet it ends a drain that was for every host; what was drained on a host alone
stays so.`,
		&fleet, func(ctx context.Context, client *v1.Client, id string) error {
			undrain := client.Undrain
			if fleet {
				undrain = client.UndrainFleet
			}
			return a.await("lictord", func() error { return undrain(ctx, id) })
		})
	c.Flags().BoolVar(&fleet, "fleet", false, "end a drain that is for every host")
	return c
}

// drainOrUndrain does something to a server and then shows it, on this host or in
// the fleet.
func (a *app) drainOrUndrain(use, short, long string, fleet *bool, do func(context.Context, *v1.Client, string) error) *cobra.Command {
	c := a.command(use, short, long, func(ctx context.Context, args []string) error {
		if err := checkID("server id", args[0]); err != nil {
			return err
		}
		client := a.client()
		defer client.Close()
		if err := do(ctx, client, args[0]); err != nil {
			return err
		}
		if *fleet {
			return a.showFleetNow(ctx)
		}
		servers, err := ask(a, func(c *v1.Client) ([]v1.Server, error) { return c.Servers(ctx) })
		if err != nil {
			return err
		}
		servers = slices.DeleteFunc(servers, func(s v1.Server) bool { return s.ID != args[0] })
		if a.json {
			return a.writeJSON(v1.Servers{Servers: servers})
		}
		if len(servers) == 0 {
			a.printf("Consul does not list %s now; the drain holds, or not, for when it does\n", args[0])
			return nil
		}
		a.showServers(servers)
		return nil
	})
	c.ValidArgsFunction = a.completeServers
	return c
}

// showFleetNow shows the fleet after a change to it.
func (a *app) showFleetNow(ctx context.Context) error {
	fleet, err := ask(a, func(c *v1.Client) (v1.Fleet, error) { return c.Fleet(ctx) })
	if err != nil {
		return err
	}
	if a.json {
		return a.writeJSON(fleet)
	}
	a.showFleet(fleet)
	return nil
}

// awaitDrain waits until no connection to a server is left, or until it is plain
// that some stay for longer, which is said on stderr.
func (a *app) awaitDrain(ctx context.Context, id string) error {
	progress := a.progress("draining " + id)
	defer progress.end()
	poll := time.NewTicker(drainEvery)
	defer poll.Stop()
	most, least, still := uint64(0), ^uint64(0), 0
	for {
		servers, err := ask(a, func(c *v1.Client) ([]v1.Server, error) { return c.Servers(ctx) })
		if err != nil {
			return drainGoesOn(ctx, err)
		}
		at := slices.IndexFunc(servers, func(s v1.Server) bool { return s.ID == id })
		if at < 0 || servers[at].Active == 0 {
			return nil
		}
		s := servers[at]
		if s.Active < least {
			least, still = s.Active, 0
		}
		still++
		if still >= drainStalled || (s.Kept != "" && still >= drainKept) {
			progress.end()
			why := ""
			if s.Kept != "" {
				why = ": " + clean(s.Kept)
			}
			_, _ = fmt.Fprintf(a.stderr, "%s to %s still open%s\nlictord goes on by itself; lictor servers shows it\n",
				connections(s.Active), id, why)
			return nil
		}
		most = max(most, s.Active)
		progress.say(fmt.Sprintf("%d of %s left", s.Active, connections(most)))
		select {
		case <-ctx.Done():
			return drainGoesOn(ctx, ctx.Err())
		case <-poll.C:
		}
	}
}

// drainGoesOn says of an interruption that it stops the waiting alone.
func drainGoesOn(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("interrupted; the drain goes on, lictor undrain ends it")
	}
	return fmt.Errorf("the server is drained, but what is left on it is not known: %w", err)
}

func connections(n uint64) string {
	if n == 1 {
		return "1 connection"
	}
	return fmt.Sprintf("%d connections", n)
}
