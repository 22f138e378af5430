package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

const (
	// fleetEvery is how often the hosts' reports are read: each writes a new one
	// five seconds after the last at the soonest.
	fleetEvery = 500 * time.Millisecond
	// fleetStalled is how many reads without a change end the waiting. Every host
	// goes on by itself.
	fleetStalled = 60
	// fleetKept is that when every host has applied it and says what keeps the
	// rest.
	fleetKept = 12
)

// awaitFleetDrain waits until every host that reports has applied a drain and has
// no connection left to the server, or until it is plain that some stay for
// longer, which is said on stderr.
func (a *app) awaitFleetDrain(ctx context.Context, id string) error {
	progress := a.progress("draining " + id + " for the fleet")
	defer progress.end()
	poll := time.NewTicker(fleetEvery)
	defer poll.Stop()
	var last drainProgress
	for still := 0; ; still++ {
		fleet, err := ask(a, func(c *v1.Client) (v1.Fleet, error) { return c.Fleet(ctx) })
		if err != nil {
			return fleetDrainGoesOn(ctx, err)
		}
		p := progressOf(fleet, id)
		if p.hosts == 0 {
			progress.end()
			_, _ = fmt.Fprintf(a.stderr, "no host reports, so how far the drain has come is not known; lictor servers shows it on each host\n")
			return nil
		}
		if p.done() {
			return nil
		}
		if p.applied != last.applied || p.left != last.left || p.hosts != last.hosts {
			last, still = p, 0
		}
		if still >= fleetStalled || still >= fleetKept && p.applied == p.hosts && len(p.kept) > 0 {
			progress.end()
			a.sayFleetDrainStays(p)
			return nil
		}
		progress.say(p.String())
		select {
		case <-ctx.Done():
			return fleetDrainGoesOn(ctx, ctx.Err())
		case <-poll.C:
		}
	}
}

// sayFleetDrainStays says what a drain still waits for.
func (a *app) sayFleetDrainStays(p drainProgress) {
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(a.stderr, format, args...) }
	say("%s\n", p)
	if len(p.behind) > 0 {
		say("not applied by %s\n", clean(strings.Join(p.behind, ", ")))
	}
	for _, kept := range p.kept {
		say("kept on %s\n", clean(kept))
	}
	say("every host goes on by itself; lictor fleet shows it\n")
}

// fleetDrainGoesOn says of an interruption that it stops the waiting alone.
func fleetDrainGoesOn(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("interrupted; the drain goes on, lictor undrain --fleet ends it")
	}
	return fmt.Errorf("the server is drained for the fleet, but how far that has come is not known: %w", err)
}
