package kernel

import (
	"errors"
	"maps"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/kernel/cgroup"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// Whatever socket it comes from, a connect that is not to be is refused by the error
// that says why, at once, and counted once.
func TestDenied(t *testing.T) {
	r := newRig(t)
	s4, s6 := r.serve(1, "127.0.0.1:0", echo), r.serve(2, "[::1]:0", echo)
	self := must(cgroup.Stat(r.cfg.Cgroup))
	other := must(cgroup.Stat(testenv.Cgroup(t)))
	any := Owner{Kind: OwnerAny}
	stranger := Owner{Kind: OwnerNetns, ID: r.cookie + 1}
	for _, c := range []struct {
		name    string
		owner   Owner
		port    uint16 // of the entry; 0: none
		servers bool
		errno   syscall.Errno
		reason  Reason
	}{
		{"address without entry", any, 0, true, syscall.ECONNREFUSED, ReasonNoEntry},
		{"port without entry", any, 80, true, syscall.ECONNREFUSED, ReasonNoEntry},
		{"no server", any, 8702, false, syscall.ECONNREFUSED, ReasonNoServer},
		{"other namespace", stranger, 8702, true, syscall.EPERM, ReasonStranger},
		{"other namespace, no server", stranger, 8702, false, syscall.EPERM, ReasonStranger},
		{"other cgroup", Owner{Kind: OwnerCgroup, ID: other.ID, Level: other.Level}, 8702, true, syscall.EPERM, ReasonStranger},
		{"cgroup at another level", Owner{Kind: OwnerCgroup, ID: self.ID, Level: self.Level + 1}, 8702, true, syscall.EPERM, ReasonStranger},
		{"the root of all cgroups", Owner{Kind: OwnerCgroup, ID: cgroup.HostRootID}, 8702, true, syscall.EPERM, ReasonStranger},
		{"a cgroup without an id, below us", Owner{Kind: OwnerCgroup, Level: self.Level + 1}, 8702, true, syscall.EPERM, ReasonStranger},
		{"owner unresolved", Owner{}, 8702, true, syscall.EPERM, ReasonOwnerUnresolved},
	} {
		t.Run(c.name, func(t *testing.T) {
			var keys []VIPKey
			for vip, server := range map[netip.AddrPort]Backend{vip4: s4.Backend, vip6: s6.Backend} {
				v := VIP{Key: VIPKey{Addr: netip.AddrPortFrom(vip.Addr(), c.port), Proto: ProtoTCP}, Slot: 5, Set: 1, Owner: c.owner}
				if c.servers {
					v.Ranked = []Backend{server}
				}
				if c.port != 0 {
					r.putVIP(v)
					keys = append(keys, v.Key)
				}
			}
			want := r.reasons()
			for _, to := range []netip.AddrPort{vip4, mapped(vip4), vip6} {
				for _, nonblocking := range []bool{false, true} {
					err := r.ns.Do(func() error {
						start := time.Now()
						conn, err := bySyscalls(nonblocking, to)
						if took := time.Since(start); took > 5*time.Second {
							t.Errorf("connect to %v took %v", to, took)
						}
						if err == nil {
							conn.Close()
						}
						return err
					})
					if !errors.Is(err, c.errno) {
						t.Errorf("connect to %v, not blocking %v: %v, want %v", to, nonblocking, err, c.errno)
					}
					want[c.reason]++
				}
			}
			if got := r.reasons(); !maps.Equal(got, want) {
				t.Errorf("counted %v, want %v", got, want)
			}
			if err := r.k.DeleteVIPs(keys); err != nil {
				t.Fatal(err)
			}
		})
	}
	for name, o := range map[string]Owner{
		"any": any, "namespace": {Kind: OwnerNetns, ID: r.cookie}, "cgroup": {Kind: OwnerCgroup, ID: self.ID, Level: self.Level},
	} {
		t.Run("owner by "+name+" is let through", func(t *testing.T) {
			r.putVIP(VIP{Key: VIPKey{Addr: vip4, Proto: ProtoTCP}, Slot: 5, Set: 1, Owner: o, Ranked: []Backend{s4.Backend}})
			if err := r.k.ResetVIP(5); err != nil {
				t.Fatal(err)
			}
			if got := r.reach(vip4); got != s4.Addr.String() {
				t.Errorf("reached %s", got)
			}
		})
	}
}

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
