package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// memory is a journal without a disk, so that a benchmark sees the registry.
type memory struct{ seq uint64 }

func (m *memory) Append(bodies ...state.Body) ([]state.Event, error) {
	events := make([]state.Event, len(bodies))
	for i, b := range bodies {
		m.seq++
		events[i] = state.Event{Seq: m.seq, Time: time.Now().UTC(), Body: b}
	}
	return events, nil
}

func (*memory) SnapshotDue() bool          { return false }
func (*memory) Snapshot(state.State) error { return nil }
func (*memory) Probe() error               { return nil }

// filled is a running registry with n proxies on three servers. Entries are
// written to a map in memory.
func filled(b *testing.B, n int) *Registry {
	b.Helper()
	m := newFakeMaps()
	m.life = &lifeline{left: -1}
	return filledIn(b, n, m)
}

// filledIn is filled with other maps.
func filledIn(b *testing.B, n int, m Maps) *Registry {
	b.Helper()
	r := New(Config{
		State: state.New(), Journal: &memory{}, Maps: m, Port: 8702,
		Pools:  Pools{V4: netip.MustParsePrefix("239.77.0.0/16")},
		BootID: "boot-1", Seed: "host-1",
		Hold:     func(kernel.HoldReason) time.Duration { return time.Second },
		Observer: &observer{placed: map[state.PlaceReason]int{}},
		Logger:   slog.New(slog.DiscardHandler),
	})
	r.applyServers(specs("s1", "s2", "s3"))
	for i := range n {
		batch := &batch{set: r.set, taken: map[uint32]bool{}}
		bodies, err := r.grant(batch, request(fmt.Sprintf("proxy-%d", i)))
		if err != nil {
			b.Fatal(err)
		}
		for _, ranked := range batch.ranked {
			r.loads.Remove(ranked)
		}
		events, _ := r.cfg.Journal.Append(bodies...)
		if err := r.enforce(batch, events); err != nil {
			b.Fatal(err)
		}
	}
	if err := r.Start(); err != nil {
		b.Fatal(err)
	}
	return r
}

// A registration, without the disk: it must not depend on how many there are.
func BenchmarkRegister(b *testing.B) {
	for _, n := range []int{0, 1_000, 10_000, 50_000} {
		b.Run(fmt.Sprintf("proxies=%d", n), func(b *testing.B) {
			r := filled(b, n)
			ctx, cancel := context.WithCancel(b.Context())
			ended := make(chan error)
			go func() { ended <- r.Run(ctx) }()
			defer func() {
				cancel()
				if err := <-ended; err != nil {
					b.Error(err)
				}
			}()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				id := fmt.Sprintf("new-%d", i%1000)
				if _, err := r.Register(ctx, request(id)); err != nil {
					b.Fatal(err)
				}
				if err := r.Deregister(ctx, id, state.LeaveOperator, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// All proxies are placed anew after a server left, and written to the map.
func BenchmarkServerLeaves(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 50_000} {
		b.Run(fmt.Sprintf("proxies=%d", n), func(b *testing.B) { serverLeaves(b, filled(b, n)) })
	}
}

// The same with the kernel's own maps.
func BenchmarkServerLeavesKernel(b *testing.B) {
	testenv.Privileged(b)
	for _, n := range []int{10_000, 50_000} {
		b.Run(fmt.Sprintf("proxies=%d", n), func(b *testing.B) { serverLeaves(b, filledIn(b, n, ownKernel(b))) })
	}
}

// ownKernel is the kernel's side of a daemon, until the benchmark's end.
func ownKernel(b *testing.B) *kernel.Kernel {
	b.Helper()
	dir := filepath.Join(testenv.BPFFS(b), "lictor")
	k, err := kernel.Open(b.Context(), kernel.Config{
		BPFFS: dir, Cgroup: testenv.Cgroup(b), Pool4: netip.MustParsePrefix("239.77.0.0/16"),
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := errors.Join(k.Close(), kernel.Unload(dir)); err != nil {
			b.Error(err)
		}
	})
	return k
}

// What a scrape and a status ask for.
func BenchmarkTallyKernel(b *testing.B) {
	onKernel(b, func(ctx context.Context, r *Registry) {
		tally, err := r.Tally(ctx)
		if _, e := r.Snapshot(ctx); err != nil || e != nil || tally[Idle] != 10_000 {
			b.Fatal(tally, err, e)
		}
	})
}

// What a list of all proxies asks for.
func BenchmarkViewsKernel(b *testing.B) {
	onKernel(b, func(ctx context.Context, r *Registry) {
		if views, err := r.Views(ctx); err != nil || len(views) != 10_000 {
			b.Fatal(len(views), err)
		}
	})
}

func onKernel(b *testing.B, ask func(context.Context, *Registry)) {
	testenv.Privileged(b)
	r := filledIn(b, 10_000, ownKernel(b))
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	b.ReportAllocs()
	for b.Loop() {
		ask(ctx, r)
	}
	cancel()
	<-ended
}

// serverLeaves takes away one of three servers, which a third of the proxies
// has first and all of them in their lists.
func serverLeaves(b *testing.B, r *Registry) {
	at := time.Now()
	r.now = func() time.Time { return at }
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		at = at.Add(time.Minute)
		r.applyServers(specs("s1", "s2", "s3"))
		r.flush()
		at = at.Add(time.Minute)
		b.StartTimer()
		r.applyServers(specs("s1", "s3"))
	}
	if n := r.loads.First("s2"); n != 0 {
		b.Fatalf("%d are on s2", n)
	}
}

// A reconcile that finds nothing to do, which happens every few seconds.
func BenchmarkReconcile(b *testing.B) {
	r := filled(b, 10_000)
	b.ReportAllocs()
	for b.Loop() {
		r.reconcile()
	}
}
