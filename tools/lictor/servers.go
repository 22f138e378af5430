package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

func (a *app) serversCommand() *cobra.Command {
	return a.command("servers", "list the Consul servers, with what this host has on each",
		`PROXIES are those whose next connection goes to the server, ACTIVE the connections that are
up. Of those REDIRECTED to it FAILED LOCAL never left the host, as without a route; the
rest was ATTEMPTED, and is ESTABLISHED, FAILED, or on its way. BOUNCED were ended by the
server at once, as when it is full. Counts begin when the hook was loaded; columns that
would be empty are left out.`,
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
	for _, s := range servers {
		if s.Kept != "" {
			a.printf("%s of %s kept for now: %s\n", connections(s.Active), clean(s.ID), clean(s.Kept))
		}
	}
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
