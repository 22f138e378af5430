package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/hashicorp/consul/api"
	"golang.org/x/sync/errgroup"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// longest is how long is waited for a change.
const longest = 90 * time.Second

// measurement is what to do.
type measurement struct {
	rounds    int // of a setup, fault and room
	scenarios []scenario
	say       func(format string, args ...any)
}

// result is what became of a scenario.
type result struct {
	scenario
	rounds int
	// Of each Envoy that was on the lost server, since the loss: when it was
	// connected to the server through which the change came, and when it came.
	streams, changes []time.Duration
	never            int             // that did not have the change in time
	pushes           []time.Duration // of the others: since the change was made
}

// measure runs rounds of all scenarios in turn, so that what the machine does
// meanwhile is done to all of them.
func measure(ctx context.Context, m measurement) (results []result, err error) {
	b, err := bed.Open(bed.Options{Progress: os.Stdout})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	c, err := b.StartCluster(ctx, bed.ClusterOptions{Servers: 3, Config: map[string]any{
		// A server that comes back soon has a vote again: the next round may need it.
		"autopilot": map[string]any{"server_stabilization_time": "200ms"},
	}})
	if err != nil {
		return nil, err
	}
	results = make([]result, len(m.scenarios))
	for i, s := range m.scenarios {
		results[i].scenario = s
	}
	number := 0
	for n := range m.rounds {
		for i := range results {
			r := &results[i]
			if r.setup == lictor && n%2 == 1 && m.both(r.scenario) {
				continue // its twin has the other half of the rounds
			}
			number++
			began := time.Now()
			rd := round{bed: b, cluster: c, scenario: r.scenario, number: number, result: r}
			if err := rd.run(ctx); err != nil {
				for name, text := range b.Logs(1000) {
					m.say("log of %s:\n%s", name, text)
				}
				return results, fmt.Errorf("round %d, %v: %w", number, r.scenario, err)
			}
			m.say("round %d of %d, %-24v %s; took %v", n+1, m.rounds, r.scenario, rd.said, time.Since(began).Round(time.Second))
		}
	}
	return results, nil
}

// both tells whether the scenario is measured with lictord alive and dead.
func (m measurement) both(s scenario) bool {
	s.dead = !s.dead
	return m.rounds > 1 && slices.Contains(m.scenarios, s)
}

// round is one loss of a server, with a host and Envoys of its own, which have
// nothing behind them.
type round struct {
	scenario
	bed     *bed.Bed
	cluster *bed.Cluster
	number  int
	result  *result

	host   *bed.Host
	lictor *bed.Lictor
	envoys []*envoy
	said   string
}

func (r *round) run(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, longest+2*time.Minute)
	defer cancel()
	if err := r.register(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.clear()) }()
	if err := r.start(ctx); err != nil {
		return err
	}
	victim, leader, err := r.victim(ctx)
	if err != nil {
		return err
	}
	var lost, others []*envoy
	for _, e := range r.envoys {
		on, _, err := e.server(r.cluster)
		if err != nil {
			return err
		}
		if e.before, err = e.updates(ctx); err != nil {
			return err
		}
		if on == victim {
			lost = append(lost, e)
		} else {
			others = append(others, e)
		}
	}
	if r.dead {
		if err := r.lictor.Kill(); err != nil {
			return err
		}
	}
	began, made, err := r.lose(ctx, victim, leader)
	if err != nil {
		return err
	}
	if err := r.watch(ctx, victim, lost, others, began, made); err != nil {
		return err
	}
	return r.mend(ctx, victim)
}

// lose takes the server away, and makes a change that all Envoys are to get.
// Times are those right after each was done.
func (r *round) lose(ctx context.Context, victim, leader *bed.Server) (began, made time.Time, err error) {
	entry := &api.ServiceIntentionsConfigEntry{
		Kind: api.ServiceIntentions, Name: service,
		Sources: []*api.SourceIntention{{Name: fmt.Sprintf("caller-%d", r.number), Action: api.IntentionActionDeny}},
	}
	if r.fault == kill {
		err = victim.Kill()
	} else {
		err = victim.Partition(bed.Silent)
	}
	began = time.Now()
	if err == nil {
		_, _, err = leader.Client().ConfigEntries().Set(entry, (&api.WriteOptions{}).WithContext(ctx))
	}
	return began, time.Now(), err
}

// watch waits until all Envoys have the change, and notes when.
func (r *round) watch(ctx context.Context, victim *bed.Server, lost, others []*envoy, began, made time.Time) error {
	ctx, cancel := context.WithDeadline(ctx, began.Add(longest))
	defer cancel()
	var group errgroup.Group
	for _, e := range r.envoys {
		group.Go(func() error { return e.watch(ctx, r.cluster, victim) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	never := 0
	var streams, changes []time.Duration
	for _, e := range lost {
		if e.changed.IsZero() {
			never++
			continue
		}
		streams, changes = append(streams, e.connected.Sub(began)), append(changes, e.changed.Sub(began))
	}
	for _, e := range others {
		if !e.changed.IsZero() {
			r.result.pushes = append(r.result.pushes, e.changed.Sub(made))
		}
	}
	r.result.rounds++
	r.result.never += never
	r.result.streams = append(r.result.streams, streams...)
	r.result.changes = append(r.result.changes, changes...)
	r.said = fmt.Sprintf("%s had %d Envoys: streams %s, changes %s", victim.Name, len(lost), seconds(streams), seconds(changes))
	if never > 0 {
		r.said += fmt.Sprintf(", %d never", never)
	}
	return nil
}

// mend brings the server back, without the streams that it may believe in.
func (r *round) mend(ctx context.Context, victim *bed.Server) error {
	if err := victim.Kill(); err != nil {
		return err
	}
	if err := victim.Heal(); err != nil {
		return err
	}
	if err := victim.Restart(ctx); err != nil {
		return err
	}
	return r.cluster.WaitServers(ctx, 3)
}
