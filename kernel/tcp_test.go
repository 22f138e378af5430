package kernel

import (
	"errors"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// closedPort is a server that refuses.
func (r *rig) closedPort(slot uint16) Backend {
	r.t.Helper()
	s := r.serve(slot, "127.0.0.1:0", hangUp)
	s.l.Close()
	s.wg.Wait()
	return s.Backend
}

func TestFailover(t *testing.T) {
	r := newRig(t)
	dead := r.closedPort(1)
	bouncing := r.serve(2, "127.0.0.1:0", hangUp)
	good := r.serve(3, "127.0.0.1:0", echo)
	r.put(vip4, dead, bouncing.Backend, good.Backend)

	r.wantErr(vip4, syscall.ECONNREFUSED)
	conn, err := r.dial(vip4)
	if err != nil {
		t.Fatal(err)
	}
	hearEnd(conn)
	conn.Close()
	r.wantCounters(2, Counters{Redirected: 1, Attempted: 1, Established: 1, Closed: 1, Bounced: 1})
	for range 3 {
		if got := r.reach(vip4); got != good.Addr.String() {
			t.Fatalf("reached %s, want the third server", got)
		}
		// A young connection of the test's own; the server has not refused.
		eventually(t, "third server's close", func() bool { return must(r.k.Servers())[3].Active() == 0 })
		if err := r.k.objs.VipState.Update(uint32(5), withoutHold(r, 3), 0); err != nil {
			t.Fatal(err)
		}
	}
	r.wantCounters(1, Counters{Redirected: 1, Attempted: 1, Failed: 1})

	st := must(r.k.VIPState(5))
	reasons := map[uint16]HoldReason{}
	for _, h := range st.Holds {
		reasons[h.Slot] = h.Reason
	}
	if len(reasons) != 2 || reasons[1] != HoldFailed || reasons[2] != HoldBounced {
		t.Errorf("holds %+v, want server 1 failed and 2 bounced", st.Holds)
	}

	// A reset says that nobody listens there: every VIP of the host passes that
	// server over. A bounce was for the one VIP.
	other := VIP{Key: VIPKey{Addr: netip.MustParseAddrPort("239.77.0.6:8702"), Proto: ProtoTCP}, Slot: 6, Set: 1,
		Owner: Owner{Kind: OwnerAny}, Ranked: []Backend{dead, good.Backend}}
	r.putVIP(other)
	if got := r.reach(other.Key.Addr); got != good.Addr.String() {
		t.Errorf("another VIP reached %s", got)
	}
	r.wantCounters(1, Counters{Redirected: 1, Attempted: 1, Failed: 1})
	if at := r.refused(); len(at) != 1 || at[1] == 0 || at[1] > r.k.Now() {
		t.Errorf("refused %v, want server 1", at)
	}
}

// refused is when servers last answered a connect with a reset, of those that were
// not reached since.
func (r *rig) refused() map[int]time.Duration {
	at := map[int]time.Duration{}
	for slot, w := range must(readArray[lictorServerWords](r.k.objs.ServerState)) {
		if w.RefusedAt != 0 {
			at[slot] = time.Duration(w.RefusedAt)
		}
	}
	return at
}

// withoutHold is the state of slot 5 without the hold of one server.
func withoutHold(r *rig, slot uint16) lictorVipWords {
	r.t.Helper()
	w := r.words(5)
	for i := range w.Holds {
		if w.Holds[i].Slot == slot {
			w.Holds[i] = lictorHold{}
		}
	}
	return w
}

func TestAServerThatAnswersAgainIsForgiven(t *testing.T) {
	r := newRig(t, neverBounced)
	s := r.serve(1, "127.0.0.1:0", echo)
	dead := r.closedPort(1) // the same server, while it was down
	r.put(vip4, dead)
	r.wantErr(vip4, syscall.ECONNREFUSED)
	r.put(vip4, s.Backend)
	r.reach(vip4) // all are held: one connect may try
	eventually(t, "forgiveness", func() bool {
		st := must(r.k.VIPState(5))
		return len(st.Holds) == 0 && st.WaitUntil == 0 && len(r.refused()) == 0
	})
}

func TestWaiting(t *testing.T) {
	r := newRig(t)
	a, b := r.closedPort(1), r.closedPort(2)
	r.put(vip4, a, b)
	tries := func() uint64 { return r.counters(1).Failed + r.counters(2).Failed }
	for range 4 { // each rank once, without a wait, and then one more try of each server
		r.wantErr(vip4, syscall.ECONNREFUSED)
	}
	if got := tries(); got != 4 {
		t.Fatalf("%d connects reached a server, want 4", got)
	}
	for range 5 {
		r.wantErr(vip4, syscall.ECONNREFUSED)
	}
	if got := tries(); got != 4 {
		t.Errorf("%d connects reached a server while the VIP waits", got-4)
	}
	if got := r.reasons()[ReasonWaiting]; got != 5 {
		t.Errorf("counted %d waiting, want 5", got)
	}
	if until := must(r.k.VIPState(5)).WaitUntil; until < r.k.Now()+40*time.Second || until > r.k.Now()+80*time.Second {
		t.Errorf("waits until %v, now it is %v; want a minute, jittered", until, r.k.Now())
	}
	// A new set of servers ends the wait, here with room.
	good := r.serve(3, "127.0.0.1:0", echo)
	r.putVIP(VIP{Key: VIPKey{Addr: vip4, Proto: ProtoTCP}, Slot: 5, Set: 2, Owner: Owner{Kind: OwnerAny}, Ranked: []Backend{a, b}})
	r.wantErr(vip4, syscall.ECONNREFUSED)
	if got := tries(); got != 5 {
		t.Errorf("a new set of servers let %d connects through, want 1", got-4)
	}
	r.put(vip4, a, b, good.Backend)
	if got := r.reach(vip4); got != good.Addr.String() {
		t.Errorf("reached %s", got)
	}
}

func TestWaitDoubles(t *testing.T) {
	const shortest, longest = 10 * time.Second, 40 * time.Second
	r := newRig(t, func(c *Config) {
		c.Eager, c.WaitMin, c.WaitMax = 1, shortest, longest
		c.HoldFailed, c.HoldRefused = time.Hour, time.Hour
	})
	closed := r.closedPort(1)
	var until time.Duration
	for i, c := range []struct {
		name string
		set  uint32
		late time.Duration // after the wait before
		want time.Duration
	}{
		{"not held down yet", 1, 0, 0},
		{"together with other VIPs", 1, 0, 0},
		{"on its own", 1, time.Second, shortest},
		{"doubled", 1, time.Second, 2 * shortest},
		{"the longest", 1, time.Second, longest},
		{"never longer", 1, time.Second, longest},
		{"another trouble", 1, longest + time.Second, 0},
		{"on its own again", 1, time.Second, shortest},
		{"another set of servers", 2, -time.Second, 0},
		{"on its own, of this set", 2, time.Second, shortest},
	} {
		r.putVIP(VIP{Key: VIPKey{Addr: vip4, Proto: ProtoTCP}, Slot: 5, Set: c.set, Owner: Owner{Kind: OwnerAny}, Ranked: []Backend{closed}})
		if i > 1 {
			r.later(5, 1, until-r.k.Now()+c.late)
		}
		before := r.k.Now()
		r.wantErr(vip4, syscall.ECONNREFUSED)
		after := r.k.Now()
		if got := r.counters(1).Failed; got != uint64(i)+1 {
			t.Fatalf("%s: %d connects reached the server, want %d", c.name, got, i+1)
		}
		w := r.words(5)
		if got := time.Duration(w.WaitMs) * time.Millisecond; got != c.want {
			t.Errorf("%s: waits %v, want %v", c.name, got, c.want)
		}
		until = time.Duration(w.WaitUntil)
		if c.want > 0 && (until < before+c.want*3/4 || until > after+c.want*5/4) {
			t.Errorf("%s: waits for %v, want %v or a quarter less or more", c.name, until-before, c.want)
		}
	}
}

func (r *rig) words(vipSlot uint32) (w lictorVipWords) {
	r.t.Helper()
	if err := r.k.objs.VipState.Lookup(vipSlot, &w); err != nil {
		r.t.Fatal(err)
	}
	return w
}

// hold notes a hold-down where the kernel would look last for it.
func (r *rig) hold(vipSlot uint32, server uint16, reason HoldReason) {
	r.t.Helper()
	w := r.words(vipSlot)
	w.Holds[MaxRanked-1] = lictorHold{At: uint64(r.k.Now()), Slot: server, Reason: uint8(reason)}
	if err := r.k.objs.VipState.Put(vipSlot, &w); err != nil {
		r.t.Fatal(err)
	}
}

// later has that much time pass for a VIP and a server, while nobody connects: a
// test that slept until then would now and then sleep for longer.
func (r *rig) later(vipSlot, serverSlot uint32, d time.Duration) {
	r.t.Helper()
	back := func(at *uint64) { *at = max(*at, uint64(d)) - uint64(d) } // 0 stays: never
	w := r.words(vipSlot)
	for i := range w.Holds {
		back(&w.Holds[i].At)
	}
	back(&w.WaitUntil)
	back(&w.TroubleAt)
	var s lictorServerWords
	err := r.k.objs.ServerState.Lookup(serverSlot, &s)
	back(&s.RefusedAt)
	back(&s.ServedAt)
	back(&s.ProbedAt)
	if err := errors.Join(err, r.k.objs.VipState.Put(vipSlot, &w), r.k.objs.ServerState.Put(serverSlot, &s)); err != nil {
		r.t.Fatal(err)
	}
}

// deaf is a server that answers no SYN: its backlog is full.
func (r *rig) deaf(slot uint16) (b Backend) {
	r.t.Helper()
	err := r.ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		r.t.Cleanup(func() { unix.Close(fd) })
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			return err
		}
		if err := unix.Listen(fd, 0); err != nil {
			return err
		}
		sa, err := unix.Getsockname(fd)
		if err != nil {
			return err
		}
		b = Backend{Slot: slot, Addr: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(sa.(*unix.SockaddrInet4).Port))}
		for range 2 { // fills it
			c, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
			if err != nil {
				return err
			}
			r.t.Cleanup(func() { unix.Close(c) })
			if err := unix.Connect(c, sockaddr(b.Addr)); err != nil && err != unix.EINPROGRESS {
				return err
			}
		}
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return b
}

func TestAVanishedServerIsNoticedAndHeldDown(t *testing.T) {
	r := newRig(t)
	s := r.serve(1, "127.0.0.1:0", echo)
	r.put(vip4, s.Backend)
	conn, err := r.dial(vip4)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	readName(t, conn)
	err = r.ns.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetDown(lo)
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("anybody there?")); err != nil {
		t.Error(err)
	}
	conn.SetReadDeadline(time.Now().Add(30 * time.Second)) //nolint:errcheck // the read says it
	start := time.Now()
	if n, err := conn.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) && time.Since(start) >= 30*time.Second {
		t.Errorf("read %d bytes, %v", n, err)
	}
	t.Logf("noticed after %v", time.Since(start))
	r.wantCounters(1, Counters{Redirected: 1, Attempted: 1, Established: 1, Closed: 1})
	if holds := must(r.k.VIPState(5)).Holds; len(holds) != 1 || holds[0].Reason != HoldFailed {
		t.Errorf("holds %+v", holds)
	}
}
