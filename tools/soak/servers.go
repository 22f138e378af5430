package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// settle is how long after a server's trouble a connect may still meet it.
const settle = 30 * time.Second

// troubleServers does something to a server every few minutes, one at a time,
// until the given time.
func (s *soak) troubleServers(ctx context.Context, until time.Time, random *rand.Rand) {
	troubles := []struct {
		name string
		do   func(context.Context, *bed.Server) error
	}{
		{"killed for 20s", func(ctx context.Context, v *bed.Server) error {
			err := v.Kill()
			sleep(ctx, 20*time.Second)
			return errors.Join(err, v.Restart(ctx))
		}},
		{"frozen for 15s", func(ctx context.Context, v *bed.Server) error {
			err := v.Stop()
			sleep(ctx, 15*time.Second)
			return errors.Join(err, v.Cont())
		}},
		{"cut off for 15s", func(ctx context.Context, v *bed.Server) error {
			err := v.Partition(bed.Silent)
			sleep(ctx, 15*time.Second)
			return errors.Join(err, v.Heal())
		}},
		{"drained for 20s", func(ctx context.Context, v *bed.Server) error {
			err := s.again(ctx, func() error { return s.api.Drain(ctx, v.Name) })
			sleep(ctx, 20*time.Second)
			return errors.Join(err, s.again(ctx, func() error { return s.api.Undrain(ctx, v.Name) }))
		}},
		{"joined by another for a minute", func(ctx context.Context, _ *bed.Server) error {
			more, err := s.cluster.AddServer(ctx)
			if err != nil {
				return err
			}
			sleep(ctx, time.Minute)
			return more.Remove(ctx)
		}},
	}
	for n := 0; ; n++ {
		pause := serverEvery/2 + time.Duration(random.Int64N(int64(serverEvery)))
		if time.Now().Add(pause).After(until) || !sleep(ctx, pause) {
			return
		}
		trouble, victim := troubles[n%len(troubles)], s.cluster.Server(random.IntN(3))
		s.happened(victim.Name + " " + trouble.name)
		s.tally.disturbed(time.Now().Add(3 * time.Minute))
		if err := trouble.do(ctx, victim); err != nil && ctx.Err() == nil {
			s.check("trouble a server", fmt.Errorf("%s %s: %w", victim.Name, trouble.name, err))
		}
		wait, cancel := context.WithTimeout(ctx, 2*time.Minute)
		if err := s.cluster.WaitServers(wait, 3); err != nil && ctx.Err() == nil {
			s.check("get the servers back", err)
		}
		cancel()
		s.tally.disturbed(time.Now().Add(settle))
	}
}

// again repeats a call that lictord's restart interrupts.
func (s *soak) again(ctx context.Context, call func() error) error {
	for tries := 0; ; tries++ {
		err := call()
		if err == nil || tries == 20 || !sleep(ctx, 500*time.Millisecond) {
			return err
		}
	}
}
