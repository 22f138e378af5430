package main

import (
	"bufio"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

func (a *app) reapCommand() *cobra.Command {
	var operator operator
	var yes bool
	var olderThan time.Duration
	c := a.command("reap [HOST]", "delete the ACL tokens of hosts that never came back",
		`Deletes the ACL tokens that proxies got by login on hosts which reported once and no longer
do, and those hosts' nodes of the name lictor-HOST in Consul's catalog, after showing them
and asking. lictord logs its proxies out itself, also after a crash or a reboot; this is
for hosts that are gone for good.

A host that has never reported, as one whose token does not permit it, looks as if it were
gone: its tokens are deleted only when it is named.

Your token needs acl:write, and node:read and node:write on the prefix lictor-. How Consul
is reached lictord tells; CONSUL_HTTP_ADDR and the like in the environment win.`, nil)
	c.RunE = func(c *cobra.Command, args []string) error {
		a.started = true
		host := ""
		if len(args) > 0 {
			host = args[0]
		}
		if !operator.given(a) {
			return usageError{fmt.Errorf("lictor fleet reap needs a token of yours: --token-file, or CONSUL_HTTP_TOKEN")}
		}
		if a.json && !yes {
			return usageError{fmt.Errorf("--json does not ask: give --yes as well, or look first with lictor fleet --json")}
		}
		return a.reap(c.Context(), operator, host, olderThan, yes)
	}
	operator.flags(c)
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.Flags().DurationVar(&olderThan, "older-than", 24*time.Hour, "leave tokens alone that were made more recently")
	return c
}

// reaped is the JSON form of lictor fleet reap.
type reaped struct {
	Tokens []leftToken `json:"tokens"` // deleted
	Nodes  []string    `json:"nodes"`  // deregistered
}

func (a *app) reap(ctx context.Context, operator operator, host string, olderThan time.Duration, yes bool) error {
	fleet, err := ask(a, func(c *v1.Client) (v1.Fleet, error) { return c.Fleet(ctx) })
	if err != nil {
		return err
	}
	if err := safeToReap(fleet, host); err != nil {
		return err
	}
	left, err := a.leftovers(ctx, operator, fleet)
	if err != nil {
		return err
	}
	left = a.reapable(left, host, olderThan)
	if len(left) == 0 {
		if a.json {
			return a.writeJSON(reaped{Tokens: []leftToken{}, Nodes: []string{}})
		}
		a.printf("nothing to delete\n")
		return nil
	}
	if !yes {
		a.showLeftovers(left)
		if !a.confirmed(ctx, "\ndelete all of that? [y/N] ") {
			return fmt.Errorf("nothing was deleted")
		}
	}
	done, err := a.deleteLeftovers(ctx, operator, fleet, left)
	if a.json {
		if jsonErr := a.writeJSON(done); err == nil {
			err = jsonErr
		}
		return err
	}
	a.printf("deleted %s and %s\n", count(len(done.Tokens), "token", "tokens"), count(len(done.Nodes), "node", "nodes"))
	return err
}

// safeToReap refuses where the list of hosts says nothing about who is gone.
func safeToReap(f v1.Fleet, host string) error {
	if f.Status.State != v1.FleetOn {
		return fmt.Errorf("which hosts are gone is not known here: %s", f.Status.Why)
	}
	if f.Partial {
		return fmt.Errorf("lictord here does not see every host, so nobody can be said to be gone: give its token key_prefix \"lictor/\" read")
	}
	self := false
	for _, h := range f.Hosts {
		self = self || h.Node == f.Node && !h.Silent && h.Stopped.IsZero()
		if h.Node == host {
			return fmt.Errorf("%s reports, %s ago last; its tokens are its own to log out", host, span(f.Now.Sub(h.Reported)))
		}
	}
	if !self {
		return fmt.Errorf("not even this host, %s, is among those that report, so nobody can be said to be gone; lictor status says why", f.Node)
	}
	return nil
}

// reapable are the leftovers that may be deleted. A node goes only when no token
// of its host is left.
func (a *app) reapable(left []leftover, host string, olderThan time.Duration) (out []leftover) {
	for _, l := range left {
		if host != "" && l.Host != host || host == "" && !l.Reported {
			continue
		}
		var old []leftToken
		for _, t := range l.Tokens {
			if a.now().Sub(t.Created) >= olderThan {
				old = append(old, t)
			}
		}
		if len(old) < len(l.Tokens) {
			l.Node = ""
		}
		l.Tokens = old
		if len(l.Tokens) > 0 || l.Node != "" {
			out = append(out, l)
		}
	}
	return out
}

// confirmed asks a question on stderr, and takes nothing but yes for an answer.
func (a *app) confirmed(ctx context.Context, question string) bool {
	_, _ = fmt.Fprint(a.stderr, question)
	answered := make(chan string, 1)
	go func() {
		answer, _ := bufio.NewReader(a.stdin).ReadString('\n') // the end of input is a no
		answered <- strings.ToLower(strings.TrimSpace(answer))
	}()
	select {
	case answer := <-answered:
		return answer == "y" || answer == "yes"
	case <-ctx.Done():
		return false
	}
}
