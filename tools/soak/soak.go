package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/tools/storm"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

const (
	podCount    = 24
	stableVIPs  = 8
	callPause   = 100 * time.Millisecond // of each of four clients: some 60 events a second
	minute      = time.Minute
	killEvery   = 4 // minutes, in the first half
	serverEvery = 2 * time.Minute
)

type options struct {
	length time.Duration
	seed   uint64
	fill   uint64
}

// soak is one run. Its goroutines are those of run alone; what they share is
// under mu.
type soak struct {
	out     io.Writer
	cluster *bed.Cluster
	host    *bed.Host
	lictor  *bed.Lictor
	api     *v1.Client
	clients *storm.Clients
	killer  *storm.Killer
	pods    *pods
	tally   *tally

	mu     sync.Mutex
	events []string // since the last line
	broken []string
}

func run(ctx context.Context, o options, out io.Writer) (err error) {
	fmt.Fprintf(out, "soak of %v, seed %d\n", o.length, o.seed)
	b, err := bed.Open(bed.Options{Progress: out})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	s, err := start(ctx, b, o, out)
	if err != nil {
		return err
	}
	defer s.api.Close()

	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { s.clients.Run(ctx) })
	if err := s.fill(ctx, o.fill); err != nil {
		return err
	}
	wg.Go(func() { s.pods.churn(ctx) })
	began := time.Now()
	quiet := began.Add(o.length / 2) // no restarts after it: they would hide a slow leak
	wg.Go(func() { s.troubleServers(ctx, began.Add(o.length-2*minute), rand.New(rand.NewPCG(o.seed, 2))) })

	table := &table{out: out}
	for n := 1; ctx.Err() == nil && time.Since(began) < o.length; n++ {
		if !sleep(ctx, time.Until(began.Add(time.Duration(n)*minute))) {
			break
		}
		if n%killEvery == 0 && time.Now().Before(quiet) {
			s.restart(ctx, n/killEvery%2 == 0)
		}
		s.judge(ctx)
		table.add(s.sample(ctx))
	}
	cancel()
	wg.Wait()
	return s.verdict(context.WithoutCancel(ctx), table)
}

// start builds the world: three servers, a host with lictord, pods with
// proxies that speak xDS, and connects to VIPs that stay.
func start(ctx context.Context, b *bed.Bed, o options, out io.Writer) (*soak, error) {
	s := &soak{out: out}
	var err error
	if s.cluster, err = b.StartCluster(ctx, bed.ClusterOptions{Servers: 3}); err != nil {
		return nil, err
	}
	if s.host, err = b.NewHost("host-1"); err != nil {
		return nil, err
	}
	if s.lictor, err = s.host.StartLictor(bed.LictorOptions{Cluster: s.cluster}); err != nil {
		return nil, err
	}
	if err := s.lictor.WaitReady(ctx); err != nil {
		return nil, err
	}
	s.api = s.lictor.Client()
	ledger := &storm.Ledger{}
	if s.tally, err = startTally(ctx, s, ledger); err != nil {
		return nil, err
	}
	if s.pods, err = startPods(ctx, s, rand.New(rand.NewPCG(o.seed, 3))); err != nil {
		return nil, err
	}
	s.clients = &storm.Clients{Socket: s.lictor.Socket, Ledger: ledger, Count: 4, IDs: 50, Seed: o.seed}
	s.killer = &storm.Killer{
		Lictor: s.lictor, Clients: s.clients, Random: rand.New(rand.NewPCG(o.seed, 4)), Run: time.Second,
		While: s.recount,
		Judge: &storm.Judge{
			API: s.api, Pins: s.pins(), Ledger: ledger, Journal: storm.NewFollower(), Others: isPod,
		},
	}
	return s, nil
}

func (s *soak) pins() string { return filepath.Join(s.host.BPFFS, "lictor") }

// fill lets the clients call as fast as they can until the journal is that long.
func (s *soak) fill(ctx context.Context, events uint64) error {
	began := time.Now()
	for {
		st, err := s.api.Status(ctx)
		if err != nil {
			return err
		}
		if st.Journal.Seq >= events {
			s.clients.Pace(callPause)
			fmt.Fprintf(s.out, "journaled %d events in %v\n", st.Journal.Seq, time.Since(began).Round(time.Second))
			return nil
		}
		if !sleep(ctx, time.Second) {
			return ctx.Err()
		}
	}
}

// restart ends lictord, by SIGKILL and again while it starts, or by SIGTERM.
func (s *soak) restart(ctx context.Context, kill bool) {
	defer s.pods.restarted()
	if kill {
		s.happened("lictord killed")
		s.check("after kill -9", s.killer.Round(ctx))
		return
	}
	s.happened("lictord restarted")
	s.clients.Hold()
	defer s.clients.Release()
	s.check("stop lictord", s.lictor.Term(ctx))
	s.check("counters while lictord is stopped", s.recount())
	s.check("start lictord", errors.Join(s.lictor.Start(), s.lictor.WaitSocket(ctx)))
}

// judge holds everybody against each other, as after a crash.
func (s *soak) judge(ctx context.Context) {
	s.clients.Hold()
	defer s.clients.Release()
	s.check("judge", s.killer.Judge.Alive(ctx))
	s.check("answers", errors.Join(s.clients.Broken()...))
	s.check("pods", s.pods.judge(ctx))
	s.check("connections", s.tally.judge(ctx))
	s.check("metrics", s.compareMetrics(ctx))
}

// check takes note of what did not hold.
func (s *soak) check(what string, err error) {
	if err == nil || errors.Is(err, context.Canceled) {
		return
	}
	text := fmt.Sprintf("%s: %s: %v", time.Now().Format(time.TimeOnly), what, err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = append(s.broken, text)
	fmt.Fprintln(s.out, "DOES NOT HOLD:", text)
}

// happened takes note of an event for the next line.
func (s *soak) happened(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, what)
}

// sleep waits and says whether the context lasts.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func mustAddr(r v1.Registered) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(r.VIP), r.Port)
}
