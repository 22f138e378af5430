package kernel

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// fd is a socket that a case uses in more than one way.
type fd int

func (s fd) connect(to netip.AddrPort) error { return unix.Connect(int(s), sockaddr(to)) }

// disconnect is connect with AF_UNSPEC.
func (s fd) disconnect() error {
	var sa [16]byte // AF_UNSPEC is zero
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(s), uintptr(unsafe.Pointer(&sa)), uintptr(len(sa)))
	if errno != 0 {
		return errno
	}
	return nil
}

func (s fd) v6only(on bool) error {
	return unix.SetsockoptInt(int(s), unix.SOL_IPV6, unix.IPV6_V6ONLY, map[bool]int{true: 1}[on])
}

// mapped is how an IPv6 socket knows an IPv4 address.
func mapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(a.Addr().As16()), a.Port())
}

func (s fd) peer() (netip.AddrPort, error) {
	sa, err := unix.Getpeername(int(s))
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), err
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)), err
	}
	return netip.AddrPort{}, err
}

func (s fd) wantPeer(want netip.AddrPort) error {
	if got, err := s.peer(); got != want {
		return fmt.Errorf("peer is %v, %v; want %v", got, err, want)
	}
	return nil
}

// servers that a VIP may lead to, all under the same slot.
type servers struct{ good, dead, deaf, nowhere Backend }

func good(x servers) Backend { return x.good }
func dead(x servers) Backend { return x.dead }
func deaf(x servers) Backend { return x.deaf }
func lost(x servers) Backend { return x.nowhere }

// The same descriptor again and again: what was stored for one use must not
// speak for the next, and every use counts once.
func TestSocketsAreReused(t *testing.T) {
	once := Counters{Redirected: 1, Attempted: 1, Established: 1, Closed: 1}
	refusedOnce := Counters{Redirected: 1, Attempted: 1, Failed: 1}
	for _, c := range []struct {
		name               string
		family, typ, proto int
		rank               func(servers) Backend
		use                func(fd, servers) error
		want               Counters // of the server that the VIP leads to
	}{
		{name: "connected directly after a VIP", rank: good, want: once, use: func(s fd, x servers) error {
			return errors.Join(s.connect(vip4), s.wantPeer(vip4), s.disconnect(), s.connect(x.good.Addr), s.wantPeer(x.good.Addr))
		}},
		{name: "a VIP after a direct connection", rank: good, want: once, use: func(s fd, x servers) error {
			return errors.Join(s.connect(x.good.Addr), s.wantPeer(x.good.Addr), s.disconnect(), s.connect(vip4), s.wantPeer(vip4))
		}},
		{name: "a VIP twice", rank: good, want: Counters{Redirected: 2, Attempted: 2, Established: 2, Closed: 2}, use: func(s fd, x servers) error {
			return errors.Join(s.connect(vip4), s.disconnect(), s.connect(vip4), s.wantPeer(vip4))
		}},
		{name: "connected directly after a refusal", rank: dead, want: refusedOnce, use: func(s fd, x servers) error {
			if err := s.connect(vip4); err != unix.ECONNREFUSED {
				return fmt.Errorf("connect: %w", err)
			}
			return errors.Join(s.connect(x.good.Addr), s.wantPeer(x.good.Addr))
		}},
		{name: "connected directly after a failure before the SYN", rank: lost, want: Counters{Redirected: 1}, use: func(s fd, x servers) error {
			if err := s.connect(vip4); err != unix.ENETUNREACH {
				return fmt.Errorf("connect: %w", err)
			}
			return errors.Join(s.connect(x.good.Addr), s.wantPeer(x.good.Addr))
		}},
		{name: "a VIP again after a refusal", rank: dead, want: Counters{Redirected: 2, Attempted: 2, Failed: 2}, use: func(s fd, x servers) error {
			for range 2 {
				if err := s.connect(vip4); err != unix.ECONNREFUSED {
					return fmt.Errorf("connect: %w", err)
				}
			}
			return nil
		}},
		{name: "listens after a VIP", rank: good, want: once, use: func(s fd, x servers) error {
			if err := errors.Join(s.connect(vip4), s.disconnect(), unix.Bind(int(s), sockaddr(netip.MustParseAddrPort("127.0.0.1:0"))), unix.Listen(int(s), 1)); err != nil {
				return err
			}
			sa, err := unix.Getsockname(int(s))
			if err != nil {
				return err
			}
			if err := connectOnce(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(sa.(*unix.SockaddrInet4).Port))); err != nil {
				return err
			}
			child, _, err := unix.Accept(int(s))
			if err != nil {
				return err
			}
			return unix.Close(child)
		}},
		{name: "connected while connected", rank: good, want: once, use: func(s fd, x servers) error {
			err := s.connect(vip4)
			if again := s.connect(vip4); again != unix.EISCONN {
				err = errors.Join(err, fmt.Errorf("connect again: %w", again))
			}
			return errors.Join(err, s.wantPeer(vip4))
		}},
		{name: "connected while connecting", typ: unix.SOCK_NONBLOCK, rank: deaf, want: refusedOnce, use: func(s fd, x servers) error {
			if err := s.connect(vip4); err != unix.EINPROGRESS {
				return fmt.Errorf("connect: %w", err)
			}
			if err := s.connect(vip4); err != unix.EALREADY {
				return fmt.Errorf("connect again: %w", err)
			}
			return nil
		}},
		{name: "IPv6 only, to a mapped VIP", family: unix.AF_INET6, rank: good, want: Counters{Redirected: 1}, use: func(s fd, x servers) error {
			if err := s.v6only(true); err != nil {
				return err
			}
			if err := s.connect(mapped(vip4)); err != unix.ENETUNREACH {
				return fmt.Errorf("connect: %w", err)
			}
			return nil
		}},
		{name: "another port of the server after a failure before the SYN", family: unix.AF_INET6, rank: good, want: Counters{Redirected: 1}, use: func(s fd, x servers) error {
			err := errors.Join(s.v6only(true), s.connect(mapped(vip4)), s.v6only(false))
			if !errors.Is(err, unix.ENETUNREACH) {
				return fmt.Errorf("connect: %w", err)
			}
			if err := s.connect(mapped(x.dead.Addr)); err != unix.ECONNREFUSED {
				return fmt.Errorf("connect directly: %w", err)
			}
			return nil
		}},
		{name: "mapped", family: unix.AF_INET6, rank: good, want: once, use: func(s fd, x servers) error {
			return errors.Join(s.connect(mapped(vip4)), s.wantPeer(mapped(vip4)))
		}},
		// getpeername of an MPTCP socket is not that of its subflow.
		{name: "MPTCP", proto: unix.IPPROTO_MPTCP, rank: good, want: once, use: func(s fd, x servers) error { return s.connect(vip4) }},
		{name: "fast open by sendmsg", rank: good, want: once, use: func(s fd, x servers) error {
			return errors.Join(unix.Sendto(int(s), []byte("hello"), unix.MSG_FASTOPEN, sockaddr(vip4)), s.wantPeer(vip4))
		}},
		{name: "fast open by connect", rank: good, want: once, use: func(s fd, x servers) error {
			if err := unix.SetsockoptInt(int(s), unix.SOL_TCP, unix.TCP_FASTOPEN_CONNECT, 1); err != nil {
				return err
			}
			if err := s.connect(vip4); err != nil {
				return err
			}
			_, err := unix.Write(int(s), []byte("hello"))
			return errors.Join(err, s.wantPeer(vip4))
		}},
		{name: "fast open, never written to", rank: good, want: Counters{Redirected: 1}, use: func(s fd, x servers) error {
			return errors.Join(unix.SetsockoptInt(int(s), unix.SOL_TCP, unix.TCP_FASTOPEN_CONNECT, 1), s.connect(vip4))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, func(c *Config) { c.BounceWindow, c.HoldFailed, c.HoldRefused = 1, 1, 1 })
			x := servers{good: r.serve(1, "127.0.0.1:0", echo).Backend, dead: r.closedPort(1), deaf: r.deaf(1), nowhere: Backend{Slot: 1, Addr: netip.MustParseAddrPort("198.51.100.7:8502")}}
			r.put(vip4, c.rank(x))
			family := c.family
			if family == 0 {
				family = unix.AF_INET
			}
			err := r.ns.Do(func() error {
				// Send data in a SYN without asking first: connect returns before the SYN.
				if err := os.WriteFile("/proc/sys/net/ipv4/tcp_fastopen", []byte("5"), 0); err != nil {
					return err
				}
				s, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|c.typ, c.proto)
				if err != nil {
					return err
				}
				return errors.Join(c.use(fd(s), x), unix.Close(s))
			})
			if err != nil {
				t.Error(err)
			}
			r.wantCounters(1, c.want)
			if n := r.reasons()[ReasonElsewhere]; n != 0 {
				t.Errorf("took %d connects for readdressed by others", n)
			}
			if drift := must(r.k.Recount()); len(drift) != 0 {
				t.Errorf("drift %v", drift)
			}
			eventually(t, "sockets to be gone", func() bool { return len(must(r.k.Sockets())) == 0 })
		})
	}
}

// Bytes are counted anew for each use.
func TestBytesOfAReusedSocket(t *testing.T) {
	r := newRig(t, neverBounced)
	srv := r.serve(1, "127.0.0.1:0", echo)
	r.put(vip4, srv.Backend)
	const uses = 3
	greeting := len(srv.Addr.String()) + 1
	err := r.ns.Do(func() error {
		s, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(s)
		for range uses {
			if err := fd(s).connect(vip4); err != nil {
				return err
			}
			if n, err := unix.Read(s, make([]byte, 64)); n != greeting {
				return fmt.Errorf("read %d bytes, %w", n, err)
			}
			if err := fd(s).disconnect(); err != nil {
				return err
			}
		}
		if sockets := must(r.k.Sockets()); len(sockets) != 0 {
			t.Errorf("sockets %+v, of which none is a VIP's any more", sockets)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := must(r.k.Servers())[1].BytesIn; got != uint64(uses*greeting) {
		t.Errorf("counted %d bytes of %d connections, want %d", got, uses, uses*greeting)
	}
}

// What comes after the client's FIN counts too, though the connection is closed.
func TestBytesOfAHalfClosedSocket(t *testing.T) {
	const after = 5000
	r := newRig(t, neverBounced)
	s := r.serve(1, "127.0.0.1:0", func(conn net.Conn) {
		io.Copy(io.Discard, conn)       //nolint:errcheck // until the FIN
		conn.Write(make([]byte, after)) //nolint:errcheck // the client misses it then
	})
	r.put(vip4, s.Backend)
	conn, err := r.dial(vip4)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	hear1(t, conn, after)
	hearEnd(conn)
	conn.Close()
	eventually(t, "the bytes", func() bool { return must(r.k.Servers())[1].BytesIn == after })
}

// A connect whose SYN waits for the first write has not failed.
func TestFastOpenIsNoLocalFailure(t *testing.T) {
	r := newRig(t, neverBounced)
	r.put(vip4, r.serve(1, "127.0.0.1:0", echo).Backend, r.serve(2, "127.0.0.1:0", echo).Backend)
	err := r.ns.Do(func() error {
		if err := os.WriteFile("/proc/sys/net/ipv4/tcp_fastopen", []byte("5"), 0); err != nil {
			return err
		}
		s, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(s)
		return errors.Join(unix.SetsockoptInt(s, unix.SOL_TCP, unix.TCP_FASTOPEN_CONNECT, 1), fd(s).connect(vip4),
			connectOnce(vip4)) // by the same thread
	})
	if err != nil {
		t.Fatal(err)
	}
	r.wantCounters(1, Counters{Redirected: 2, Attempted: 1, Established: 1, Closed: 1})
}

// detach ends a hook at once: a link whose pin is removed goes on for a moment.
func (r *rig) detach(hook string) error {
	path := r.k.pins.linkPath(hook)
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return err
	}
	return errors.Join(l.Detach(), os.Remove(path), l.Close())
}

// getpeername looks at the peer by itself: what nobody told to forget must not speak
// for a connection to another address, nor to another port.
func TestGetpeernameComparesThePeer(t *testing.T) {
	r := newRig(t)
	s := r.serve(1, "127.0.0.1:0", echo)
	nowhere := netip.AddrPortFrom(netip.MustParseAddr("198.51.100.7"), s.Addr.Port())
	// Each socket keeps a redirect that came to nothing, by which nobody is connected.
	noRoute := func(s fd) error { return s.connect(vip4) }
	v6only := func(s fd) error {
		return errors.Join(s.v6only(true), s.connect(mapped(vip4)), s.v6only(false))
	}
	for _, c := range []struct {
		name   string
		family int
		server netip.AddrPort
		fail   func(fd) error
		to     netip.AddrPort
	}{
		{"another address", unix.AF_INET, nowhere, noRoute, s.Addr},
		{"another address, mapped", unix.AF_INET6, nowhere, func(s fd) error { return s.connect(mapped(vip4)) }, mapped(s.Addr)},
		{"another port", unix.AF_INET6, netip.AddrPortFrom(s.Addr.Addr(), 1), v6only, mapped(s.Addr)},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := r.k.Attach(t.Context()); err != nil {
				t.Fatal(err)
			}
			r.put(vip4, Backend{Slot: 1, Addr: c.server})
			if err := r.k.ResetVIP(5); err != nil { // what the case before held down
				t.Fatal(err)
			}
			err := r.ns.Do(func() error {
				s, err := unix.Socket(c.family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					return err
				}
				defer unix.Close(s)
				if err := c.fail(fd(s)); !errors.Is(err, unix.ENETUNREACH) {
					return fmt.Errorf("connect: %w", err)
				}
				for _, h := range []string{"sockops", "connect4", "connect6"} {
					if err := r.detach(h); err != nil {
						return err
					}
				}
				return errors.Join(fd(s).connect(c.to), fd(s).wantPeer(c.to))
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}
