package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/kernel/cgroup"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// neverBounced lets tests make short connections without hold-downs.
func neverBounced(c *Config) { c.BounceWindow = 1 }

// run executes a command in the rig's namespace and cgroup.
func (r *rig) run(name string, arg ...string) (out string, err error) {
	err = r.ns.Do(func() error {
		b, err := exec.Command(name, arg...).CombinedOutput()
		out = strings.TrimSpace(string(b))
		return err
	})
	return out, err
}

func TestConnectReachesTheServerFromEveryLanguage(t *testing.T) {
	r := newRig(t, neverBounced)
	s4, s6 := r.serve(1, "127.0.0.1:0", echo), r.serve(2, "[::1]:0", echo)
	r.put(vip4, s4.Backend)
	r.put(vip6, s6.Backend)
	program := filepath.Join(t.TempDir(), "connect")
	if out, err := exec.Command("cc", "-o", program, "testdata/connect.c").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	addresses := map[string]Backend{
		vip4.Addr().String(): s4.Backend, vip6.Addr().String(): s6.Backend, "::ffff:" + vip4.Addr().String(): s4.Backend,
	}
	want := map[uint16]Counters{}
	for _, client := range [][]string{{program}, {"python3", "testdata/connect.py"}} {
		for _, mode := range []string{"block", "nonblock"} {
			for addr, to := range addresses {
				args := append(client[1:len(client):len(client)], mode, addr, "8702")
				got, err := r.run(client[0], args...)
				if expect := fmt.Sprintf("%v %s 8702", to.Addr, addr); err != nil || got != expect {
					t.Errorf("%s %v: %q, %v; want %q", client[0], args, got, err, expect)
				}
				c := want[to.Slot]
				c.add(Counters{Redirected: 1, Attempted: 1, Established: 1, Closed: 1})
				want[to.Slot] = c
			}
		}
	}
	for _, vip := range []netip.AddrPort{vip4, vip6} { // Go's connects do not block
		to := map[bool]Backend{true: s4.Backend, false: s6.Backend}[vip.Addr().Is4()]
		conn, err := r.dial(vip)
		if err != nil {
			t.Fatal(err)
		}
		if got := readName(t, conn); got != to.Addr.String() || conn.RemoteAddr().String() != vip.String() {
			t.Errorf("connect to %v reached %s, which it sees as %v", vip, got, conn.RemoteAddr())
		}
		conn.Close()
		c := want[to.Slot]
		c.add(Counters{Redirected: 1, Attempted: 1, Established: 1, Closed: 1})
		want[to.Slot] = c
	}
	for slot, c := range want {
		r.wantCounters(slot, c)
	}
}

func TestOtherAddressesAreUntouched(t *testing.T) {
	r := newRig(t)
	r.put(vip4, Backend{Slot: 1, Addr: netip.MustParseAddrPort("127.0.0.1:1")})
	for _, addr := range []string{"127.0.0.1:0", "127.77.0.5:8702", "127.255.255.254:0", "0.0.0.0:0", "[::1]:0"} {
		s := r.serve(9, addr, echo)
		to := s.Addr
		if to.Addr().IsUnspecified() {
			to = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), to.Port())
		}
		conn, err := r.dial(to)
		if err != nil {
			t.Fatal(err)
		}
		if got := readName(t, conn); got != to.String() || conn.RemoteAddr().String() != to.String() {
			t.Errorf("connect to %v reached %s, seen as %v", to, got, conn.RemoteAddr())
		}
		if opt, err := keepalive(conn); err != nil || opt != 15 { // Go's own default, in seconds
			t.Errorf("keepalive of an unrelated connection is %d, %v", opt, err)
		}
		conn.Close()
	}
	r.wantErr(netip.MustParseAddrPort("127.0.0.1:1"), syscall.ECONNREFUSED)
	r.wantErr(netip.MustParseAddrPort("239.78.0.5:8702"), syscall.ENETUNREACH) // beside the pool
	if got := must(r.k.Servers()); len(got) != 0 {
		t.Errorf("counted %v", got)
	}
	for reason, n := range r.reasons() {
		if n != 0 {
			t.Errorf("counted %d %v", n, reason)
		}
	}
}

func keepalive(conn net.Conn) (value int, err error) {
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := raw.Control(func(fd uintptr) { value, err = unix.GetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_KEEPIDLE) })
	if cerr != nil {
		return 0, cerr
	}
	return value, err
}

func TestTimeoutsAreSetOnVIPs(t *testing.T) {
	r := newRig(t)
	s := r.serve(1, "127.0.0.1:0", echo)
	r.put(vip4, s.Backend)
	want := map[int]int{unix.TCP_KEEPIDLE: 2, unix.TCP_KEEPINTVL: 1, unix.TCP_USER_TIMEOUT: 3000}
	err := r.ns.Do(func() error { // a raw socket: Go's Dial sets its own keepalive
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Connect(fd, sockaddr(vip4)); err != nil {
			return err
		}
		if on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE); err != nil || on != 1 {
			t.Errorf("SO_KEEPALIVE is %d, %v", on, err)
		}
		for opt, want := range want {
			if got, err := unix.GetsockoptInt(fd, unix.SOL_TCP, opt); err != nil || got != want {
				t.Errorf("TCP option %d is %d, %v; want %d", opt, got, err, want)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

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
