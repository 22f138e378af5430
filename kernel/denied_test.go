package kernel

import (
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/kernel/cgroup"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

func TestDenied(t *testing.T) {
	r := newRig(t)
	s := r.serve(1, "127.0.0.1:0", echo)
	key := VIPKey{Addr: vip4, Proto: ProtoTCP}
	entry := func(o Owner, ranked ...Backend) VIP {
		return VIP{Key: key, Slot: 5, Set: 1, Owner: o, Ranked: ranked}
	}
	self := must(cgroup.Stat(r.cfg.Cgroup))
	other := must(cgroup.Stat(testenv.Cgroup(t)))
	for _, c := range []struct {
		name   string
		vip    *VIP
		to     netip.AddrPort
		errno  syscall.Errno
		reason Reason
	}{
		{"address without entry", nil, vip4, syscall.ECONNREFUSED, ReasonNoEntry},
		{"port without entry", ptr(entry(Owner{Kind: OwnerAny}, s.Backend)), netip.AddrPortFrom(vip4.Addr(), 80), syscall.ECONNREFUSED, ReasonNoEntry},
		{"IPv6 address without entry", nil, vip6, syscall.ECONNREFUSED, ReasonNoEntry},
		{"no server", ptr(entry(Owner{Kind: OwnerAny})), vip4, syscall.ECONNREFUSED, ReasonNoServer},
		{"other namespace", ptr(entry(Owner{Kind: OwnerNetns, ID: r.cookie + 1}, s.Backend)), vip4, syscall.EPERM, ReasonStranger},
		{"other cgroup", ptr(entry(Owner{Kind: OwnerCgroup, ID: other.ID, Level: other.Level}, s.Backend)), vip4, syscall.EPERM, ReasonStranger},
		{"cgroup at another level", ptr(entry(Owner{Kind: OwnerCgroup, ID: self.ID, Level: self.Level + 1}, s.Backend)), vip4, syscall.EPERM, ReasonStranger},
		{"the root of all cgroups", ptr(entry(Owner{Kind: OwnerCgroup, ID: cgroup.HostRootID}, s.Backend)), vip4, syscall.EPERM, ReasonStranger},
		{"a cgroup without an id, below us", ptr(entry(Owner{Kind: OwnerCgroup, Level: self.Level + 1}, s.Backend)), vip4, syscall.EPERM, ReasonStranger},
		{"owner unresolved", ptr(entry(Owner{}, s.Backend)), vip4, syscall.EPERM, ReasonOwnerUnresolved},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := r.k.DeleteVIPs([]VIPKey{key}); err != nil {
				t.Fatal(err)
			}
			if c.vip != nil {
				r.putVIP(*c.vip)
			}
			before := r.reasons()
			start := time.Now()
			conn, err := r.dial(c.to)
			if err == nil {
				conn.Close()
			}
			if sys, ok := unwrapErrno(err); !ok || sys != c.errno {
				t.Errorf("connect: %v, want %v", err, c.errno)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("took %v", took)
			}
			before[c.reason]++
			if after := r.reasons(); after[c.reason] != before[c.reason] {
				t.Errorf("counted %d %v, want %d", after[c.reason], c.reason, before[c.reason])
			}
		})
	}
	for name, o := range map[string]Owner{
		"any": {Kind: OwnerAny}, "namespace": {Kind: OwnerNetns, ID: r.cookie}, "cgroup": {Kind: OwnerCgroup, ID: self.ID, Level: self.Level},
	} {
		t.Run("owner by "+name+" is let through", func(t *testing.T) {
			r.putVIP(entry(o, s.Backend))
			if err := r.k.ResetVIP(5); err != nil {
				t.Fatal(err)
			}
			if got := r.reach(vip4); got != s.Addr.String() {
				t.Errorf("reached %s", got)
			}
		})
	}
}

func ptr[T any](v T) *T { return &v }

// Before Linux 6.1 a hook cannot choose the error, nor ask what others decided.
func TestDeniedByAnOldKernel(t *testing.T) {
	r := newRig(t)
	swapProgram(t, r, lictorVarHasRetval, uint8(0), "connect4", "connect6")
	r.put(vip4)
	events := r.listen()
	defer events.stop()
	for to, reason := range map[netip.AddrPort]Reason{vip4: ReasonNoServer, vip6: ReasonNoEntry} {
		r.wantErr(to, syscall.EPERM)
		if e := events.want(EventDenied); e.VIP != to || e.Denied != reason || e.Errno != uint32(syscall.EPERM) {
			t.Errorf("event %+v, want EPERM for %v", e, reason)
		}
		if n := r.reasons()[reason]; n != 1 {
			t.Errorf("counted %d %v, want 1", n, reason)
		}
	}
}

func TestUDPStaysOnTheHost(t *testing.T) {
	r := newRig(t)
	r.put(vip4, Backend{Slot: 1, Addr: netip.MustParseAddrPort("127.0.0.1:1")})
	for _, to := range []netip.AddrPort{vip4, vip6, netip.MustParseAddrPort("[::ffff:239.77.0.5]:8702")} {
		family := unix.AF_INET6
		if to.Addr().Is4() {
			family = unix.AF_INET
		}
		err := r.ns.Do(func() error {
			fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if err := unix.Sendto(fd, []byte("x"), 0, sockaddr(to)); err != unix.EPERM {
				t.Errorf("datagram to %v: %v, want EPERM", to, err)
			}
			if err := unix.Connect(fd, sockaddr(to)); err != unix.ECONNREFUSED {
				t.Errorf("UDP connect to %v: %v, want ECONNREFUSED", to, err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := r.reasons(); got[ReasonUDPSend] != 3 || got[ReasonNoEntry] != 3 {
		t.Errorf("counted %v", got)
	}
}

func TestWithoutTheHookAVIPLeadsNowhere(t *testing.T) {
	r := newRig(t)
	wild := r.serve(1, "0.0.0.0:8702", echo) // as a listener that hopes to be handed a token
	wild6 := r.serve(2, "[::]:8703", echo)
	r.put(vip4, Backend{Slot: 1, Addr: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), wild.Addr.Port())})
	if err := errors.Join(r.k.Close(), Unload(r.cfg.BPFFS)); err != nil {
		t.Fatal(err)
	}
	r.wantErr(vip4, syscall.ENETUNREACH)
	r.wantErr(netip.AddrPortFrom(vip6.Addr(), wild6.Addr.Port()), syscall.ENETUNREACH)
	r.open() // for the clean-up
}
