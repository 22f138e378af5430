package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

func (a *app) fleetCommand() *cobra.Command {
	var operator operator
	c := a.command("fleet", "list the hosts, with what each has on each server",
		`Lists the hosts whose lictord reports through Consul, and what is drained for all of them.
A host that has ended, or has lost Consul, is SILENT after ten minutes and leaves the list
within two hours.

With a token of yours that has acl:read it lists as well the ACL tokens that proxies got by
login on hosts that no longer report; "lictor fleet reap" deletes them.`,
		func(ctx context.Context, _ []string) error {
			fleet, err := ask(a, func(c *v1.Client) (v1.Fleet, error) { return c.Fleet(ctx) })
			if err != nil {
				return err
			}
			var left []leftover
			if operator.given(a) {
				if left, err = a.leftovers(ctx, operator, fleet); err != nil {
					return err
				}
			}
			if a.json {
				return a.writeJSON(fleetAnswer{Fleet: fleet, Left: left})
			}
			a.showFleet(fleet)
			if len(left) > 0 {
				a.printf("\n")
				a.showLeftovers(left)
			}
			return nil
		})
	operator.flags(c)
	c.AddCommand(a.reapCommand())
	return c
}

// fleetAnswer is the JSON form of lictor fleet.
type fleetAnswer struct {
	v1.Fleet
	Left []leftover `json:"hosts_gone,omitempty"`
}

func (a *app) showFleet(f v1.Fleet) {
	if f.Status.State != v1.FleetOn {
		a.printf("this host is %s: %s\n", map[v1.FleetState]string{
			v1.FleetOff: "no part of the fleet", v1.FleetCut: "cut off from the fleet",
		}[f.Status.State], clean(f.Status.Why))
	}
	if len(f.Hosts) > 0 {
		a.hostTable(f).print(a.stdout)
	} else if f.Status.State != v1.FleetOff {
		a.printf("no host reports\n")
	}
	for _, d := range f.Drains {
		a.printf("%s\n", clean(a.drainText(f, d)))
	}
	for _, h := range f.Hosts {
		for _, problem := range append(slices.Clone(h.Problems), h.Unreadable) {
			if problem != "" {
				a.printf("%s: %s\n", clean(h.Node), clean(problem))
			}
		}
	}
	for _, about := range []string{f.Status.Why, f.Status.Problem} {
		if about != "" && f.Status.State == v1.FleetOn {
			a.printf("%s: %s\n", clean(f.Node), clean(about))
		}
	}
}

// hostTable has a column for each server, with the host's connections to it.
func (a *app) hostTable(f v1.Fleet) *table {
	var servers []string
	for _, h := range f.Hosts {
		for _, s := range h.Servers {
			if !slices.Contains(servers, s.ID) {
				servers = append(servers, s.ID)
			}
		}
	}
	slices.Sort(servers)
	t := &table{heads: []string{"HOST", "VERSION", "STATE", "UP", "PROXIES"}}
	for _, id := range servers {
		t.heads = append(t.heads, clean(id))
	}
	t.heads = append(t.heads, "DRAINED", "EVENT", "REPORTED")
	for _, h := range f.Hosts {
		if h.Unreadable != "" {
			row := make([]any, len(t.heads))
			for i := range row {
				row[i] = ""
			}
			row[0], row[2] = h.Node, hostState(h)
			t.add(row...)
			continue
		}
		cells := []any{h.Node, h.Version, hostState(h), "", h.Proxies.Total}
		if !h.Started.IsZero() && !h.Silent && h.Stopped.IsZero() {
			cells[3] = span(f.Now.Sub(h.Started))
		}
		drained := []string{}
		for _, id := range servers {
			at := slices.IndexFunc(h.Servers, func(s v1.FleetServer) bool { return s.ID == id })
			if at < 0 {
				cells = append(cells, "")
				continue
			}
			cells = append(cells, h.Servers[at].Active)
			if h.Servers[at].Drained {
				drained = append(drained, id)
			}
		}
		reported := ""
		if !h.Reported.IsZero() {
			reported = span(f.Now.Sub(h.Reported)) + " ago"
		}
		t.add(append(cells, strings.Join(drained, ","), h.Seq, reported)...)
	}
	return t
}

// hostState says in a word how a host is.
func hostState(h v1.FleetHost) string {
	switch {
	case h.Unreadable != "":
		return "unreadable"
	case !h.Stopped.IsZero():
		return "stopped"
	case h.Silent:
		return "SILENT"
	case !h.Ready:
		return "NOT READY"
	case len(h.Problems) > 0:
		return "ready, " + count(len(h.Problems), "problem", "problems")
	}
	return "ready"
}

// drainText says how far a drain of the fleet has come.
func (a *app) drainText(f v1.Fleet, d v1.FleetDrain) string {
	text := d.Server + " is drained for the fleet"
	if d.By != "" {
		text += " by " + d.By
	}
	if !d.Since.IsZero() {
		text += fmt.Sprintf(" since %s (%s)", a.clock(d.Since), span(f.Now.Sub(d.Since)))
	}
	return text + ": " + progressOf(f, d.Server).String()
}

// drainProgress is how far a drain of the fleet has come, on the hosts where
// lictord runs.
type drainProgress struct {
	hosts   int
	applied int
	behind  []string // that have not applied it
	left    uint64   // connections to the server
	kept    []string // why they stay, host by host
}

func progressOf(f v1.Fleet, server string) (p drainProgress) {
	for _, h := range f.Hosts {
		if h.Silent || h.Unreadable != "" || !h.Stopped.IsZero() {
			continue
		}
		p.hosts++
		at := slices.IndexFunc(h.Servers, func(s v1.FleetServer) bool { return s.ID == server })
		if at < 0 { // it has never seen the server, so it has nothing on it
			p.applied++
			continue
		}
		s := h.Servers[at]
		p.left += s.Active
		if s.Kept != "" {
			p.kept = append(p.kept, h.Node+": "+s.Kept)
		}
		if !s.Drained {
			p.behind = append(p.behind, h.Node)
			continue
		}
		p.applied++
	}
	return p
}

// done says that there is nothing left to wait for.
func (p drainProgress) done() bool { return p.applied == p.hosts && p.left == 0 }

// String says it in a line: "41 of 42 hosts have applied it, 3 connections left".
func (p drainProgress) String() string {
	return fmt.Sprintf("%d of %s applied it, %s left", p.applied, count(p.hosts, "host has", "hosts have"), connections(p.left))
}
