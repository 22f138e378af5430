package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
	"github.com/lictor-mesh/lictor/tools/testbed/reexec"
)

func init() { reexec.Handle("bench-flood", flooderMain) }

// flood asks for datagrams to a VIP, each of which is denied and makes an event:
// the cheapest way to make many.
type flood struct {
	Threads, Count int
	Rate           float64 // a second, of all threads; 0: as fast as they can
}

// flooderMain sends, and says how many seconds it took.
func flooderMain() error {
	var f flood
	if err := json.NewDecoder(os.Stdin).Decode(&f); err != nil {
		return err
	}
	started := time.Now()
	var wg sync.WaitGroup
	errs := make([]error, f.Threads)
	for i := range f.Threads {
		wg.Go(func() { errs[i] = f.send(started) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(time.Since(started).Seconds())
}

// send sends one thread's share. It keeps to the rate by bursts of a
// millisecond's worth.
func (f flood) send(started time.Time) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	sa := unix.RawSockaddrInet4{Family: unix.AF_INET, Port: 1, Addr: [4]byte{239, 77, 0, 5}}
	b := byte(0)
	burst := max(1, int(f.Rate/float64(f.Threads)/1000))
	for n := range f.Count / f.Threads {
		if f.Rate > 0 && n%burst == 0 {
			due := started.Add(time.Duration(float64(n*f.Threads) / f.Rate * float64(time.Second)))
			for time.Now().Before(due) {
				runtime.Gosched()
			}
		}
		_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b)), 1, 0,
			uintptr(unsafe.Pointer(&sa)), unsafe.Sizeof(sa))
		if errno != unix.EPERM {
			return fmt.Errorf("a datagram to a VIP: %w, and not EPERM", errno)
		}
	}
	return nil
}

const (
	ringFill   = 15_000 // events; the ring has room for 15,420
	ringRounds = 30
)

// benchRing finds how fast events are read: from a ring that is full, which is
// what the reader can do, and the highest rate of a ladder at which none is
// dropped while others make them.
func benchRing(ctx context.Context, b *bed.Bed, r *report) (err error) {
	host, err := b.NewHost("ring")
	if err != nil {
		return err
	}
	k, err := kernel.Open(ctx, kernel.Config{
		BPFFS: filepath.Join(host.BPFFS, "lictor"), Cgroup: host.Cgroup, Pool4: netip.MustParsePrefix("239.77.0.0/16"),
	})
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, k.Close(), kernel.Unload(filepath.Join(host.BPFFS, "lictor")), host.Remove())
	}()
	if err := k.Attach(ctx); err != nil {
		return err
	}
	var rates []float64
	for range ringRounds {
		if _, err := runFlood(ctx, host.Node, flood{Threads: 1, Count: ringFill}); err != nil {
			return err
		}
		took, err := drain(ctx, k, ringFill)
		if err != nil {
			return err
		}
		rates = append(rates, ringFill/took.Seconds())
		r.sample("Ring/drain", ringFill, float64(took.Nanoseconds())/ringFill)
	}
	r.add(row{what: "events read from a full ring", unit: "/s", wanted: 500_000, least: true, got: bootstrap(rates)})
	best, all, err := ladder(ctx, host.Node, k)
	if err != nil {
		return err
	}
	note := fmt.Sprintf("at a quarter more some were; %d CPUs make and read", runtime.NumCPU())
	if all {
		note = "one thread makes no more"
	}
	r.add(row{what: "events made and read at once, none dropped", unit: "/s", got: estimate{at: best}, note: note})
	return nil
}

func runFlood(ctx context.Context, n *bed.Node, f flood) (seconds float64, err error) {
	in, ask, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer in.Close()
	if err := errors.Join(json.NewEncoder(ask).Encode(f), ask.Close()); err != nil {
		return 0, err
	}
	out, err := n.Run(ctx, bed.Command{Name: "flood", Path: reexec.Path, Argv0: reexec.Argv0("bench-flood"), Stdin: in})
	if err != nil {
		return 0, err
	}
	return seconds, json.Unmarshal(out, &seconds)
}

// drain reads that many events and says how long that took.
func drain(ctx context.Context, k *kernel.Kernel, events int) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	n := 0
	var first time.Time
	err = k.Events(ctx, func(kernel.Event) {
		switch n++; n {
		case 1:
			first = time.Now()
		case events:
			took = time.Since(first)
			cancel()
		}
	})
	if err == nil && n < events {
		err = fmt.Errorf("%d events came of %d", n, events)
	}
	return took, err
}

// ladder raises the rate until an event is dropped, and returns the rate before;
// or until the rate is all that can be made.
func ladder(ctx context.Context, n *bed.Node, k *kernel.Kernel) (best float64, all bool, err error) {
	events, stop := context.WithCancel(ctx)
	done := make(chan error)
	var read atomic.Uint64
	go func() { done <- k.Events(events, func(kernel.Event) { read.Add(1) }) }()
	defer func() { stop(); err = errors.Join(err, <-done) }()
	dropped := func() (uint64, error) {
		reasons, err := k.Reasons()
		return reasons[kernel.ReasonRingDropped], err
	}
	for rate := 100_000.0; ; rate *= 1.25 {
		before, err := dropped()
		if err != nil {
			return 0, false, err
		}
		seconds, err := runFlood(ctx, n, flood{Threads: 1, Count: int(rate), Rate: rate})
		if err != nil {
			return 0, false, err
		}
		after, err := dropped()
		if err != nil {
			return 0, false, err
		}
		made := rate / seconds
		if after != before {
			return best, false, nil
		}
		best = max(best, made)
		if made < rate*0.9 {
			return best, true, nil
		}
	}
}
