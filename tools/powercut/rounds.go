package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lictor-mesh/lictor/state/journal"
	"github.com/lictor-mesh/lictor/tools/powercut/disk"
)

// Tally is what came of a number of cuts.
type Tally struct {
	Rounds int           // cuts, each remounted, replayed and compared
	Acks   uint64        // calls that were acknowledged
	Last   uint64        // the journal's last event at the end
	Wrong  []string      // what was lost, half there, or there without a promise
	Took   time.Duration // all of it
}

// String is one line of figures.
func (t Tally) String() string {
	each := t.Took / time.Duration(max(1, t.Rounds))
	return fmt.Sprintf("%d cuts, %d calls acknowledged, %d events, %d wrong, %s a round",
		t.Rounds, t.Acks, t.Last, len(t.Wrong), each.Round(100*time.Microsecond))
}

// clients is how many register and deregister at a time.
const clients = 4

// maxAlive is how long the power is on at most in a round: a few dozen commits.
const maxAlive = 25 * time.Millisecond

// cutter cuts the power of one disk again and again under one journal.
type cutter struct {
	disk    *disk.Disk
	options journal.Options
	rng     *rand.Rand
	fleet   fleet
	acks    atomic.Uint64
	last    uint64
}

// cutJournal runs rounds on a new disk. It stops early when the journal can no
// longer be opened, which is an error: everything is lost then.
func cutJournal(ctx context.Context, rounds int, seed uint64, options journal.Options) (t Tally, err error) {
	d, err := disk.New(disk.Options{})
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	options.Retain = journal.Retain{Events: 300} // so that old events are dropped, too
	c := &cutter{disk: d, options: options, rng: rand.New(rand.NewPCG(seed, 0)), fleet: newFleet(clients)}
	began := time.Now()
	for t.Rounds < rounds && ctx.Err() == nil {
		wrong, err := c.round(ctx)
		t.Rounds++
		for _, w := range wrong {
			t.Wrong = append(t.Wrong, fmt.Sprintf("cut %d: %s", t.Rounds, w))
		}
		t.Acks, t.Last, t.Took = c.acks.Load(), c.last, time.Since(began)
		if err != nil {
			return t, fmt.Errorf("cut %d: %w", t.Rounds, err)
		}
	}
	return t, context.Cause(ctx)
}

// round lets the clients call, cuts the power at a random moment, and compares
// what the disk holds with what they were told.
func (c *cutter) round(ctx context.Context) (wrong []string, err error) {
	j, s, err := journal.Open(ctx, c.disk.Path, c.options)
	if err != nil {
		return nil, err
	}
	w := newWriter(j, s)
	go w.run()
	var calling sync.WaitGroup
	for _, one := range c.fleet {
		calling.Go(func() { _ = one.run(w, &c.acks) }) // its error is the cut
	}
	time.Sleep(time.Duration(c.rng.Int64N(int64(maxAlive))))
	err = c.disk.Cut()
	calling.Wait() // clients call until a commit has failed, which ends the writer
	<-w.ended
	if err := errors.Join(err, j.Close(), c.disk.Unmount(), c.disk.Mount()); err != nil {
		return nil, err
	}
	return c.replay(ctx, s.Seq+w.events)
}

// replay reads what is left. acknowledged is the last event that somebody was
// told of.
func (c *cutter) replay(ctx context.Context, acknowledged uint64) (wrong []string, err error) {
	if _, err := journal.Verify(ctx, c.disk.Path, nil); err != nil {
		return nil, err
	}
	j, s, err := journal.Open(ctx, c.disk.Path, journal.Options{})
	if err != nil {
		return nil, err
	}
	c.last = s.Seq
	if s.Seq < acknowledged {
		wrong = append(wrong, fmt.Sprintf("event %d was acknowledged, the journal ends at %d", acknowledged, s.Seq))
	}
	found, half := inForce(s)
	wrong = append(append(wrong, half...), c.fleet.check(found)...)
	return wrong, errors.Join(s.Check(), j.Close())
}
