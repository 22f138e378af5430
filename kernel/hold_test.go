package kernel

import (
	"errors"
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

// A bounce alone, with nobody refusing, sends the next connect elsewhere.
func TestABounceMovesOn(t *testing.T) {
	r := newRig(t)
	bouncing, good := r.serve(1, "127.0.0.1:0", hangUp), r.serve(2, "127.0.0.1:0", echo)
	r.put(vip4, bouncing.Backend, good.Backend)
	conn, err := r.dial(vip4)
	if err != nil {
		t.Fatal(err)
	}
	hearEnd(conn)
	conn.Close()
	r.wantCounters(1, Counters{Redirected: 1, Attempted: 1, Established: 1, Closed: 1, Bounced: 1})
	if got := r.reach(vip4); got != good.Addr.String() {
		t.Errorf("reached %s, want %v", got, good.Addr)
	}
}

// Each kind of hold-down lasts for its own time. A kernel that was booted a minute
// ago has no longer a past than that.
func TestHoldDownsEnd(t *testing.T) {
	const failed, bounced, refused, margin = 10 * time.Second, 15 * time.Second, 20 * time.Second, 5 * time.Second
	r := newRig(t, neverBounced, func(c *Config) { c.HoldFailed, c.HoldBounced, c.HoldRefused = failed, bounced, refused })
	first, second := r.serve(1, "127.0.0.1:0", echo), r.serve(2, "127.0.0.1:0", echo)
	r.put(vip4, first.Backend, second.Backend)
	for _, c := range []struct {
		name  string
		note  func(*rig)
		lasts time.Duration
	}{
		{"failed", func(r *rig) { r.hold(5, 1, HoldFailed) }, failed},
		{"bounced", func(r *rig) { r.hold(5, 1, HoldBounced) }, bounced},
		{"refused another VIP", func(r *rig) { r.setServer(1, lictorServerWords{RefusedAt: uint64(r.k.Now())}) }, refused},
	} {
		t.Run(c.name, func(t *testing.T) {
			r.asNew(5, 1)
			c.note(r)
			r.later(5, 1, c.lasts-margin)
			if got := r.reach(vip4); got != second.Addr.String() {
				t.Errorf("held down, and reached %s", got)
			}
			r.later(5, 1, 2*margin)
			if got := r.reach(vip4); got != first.Addr.String() {
				t.Errorf("not held down any more, and reached %s", got)
			}
		})
	}
}

// asNew forgets what the kernel wrote about a VIP and a server.
func (r *rig) asNew(vipSlot, serverSlot uint32) {
	r.t.Helper()
	if err := errors.Join(r.k.ResetVIP(vipSlot), r.k.objs.ServerState.Put(serverSlot, lictorServerWords{})); err != nil {
		r.t.Fatal(err)
	}
}

// A server that serves is forgiven while the connection is young and lives on, and
// others on the host learn of it.
func TestServedWhileYoung(t *testing.T) {
	r := newRig(t)
	s := r.serve(1, "127.0.0.1:0", echo)
	r.put(vip4, s.Backend)
	r.hold(5, 1, HoldBounced)
	start := r.k.Now()
	conn, err := r.dial(vip4)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	readName(t, conn)
	if holds := must(r.k.VIPState(5)).Holds; len(holds) != 1 {
		t.Errorf("holds %+v before it was served", holds)
	}
	eventually(t, "forgiveness", func() bool { // at an acknowledgement after enough was received
		if _, err := conn.Write(make([]byte, 200)); err != nil {
			t.Fatal(err)
		}
		hear1(t, conn, 200)
		return len(must(r.k.VIPState(5)).Holds) == 0
	})
	var w lictorServerWords
	if err := r.k.objs.ServerState.Lookup(uint32(1), &w); err != nil || w.ServedAt < uint64(start) {
		t.Errorf("served at %d, %v; want after %d", w.ServedAt, err, start)
	}
	r.wantCounters(1, Counters{Redirected: 1, Attempted: 1, Established: 1})
}

// When all servers are held down, one that has served another VIP since has room:
// whoever waits is let through to it at once. Else it is the one held longest, once.
func TestAServerThatServedAnotherHasRoom(t *testing.T) {
	r := newRig(t)
	first, second := r.serve(1, "127.0.0.1:0", say(0)), r.serve(2, "127.0.0.1:0", say(0))
	r.put(vip4, first.Backend, second.Backend)
	for _, c := range []struct {
		name          string
		first, second time.Duration // for how long held down
		served        time.Duration // the second one, how long ago; 0: not
		want          uint16
		once          bool
	}{
		{"the first is held longest", 2 * time.Second, time.Second, 0, 1, true},
		{"the second is held longest", time.Second, 2 * time.Second, 0, 2, true},
		{"served before it was held", 2 * time.Second, time.Second, 1500 * time.Millisecond, 1, true},
		{"served since", 2 * time.Second, time.Second, 500 * time.Millisecond, 2, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r.asNew(5, 1)
			r.asNew(5, 2)
			before := [3]Counters{{}, r.counters(1), r.counters(2)}
			now := r.k.Now()
			w := r.words(5)
			w.Holds[0] = lictorHold{At: uint64(now - c.first), Slot: 1, Reason: uint8(HoldBounced)}
			w.Holds[1] = lictorHold{At: uint64(now - c.second), Slot: 2, Reason: uint8(HoldBounced)}
			if err := r.k.objs.VipState.Put(uint32(5), w); err != nil {
				t.Fatal(err)
			}
			if c.served > 0 {
				r.setServer(2, lictorServerWords{ServedAt: uint64(now - c.served)})
			}
			var conns []net.Conn
			defer func() {
				for _, conn := range conns {
					conn.Close()
				}
			}()
			for range 2 { // connections that are not served yet
				conn, err := r.dial(vip4)
				if err == nil {
					conns = append(conns, conn)
				} else if !errors.Is(err, syscall.ECONNREFUSED) {
					t.Fatal(err)
				}
			}
			want := [3]uint64{}
			if want[c.want] = 2; c.once {
				want[c.want] = 1
			}
			for slot := uint16(1); slot <= 2; slot++ {
				if got := r.counters(slot).Established - before[slot].Established; got != want[slot] {
					t.Errorf("%d connections to server %d, want %d", got, slot, want[slot])
				}
			}
		})
	}
}

// A VIP that waits because another one tries says until when, or its own waits would
// never begin.
func TestAVIPWaitsForAnothersTry(t *testing.T) {
	r := newRig(t)
	r.put(vip4, r.closedPort(1))
	r.hold(5, 1, HoldBounced)
	probed := r.k.Now()
	r.setServer(1, lictorServerWords{ProbedAt: uint64(probed)})
	r.wantErr(vip4, syscall.ECONNREFUSED)
	if n := r.reasons()[ReasonWaiting]; n != 1 {
		t.Errorf("counted %d waiting, want 1", n)
	}
	if st, want := must(r.k.VIPState(5)), probed+r.cfg.WaitMin; st.WaitUntil != want {
		t.Errorf("waits until %v, want %v", st.WaitUntil, want)
	}
}

func (r *rig) setServer(slot uint32, w lictorServerWords) {
	r.t.Helper()
	if err := r.k.objs.ServerState.Put(slot, w); err != nil {
		r.t.Fatal(err)
	}
}

// A connect that took so long to its SYN that another thread gave it up has not
// failed: the hold-down that was noted for it goes when TCP takes it up.
func TestASlowConnectIsForgiven(t *testing.T) {
	r := newRig(t)
	s := r.serve(1, "127.0.0.1:0", say(0))
	r.put(vip4, s.Backend)
	// Between our hook and the SYN a program of an outer cgroup does what our hook
	// does in the other thread: take what is in flight, and note the hold-down. By
	// another reason, which an answer of the server does not end.
	element := func(fd int) asm.Instructions {
		return asm.Instructions{
			asm.StoreImm(asm.RFP, -4, 5, asm.Word), asm.LoadMapPtr(asm.R1, fd),
			asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
			asm.FnMapLookupElem.Call(), asm.JEq.Imm(asm.R0, 0, "end"),
		}
	}
	var code asm.Instructions
	code = append(code, element(r.k.objs.Inflight.FD())...)
	code = append(code,
		asm.LoadMem(asm.R6, asm.R0, 0, asm.DWord), // its moment
		asm.Mov.Imm(asm.R7, 0), asm.StoreMem(asm.R0, 0, asm.R7, asm.DWord))
	code = append(code, element(r.k.objs.VipState.FD())...)
	code = append(code,
		asm.StoreMem(asm.R0, 0, asm.R6, asm.DWord), // of the first hold
		asm.StoreImm(asm.R0, 8, 1, asm.Half), asm.StoreImm(asm.R0, 10, int64(HoldBounced), asm.Byte),
		asm.Mov.Imm(asm.R0, 1).WithSymbol("end"), asm.Mov.Imm(asm.R0, 1), asm.Return())
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "other_thread", Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "GPL", Instructions: code,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer prog.Close()
	l, err := link.AttachCgroup(link.CgroupOptions{Path: filepath.Dir(r.cfg.Cgroup), Attach: ebpf.AttachCGroupInet4Connect, Program: prog})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := r.dial(vip4)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	w := r.words(5)
	if w.Holds[0].Slot != 1 || w.Holds[0].At != 0 {
		t.Errorf("hold %+v, want that of server 1, forgiven", w.Holds[0])
	}
}
