package kernel

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// storm connects to VIPs without a pause until stop, each connection ending by
// a reset, and checks who answers.
type storm struct {
	wg       sync.WaitGroup
	stopped  atomic.Bool
	connects atomic.Uint64
	failed   atomic.Pointer[error]
}

// storm starts a thread for each VIP; may says which servers may answer.
func (r *rig) storm(may map[netip.AddrPort][]netip.AddrPort) *storm {
	s := &storm{}
	for vip, servers := range may {
		s.wg.Go(func() {
			err := r.ns.Do(func() error {
				for !s.stopped.Load() {
					if err := connectTo(vip, servers); err != nil {
						return fmt.Errorf("connect %d to %v: %w", s.connects.Load(), vip, err)
					}
					s.connects.Add(1)
				}
				return nil
			})
			if err != nil {
				s.failed.CompareAndSwap(nil, &err)
			}
		})
	}
	return s
}

// connectTo makes one connection and asks its server for its name.
func connectTo(vip netip.AddrPort, servers []netip.AddrPort) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	// No TIME_WAIT, of which a storm would soon have too many.
	if err := unix.SetsockoptLinger(s, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return err
	}
	if err := unix.Connect(s, sockaddr(vip)); err != nil {
		return err
	}
	if len(servers) == 0 {
		return nil
	}
	b := make([]byte, 64)
	n, err := unix.Read(s, b)
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	for _, may := range servers {
		if string(b[:n]) == may.String()+"\n" {
			return nil
		}
	}
	return fmt.Errorf("reached %q, which is none of %v", b[:n], servers)
}

func (s *storm) stop(t testing.TB) uint64 {
	t.Helper()
	s.stopped.Store(true)
	s.wg.Wait()
	if err := s.failed.Load(); err != nil {
		t.Error(*err)
	}
	return s.connects.Load()
}

// wait until the storm has made some more connects.
func (s *storm) wait(t *testing.T, more uint64) {
	t.Helper()
	from := s.connects.Load()
	for end := time.Now().Add(time.Minute); s.connects.Load() < from+more && s.failed.Load() == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("the storm made %d connects in a minute, want %d", s.connects.Load()-from, more)
			return
		}
	}
}

// A daemon that is killed and started as another version, again and again: no
// connect fails, and nothing is counted twice or not at all.
func TestRestartUnderAConnectStorm(t *testing.T) {
	r := newRig(t, neverBounced)
	s := r.serve(1, "127.0.0.1:0", echo)
	vips := map[netip.AddrPort][]netip.AddrPort{}
	for i := range 3 {
		vip := netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, 77, 1, byte(i + 1)}), 8702)
		vips[vip] = []netip.AddrPort{s.Addr}
		r.put(vip, s.Backend)
	}
	storm := r.storm(vips)
	for i := range 10 {
		storm.wait(t, 50)
		for range 20 {
			if drift := must(r.k.Recount()); len(drift) != 0 {
				t.Errorf("drift %v, of connections that come and go", drift)
			}
		}
		if err := r.k.Close(); err != nil {
			t.Fatal(err)
		}
		r.cfg.BounceBytes = uint32(1000 + i) // another program than before
		r.open()
		if got := len(must(r.k.VIPs())); got != len(vips) {
			t.Errorf("%d VIPs after restart %d", got, i)
		}
		if err := r.k.Attach(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	storm.wait(t, 50)
	n := storm.stop(t)
	r.wantCounters(1, Counters{Redirected: n, Attempted: n, Established: n, Closed: n})
}
