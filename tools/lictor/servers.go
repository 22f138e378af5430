package main

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

func (a *app) serversCommand() *cobra.Command {
	return a.command("servers", "list the Consul servers, with what this host has on each", "",
		func(ctx context.Context, _ []string) error {
			servers, err := ask(a, func(c *v1.Client) ([]v1.Server, error) { return c.Servers(ctx) })
			if err != nil {
				return err
			}
			if a.json {
				return a.writeJSON(v1.Servers{Servers: servers})
			}
			a.showServers(servers)
			return nil
		})
}

func (a *app) showServers(servers []v1.Server) {
	if len(servers) == 0 {
		a.printf("no Consul server is known; lictor status says why\n")
		return
	}
	t := table{heads: []string{"SERVER", "ADDRESS", "PORT", "VERSION", "STATE", "SINCE", "PROXIES", "ACTIVE",
		"ESTABLISHED", "FAILED", "FAILED LOCAL", "BOUNCED", "ATTEMPTED", "REDIRECTED", "RECEIVED", "SENT"}}
	for _, s := range servers {
		t.add(s.ID, strings.Join(s.Addresses, ","), s.GRPCPort, s.Version, serverState(s), a.age(s.Since), s.Proxies, s.Active,
			s.Established, s.Failed, s.FailedLocal, s.Bounced, s.Attempted, s.Redirected,
			size(int64(s.BytesIn)), size(int64(s.BytesOut)))
	}
	t.print(a.stdout)
}

// serverState says in a few words how a server stands.
func serverState(s v1.Server) string {
	state := "listed"
	if !s.Listed {
		state = "not listed"
	}
	if s.Drained {
		state += ", drained"
		if s.DrainedBy != "" {
			state += " by " + s.DrainedBy
		}
	}
	return state
}

func (a *app) drainCommand() *cobra.Command {
	return a.drainOrUndrain("drain SERVER", "move this host's proxies away from a server",
		`Moves this host's proxies away from a Consul server, closes their connections to it, and
keeps them away until "lictor undrain". It holds over restarts of lictord.`,
		(*v1.Client).Drain)
}

func (a *app) undrainCommand() *cobra.Command {
	return a.drainOrUndrain("undrain SERVER", "let proxies use a server again",
		`Ends a drain. Proxies come back to the server slowly, one after another.`,
		(*v1.Client).Undrain)
}

func (a *app) drainOrUndrain(use, short, long string, do func(*v1.Client, context.Context, string) error) *cobra.Command {
	c := a.command(use, short, long, func(ctx context.Context, args []string) error {
		if err := checkID("server id", args[0]); err != nil {
			return err
		}
		servers, err := ask(a, func(c *v1.Client) ([]v1.Server, error) {
			if err := do(c, ctx, args[0]); err != nil {
				return nil, err
			}
			return c.Servers(ctx)
		})
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
