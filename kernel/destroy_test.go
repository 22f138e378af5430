package kernel

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/kernel/netns"
)

// alive says whether a connection still carries words, and how it ended if not.
func alive(t testing.TB, conn net.Conn) error {
	t.Helper()
	conn.SetDeadline(time.Now().Add(10 * time.Second)) //nolint:errcheck // the read says it
	if _, err := conn.Write([]byte("x")); err != nil {
		return err
	}
	_, err := conn.Read(make([]byte, 1))
	return err
}

// Sockets of a VIP are closed, in each family; one of the same program to the
// same server, not through a VIP, is not.
func TestDestroy(t *testing.T) {
	for name, c := range map[string]struct {
		vip    netip.AddrPort
		server string
		via    string // what the client dials; default: the VIP
	}{
		"IPv4":      {vip4, "127.0.0.1:0", ""},
		"IPv6":      {vip6, "[::1]:0", ""},
		"v4-mapped": {vip4, "127.0.0.1:0", "::ffff:239.77.0.5"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			s := r.serve(1, c.server, echo)
			other := r.serve(2, c.server, echo)
			r.put(c.vip, s.Backend, other.Backend)
			conn := r.dialMapped(c.via, c.vip)
			defer conn.Close()
			readName(t, conn)
			direct, err := r.dial(s.Addr)
			if err != nil {
				t.Fatal(err)
			}
			defer direct.Close()
			readName(t, direct)

			socket := r.onlySocket()
			if want := conn.LocalAddr().(*net.TCPAddr).AddrPort(); socket.Local.Port() != want.Port() || socket.Local.Addr() != want.Addr().Unmap() {
				t.Errorf("local address %v, want %v", socket.Local, want)
			}
			if err := Destroy([]Socket{socket})[0]; err != nil {
				t.Fatal(err)
			}
			if err := alive(t, conn); !errors.Is(err, syscall.ECONNABORTED) {
				t.Errorf("the socket reads %v, want ECONNABORTED", err)
			}
			if err := alive(t, direct); err != nil {
				t.Errorf("a socket of no VIP was closed too: %v", err)
			}
			if err := Destroy([]Socket{socket})[0]; !errors.Is(err, ErrGone) {
				t.Errorf("again: %v, want %v", err, ErrGone)
			}
			// Closing it is no failure of the server's.
			r.wantCounters(1, Counters{Redirected: 1, Attempted: 1, Established: 1, Closed: 1})
			if holds := must(r.k.VIPState(5)).Holds; len(holds) != 0 {
				t.Errorf("holds %+v after our own close", holds)
			}
		})
	}
}

// dialMapped dials an address from an IPv6 socket, or to where no address is
// given as dial does.
func (r *rig) dialMapped(mapped string, to netip.AddrPort) (conn net.Conn) {
	r.t.Helper()
	if mapped == "" {
		return must(r.dial(to))
	}
	err := r.ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		addr := &unix.SockaddrInet6{Port: int(to.Port()), Addr: netip.MustParseAddr(mapped).As16()}
		if err := unix.Connect(fd, addr); err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		f := os.NewFile(uintptr(fd), "socket")
		defer f.Close()
		conn, err = net.FileConn(f)
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return conn
}

// What does not fit exactly closes nothing.
func TestDestroyOnlyWhatWasListed(t *testing.T) {
	r := newRig(t)
	s := r.serve(1, "127.0.0.1:0", echo)
	r.put(vip4, s.Backend)
	conn := must(r.dial(vip4))
	defer conn.Close()
	readName(t, conn)
	listener := s.Addr
	for name, change := range map[string]func(*Socket){
		"another cookie":          func(s *Socket) { s.Cookie++ },
		"any cookie":              func(s *Socket) { s.Cookie = anyCookie },
		"no cookie":               func(s *Socket) { s.Cookie = 0 },
		"another server":          func(s *Socket) { s.Server = netip.MustParseAddrPort("127.0.0.1:1") },
		"another local port":      func(s *Socket) { s.Local = netip.AddrPortFrom(s.Local.Addr(), 1) },
		"no local address":        func(s *Socket) { s.Local = netip.AddrPort{} },
		"the server's own socket": func(s *Socket) { s.Local, s.Server = s.Server, s.Local },
		"its listener":            func(s *Socket) { s.Local, s.Server = listener, netip.MustParseAddrPort("0.0.0.0:0") },
		"another namespace":       func(s *Socket) { s.Netns = must(netns.Self()).Cookie },
	} {
		t.Run(name, func(t *testing.T) {
			wrong := r.onlySocket()
			change(&wrong)
			if err := Destroy([]Socket{wrong})[0]; err == nil {
				t.Errorf("destroyed %+v", wrong)
			}
			if err := alive(t, conn); err != nil {
				t.Fatalf("the socket is gone: %v", err)
			}
			if got := r.reach(s.Addr); got != s.Addr.String() {
				t.Errorf("the server answers as %q", got)
			}
		})
	}
}

// A namespace that nobody can find does not keep others from being looked after.
func TestDestroyInNamespaces(t *testing.T) {
	r := newRig(t)
	s := r.serve(1, "127.0.0.1:0", echo)
	r.put(vip4, s.Backend)
	conn := must(r.dial(vip4))
	defer conn.Close()
	readName(t, conn)
	here := r.onlySocket()
	here.PID = uint32(unused(t)) // it is found without
	nowhere := here
	nowhere.Netns = 1 << 60
	errs := Destroy([]Socket{nowhere, here})
	if !errors.Is(errs[0], netns.ErrNotFound) || errs[1] != nil {
		t.Errorf("errors %v, want %v and none", errs, netns.ErrNotFound)
	}
	if err := alive(t, conn); !errors.Is(err, syscall.ECONNABORTED) {
		t.Errorf("the socket reads %v, want ECONNABORTED", err)
	}
	if len(Destroy(nil)) != 0 {
		t.Error("nothing has errors")
	}
}

// unused is the id of a process that has ended.
func unused(t testing.TB) int {
	t.Helper()
	child := exec.Command("true")
	if err := child.Run(); err != nil {
		t.Fatal(err)
	}
	return child.Process.Pid
}

// A connect that is under way can be closed as well; it is no failure either.
func TestDestroyWhatConnects(t *testing.T) {
	r := newRig(t)
	silent := r.deaf(3)
	r.put(vip4, silent)
	result := make(chan error, 1)
	go func() {
		conn, err := r.dial(vip4)
		if err == nil {
			conn.Close()
		}
		result <- err
	}()
	eventually(t, "the connect to be under way", func() bool { return len(must(r.k.Sockets())) == 1 })
	r.destroyOnly()
	if err := <-result; !errors.Is(err, syscall.ECONNABORTED) {
		t.Errorf("the connect ends with %v, want ECONNABORTED", err)
	}
	r.wantCounters(silent.Slot, Counters{Redirected: 1, Attempted: 1, Failed: 1})
	if holds := must(r.k.VIPState(5)).Holds; len(holds) != 0 {
		t.Errorf("holds %+v", holds)
	}
}
