package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/daemon/version"
)

func (a *app) statusCommand() *cobra.Command {
	return a.command("status", "say whether all is well, and if not what to do",
		`Says first whether lictord is ready and what is wrong, then how it stands with the kernel,
Consul and its journal. Exit status 1 when it is not ready.`,
		func(ctx context.Context, _ []string) error {
			s, err := ask(a, func(c *v1.Client) (v1.Status, error) { return c.Status(ctx) })
			var absent *v1.ConnectError
			if (errors.As(err, &absent) || errors.Is(err, context.DeadlineExceeded)) && pinned(a.bpffs()) {
				return fmt.Errorf("%w. Its hook is still in the kernel: proxies are redirected meanwhile, but none can be registered", err)
			}
			if err != nil {
				return err
			}
			if a.json {
				if err := a.writeJSON(s); err != nil {
					return err
				}
			} else {
				a.showStatus(s)
			}
			if !s.Ready {
				return errQuiet
			}
			return nil
		})
}

// pinned says whether there are pins in a directory.
func pinned(bpffs string) bool {
	pins, err := os.ReadDir(bpffs)
	return err == nil && len(pins) > 0
}

func (a *app) showStatus(s v1.Status) {
	word := "ready"
	if !s.Ready {
		word = "NOT READY"
	}
	if n := len(s.Problems); n > 0 {
		word += ", " + count(n, "problem", "problems")
	}
	a.printf("%s: lictord on %s\n", word, clean(s.Node))
	for i, problem := range s.Problems {
		a.printf("  %d. %s\n", i+1, clean(problem))
	}
	a.printf("\n")
	lines := [][2]string{
		{"lictord", fmt.Sprintf("%s, process %d, up %s", s.Version, s.PID, a.age(s.Started))},
		{"hook", a.hookText(s.Attachment)},
		{"consul", a.consulText(s.Consul)},
		{"journal", journalText(s.Journal)},
		{"servers", count(s.Servers, "server", "servers")},
		{"proxies", proxiesText(s.Proxies)},
		{"VIPs", strings.Join(s.Pools, ", ")},
		{"reasons", countsText(s.Reasons)},
		{"drift", countsText(s.Drift)},
		{"events", fmt.Sprintf("%s; %d dropped", countsText(s.Ring.Events), s.Ring.Dropped)},
	}
	if s.Fleet.State != "" {
		lines = append(lines, [2]string{"fleet", fleetText(s.Fleet)})
	}
	for _, line := range lines {
		a.printf("%-8s  %s\n", line[0], clean(line[1]))
	}
}

func (a *app) hookText(t v1.Attachment) string {
	text := "in effect"
	if !t.InEffect {
		text = "NOT IN EFFECT"
	}
	if t.Cgroup != "" {
		text += " on " + t.Cgroup
	}
	if !t.Verified.IsZero() {
		text += fmt.Sprintf(", verified %s ago", a.age(t.Verified))
	}
	return join(text, t.Problem)
}

func (a *app) consulText(c v1.Consul) string {
	text := "no contact yet"
	if !c.LastContact.IsZero() {
		text = fmt.Sprintf("last contact %s ago", a.age(c.LastContact))
	}
	if c.Address != "" {
		text += " with " + c.Address
	}
	if !c.NoContact.IsZero() {
		text += fmt.Sprintf(", NO CONTACT since %s (%s)", a.clock(c.NoContact), a.age(c.NoContact))
	}
	if c.Errors > 0 {
		text += ", " + count(c.Errors, "query failed", "queries failed")
	}
	if c.NoContact.IsZero() && !c.LastContact.IsZero() {
		return text // the last error is over
	}
	return join(text, c.LastError)
}

func journalText(j v1.Journal) string {
	text := fmt.Sprintf("event %d, kept from %d, %s", j.Seq, j.Oldest, size(j.Bytes))
	if !j.Writable {
		text += ", NOT WRITABLE"
	}
	if j.Pending > 0 {
		text += ", " + count(j.Pending, "placement", "placements") + " in force and not journaled yet"
	}
	return join(text, j.Problem)
}

func proxiesText(p v1.ProxyCounts) string {
	text := count(p.Total, "proxy", "proxies")
	if p.Waiting > 0 {
		text += fmt.Sprintf(", %d waiting for capacity", p.Waiting)
	}
	if p.NoOwner > 0 {
		text += fmt.Sprintf(", %d waiting for owner", p.NoOwner)
	}
	for _, how := range slices.Sorted(maps.Keys(p.Credentials)) {
		if n := p.Credentials[how]; how != "ok" && n > 0 {
			text += fmt.Sprintf(", %s %s", count(n, "credential", "credentials"), how)
		}
	}
	return text
}

// fleetText says how the host takes part in the fleet.
func fleetText(f v1.FleetStatus) string {
	text := string(f.State)
	if n := len(f.Drains); n > 0 {
		text += ", " + count(n, "server", "servers") + " drained for every host"
	}
	if len(f.Waiting) > 0 {
		text += ", drained but never seen here: " + strings.Join(f.Waiting, ", ")
	}
	return join(text, f.Why)
}

// countsText lists counts that are not 0, by name.
func countsText(counts map[string]uint64) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		if n := counts[name]; n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", name, n))
		}
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

func join(text, problem string) string {
	if problem == "" {
		return text
	}
	return text + ": " + problem
}

// versions is the JSON form of lictor version.
type versions struct {
	Lictor  string `json:"lictor"`
	Lictord string `json:"lictord,omitempty"` // absent when it does not answer
}

func (a *app) versionCommand() *cobra.Command {
	return a.command("version", "print the versions of lictor and, when it answers, of lictord", "",
		func(ctx context.Context, _ []string) error {
			ctx, cancel := context.WithTimeout(ctx, completeTimeout)
			defer cancel()
			v := versions{Lictor: version.Version()}
			// Without a daemon this is half the answer, and no failure.
			if s, err := ask(a, func(c *v1.Client) (v1.Status, error) { return c.Status(ctx) }); err == nil {
				v.Lictord = s.Version
			}
			if a.json {
				return a.writeJSON(v)
			}
			a.printf("lictor   %s\n", version.String())
			if v.Lictord == "" {
				a.printf("lictord  does not answer at %s\n", clean(a.socket))
				return nil
			}
			a.printf("lictord  %s\n", clean(v.Lictord))
			return nil
		})
}
