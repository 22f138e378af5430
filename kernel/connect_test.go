package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// neverBounced lets tests make short connections without hold-downs.
func neverBounced(c *Config) { c.BounceWindow = 1 }

// connects makes one connection as it is told: mode is how connect is called, and
// the answer names the server, then the peer's address and port as the socket has
// them.
type connects func(mode string, to netip.AddrPort) (string, error)

// run has a program connect in the rig's namespace and cgroup.
func (r *rig) run(program ...string) connects {
	return func(mode string, to netip.AddrPort) (out string, err error) {
		args := append(program[1:len(program):len(program)], mode, to.Addr().String(), strconv.Itoa(int(to.Port())))
		err = r.ns.Do(func() error {
			b, err := exec.Command(program[0], args...).CombinedOutput()
			out = strings.TrimSpace(string(b))
			return err
		})
		return out, err
	}
}

// inGo connects as testdata/connect.c does, or as Go's programs do.
func (r *rig) inGo(mode string, to netip.AddrPort) (out string, err error) {
	err = r.ns.Do(func() error {
		var conn net.Conn
		if mode == "dial" {
			conn, err = net.Dial("tcp", to.String())
		} else {
			conn, err = bySyscalls(mode == "nonblock", to)
		}
		if err != nil {
			return err
		}
		defer conn.Close()
		peer := conn.RemoteAddr().(*net.TCPAddr).AddrPort()
		out = fmt.Sprintf("%s %v %d", readName(r.t, conn), peer.Addr(), peer.Port())
		return nil
	})
	return out, err
}

// bySyscalls connects a socket that blocks, or one that does not.
func bySyscalls(nonblocking bool, to netip.AddrPort) (net.Conn, error) {
	family, typ := unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC
	if to.Addr().Is4() {
		family = unix.AF_INET
	}
	if nonblocking {
		typ |= unix.SOCK_NONBLOCK
	}
	s, err := unix.Socket(family, typ, 0)
	if err != nil {
		return nil, err
	}
	err = unix.Connect(s, sockaddr(to))
	if nonblocking && err == unix.EINPROGRESS {
		if _, err = unix.Poll([]unix.PollFd{{Fd: int32(s), Events: unix.POLLOUT}}, 10_000); err == nil {
			_, err = unix.Getpeername(s) // ENOTCONN unless it is connected
		}
	}
	f := os.NewFile(uintptr(s), "socket")
	defer f.Close()
	if err != nil {
		return nil, err
	}
	return net.FileConn(f)
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
	want := map[uint16]Counters{}
	for _, c := range []struct {
		language string
		connect  connects
		modes    []string
	}{
		{"C", r.run(program), []string{"block", "nonblock"}},
		{"Python", r.run("python3", "testdata/connect.py"), []string{"block", "nonblock"}},
		{"Go", r.inGo, []string{"block", "nonblock", "dial"}},
	} {
		for _, mode := range c.modes {
			for vip, to := range map[netip.AddrPort]Backend{vip4: s4.Backend, vip6: s6.Backend, mapped(vip4): s4.Backend} {
				peer := vip
				if mode == "dial" { // which makes an IPv4 socket for a mapped address
					peer = netip.AddrPortFrom(vip.Addr().Unmap(), vip.Port())
				}
				got, err := c.connect(mode, vip)
				if expect := fmt.Sprintf("%v %v %d", to.Addr, peer.Addr(), peer.Port()); err != nil || got != expect {
					t.Errorf("%s, %s, %v: %q, %v; want %q", c.language, mode, vip, got, err, expect)
				}
				n := want[to.Slot]
				n.add(Counters{Redirected: 1, Attempted: 1, Established: 1, Closed: 1})
				want[to.Slot] = n
			}
		}
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

// Without memory for the socket's storage a proxy still gets its server.
func TestRedirectedWithoutMemory(t *testing.T) {
	r := newRig(t, neverBounced)
	s := r.serve(1, "127.0.0.1:0", echo)
	r.put(vip4, s.Backend)
	err := r.ns.Do(func() error { // what a socket's options and storage may take, in bytes
		return os.WriteFile("/proc/sys/net/core/optmem_max", []byte("8"), 0)
	})
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("before Linux 6.8 net.core.optmem_max is the host's alone")
	}
	if err != nil {
		t.Fatal(err)
	}
	conn, err := r.dial(vip4)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := readName(t, conn); got != s.Addr.String() || conn.RemoteAddr().String() != got {
		t.Errorf("reached %s, seen as %v; want %v, which getpeername cannot hide", got, conn.RemoteAddr(), s.Addr)
	}
	if n := r.reasons()[ReasonUntracked]; n != 1 {
		t.Errorf("counted %d untracked, want 1", n)
	}
	if counted := must(r.k.Servers()); len(counted) != 0 {
		t.Errorf("counted %+v as well", counted)
	}
	if sockets := must(r.k.Sockets()); len(sockets) != 0 {
		t.Errorf("sockets %+v", sockets)
	}
	if st := must(r.k.VIPState(5)); st.LastSlot != 1 {
		t.Errorf("last led to server %d", st.LastSlot)
	}
}
