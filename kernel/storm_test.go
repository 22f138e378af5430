package kernel

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// steer makes the namespace's loopback hand packets to all CPUs by softirqs that
// interrupt the connects, as a network card's do. Without it the two never meet.
func (r *rig) steer() {
	r.t.Helper()
	sys := r.t.TempDir()
	err := r.ns.Do(func() error { // on a thread that ends, and its mounts with it
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return err
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		if err := unix.Mount("sysfs", sys, "sysfs", 0, ""); err != nil { // of the thread's namespace
			return err
		}
		return os.WriteFile(filepath.Join(sys, "class/net/lo/queues/rx-0/rps_cpus"), []byte("3"), 0)
	})
	if err != nil {
		r.t.Fatalf("steer packets: %v", err)
	}
}

// Every connect of a storm, whatever becomes of it, is in the counters once, and
// in an event or in the count of dropped ones.
func TestCountsAreExactInAStorm(t *testing.T) {
	const each = 700
	r := newRig(t, func(c *Config) {
		c.HoldFailed, c.HoldBounced, c.HoldRefused = 1, 1, 1 // every connect goes where its VIP says
		c.Eager, c.WaitMin = 1, time.Millisecond             // also when two CPUs' clocks differ by more than that
		c.BounceWindow, c.BounceBytes = time.Hour, 1<<30
		c.RingBytes = uint32(os.Getpagesize())
	})
	r.steer()
	kinds := map[EventKind]uint64{}
	var total uint64
	events := r.listen()
	good, bouncing := r.serve(1, "127.0.0.1:0", echo), r.serve(2, "127.0.0.1:0", hangUp)
	any, self, stranger := Owner{Kind: OwnerAny}, Owner{Kind: OwnerNetns, ID: r.cookie}, Owner{Kind: OwnerNetns, ID: r.cookie + 1}
	nowhere := Backend{Slot: 4, Addr: netip.MustParseAddrPort("198.51.100.7:8502")}
	cases := []struct {
		name    string
		owner   Owner
		ranked  []Backend
		connect error
	}{
		{"aborted by the client", self, []Backend{good.Backend}, nil},
		{"aborted by another", any, []Backend{good.Backend}, nil},
		{"bounced", any, []Backend{bouncing.Backend}, nil},
		{"refused", any, []Backend{r.closedPort(3)}, syscall.ECONNREFUSED},
		{"no route", any, []Backend{nowhere}, syscall.ENETUNREACH},
		{"stranger", stranger, []Backend{good.Backend}, syscall.EPERM},
		{"no server", any, nil, syscall.ECONNREFUSED},
	}
	var wg sync.WaitGroup
	for i, c := range cases {
		r.putVIP(VIP{Key: VIPKey{Addr: vipN(i + 1), Proto: ProtoTCP}, Slot: uint32(i + 1), Set: 1, Owner: c.owner, Ranked: c.ranked})
		threads := 1
		if i == 0 {
			threads = 2 // share a VIP, and its counters
		}
		for range threads {
			wg.Go(func() {
				err := r.ns.Do(func() error {
					for n := range each / threads {
						if err := stormConnect(vipN(i+1), c.name == "bounced"); err != c.connect {
							return fmt.Errorf("%s, connect %d: %v, want %v", c.name, n, err, c.connect)
						}
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	r.wantCounters(1, Counters{Redirected: 2 * each, Attempted: 2 * each, Established: 2 * each, Closed: 2 * each})
	r.wantCounters(2, Counters{Redirected: each, Attempted: each, Established: each, Closed: each, Bounced: each})
	r.wantCounters(3, Counters{Redirected: each, Attempted: each, Failed: each})
	r.wantCounters(4, Counters{Redirected: each})
	st := must(r.k.VIPState(1)).Counters
	st.BytesIn, st.BytesOut = 0, 0
	if want := (Counters{Redirected: each, Attempted: each, Established: each, Closed: each}); st != want {
		t.Errorf("the first VIP counted %+v, want %+v", st, want)
	}
	reasons := r.reasons()
	for reason, want := range map[Reason]uint64{
		ReasonStranger: each, ReasonNoServer: each, ReasonWaiting: 0, ReasonTorn: 0, ReasonUntracked: 0, ReasonSockopt: 0, ReasonElsewhere: 0,
	} {
		if reasons[reason] != want {
			t.Errorf("counted %d %v, want %d", reasons[reason], reason, want)
		}
	}
	if drift := must(r.k.Recount()); len(drift) != 0 {
		t.Errorf("drift %v", drift)
	}
	// Established and closed three times each, failed, denied twice; a local
	// failure is noticed by the next connect, the last one never.
	const want = 3*each + 3*each + each + 2*each + (each - 1)
	defer func() { t.Logf("%d events, %d dropped: %v", total, r.reasons()[ReasonRingDropped], kinds) }()
	eventually(t, "events", func() bool {
		for len(events.events) > 0 {
			kinds[(<-events.events).Kind]++
			total++
		}
		return total+r.reasons()[ReasonRingDropped] >= want
	})
	events.stop()
	if dropped := r.reasons()[ReasonRingDropped]; total+dropped != want {
		t.Errorf("%d events and %d dropped, want %d together: %v", total, dropped, want, kinds)
	} else {
		t.Logf("%d events, %d dropped: %v", total, dropped, kinds)
	}
}

// stormConnect connects and ends the connection by a reset of its own, or waits
// for the server to end it.
func stormConnect(vip netip.AddrPort, hear bool) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	if err := unix.Connect(s, sockaddr(vip)); err != nil {
		return err
	}
	if hear {
		_, err := unix.Read(s, make([]byte, 1))
		return err
	}
	return unix.SetsockoptLinger(s, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}
