package bed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/tools/testbed/reexec"
)

// Connect says how to connect. The connection is looked at and then aborted, not
// closed: one that its own side closes soon, having received next to nothing, is
// what a server's refusal looks like, and a host would avoid that server.
type Connect struct {
	To netip.AddrPort
	// Mapped connects to an IPv4 address by an IPv6 socket.
	Mapped bool
	// Nonblocking connects and then polls.
	Nonblocking bool
	// Timeout of the connect; default 3 s.
	Timeout time.Duration
}

// Connected is what came of it.
type Connected struct {
	Errno  unix.Errno     // 0 when it is up; EINPROGRESS or EAGAIN after the timeout
	Took   time.Duration  // of the connect
	Local  netip.AddrPort // of a connect that succeeded
	Peer   netip.AddrPort // as getpeername says
	Server netip.AddrPort // as the kernel has it
}

// Connect connects once from a program of its own on the node, inside the node's
// namespace and cgroup: redirected, refused or counted like any other there. A
// connect that fails is a result, not an error.
func (n *Node) Connect(ctx context.Context, c Connect) (Connected, error) {
	if c.Timeout == 0 {
		c.Timeout = 3 * time.Second
	}
	ask, err := json.Marshal(c)
	if err != nil {
		return Connected{}, err
	}
	out, err := n.Run(ctx, Command{Name: "connect", Path: reexec.Path, Argv0: reexec.Argv0("connect"), Env: undisturbed, Stdin: bytes.NewReader(ask)})
	if err != nil {
		return Connected{}, err
	}
	var done Connected
	return done, json.Unmarshal(out, &done)
}

// undisturbed keeps Go's scheduler from interrupting system calls: with a
// timeout of the socket's own, connect and read end with EINTR then.
var undisturbed = []string{"GODEBUG=asyncpreemptoff=1"}

func init() { reexec.Handle("connect", connectMain) }

// connectMain goes before whatever else the machine does: the time that it
// measures is to be the kernel's, not that of a wait for a core.
func connectMain() error {
	runtime.LockOSThread()
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, -20); err != nil {
		return fmt.Errorf("go before other programs: %w", err)
	}
	var c Connect
	if err := json.NewDecoder(os.Stdin).Decode(&c); err != nil {
		return err
	}
	done, err := c.connect()
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(done)
}

func (c Connect) connect() (done Connected, err error) {
	to := c.To
	if c.Mapped {
		to = netip.AddrPortFrom(netip.AddrFrom16(to.Addr().As16()), to.Port())
	}
	fd, err := unix.Socket(family(to), unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return done, fmt.Errorf("make socket: %w", err)
	}
	defer unix.Close(fd)
	limit := unix.NsecToTimeval(c.Timeout.Nanoseconds())
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit),
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}),
		unix.SetNonblock(fd, c.Nonblocking))
	if err != nil {
		return done, fmt.Errorf("set up socket: %w", err)
	}
	started := time.Now()
	err = unix.Connect(fd, toSockaddr(to))
	if c.Nonblocking && errors.Is(err, unix.EINPROGRESS) {
		err = outcome(fd, c.Timeout)
	}
	done.Took = time.Since(started)
	if err != nil {
		if !errors.As(err, &done.Errno) {
			return done, fmt.Errorf("connect: %w", err)
		}
		return done, nil
	}
	return done, done.look(fd)
}

// outcome waits for a connect in progress.
func outcome(fd int, timeout time.Duration) error {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	for end := time.Now().Add(timeout); ; {
		n, err := unix.Poll(fds, int(max(0, time.Until(end)).Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return unix.EINPROGRESS
		}
		break
	}
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	if code != 0 {
		return unix.Errno(code)
	}
	return nil
}

// look asks the socket, and the kernel about the socket, for both ends.
func (d *Connected) look(fd int) error {
	local, err := unix.Getsockname(fd)
	if err != nil {
		return fmt.Errorf("ask for own address: %w", err)
	}
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return fmt.Errorf("ask for peer: %w", err)
	}
	d.Local, d.Peer = fromSockaddr(local), fromSockaddr(peer)
	h, err := netlink.NewHandle(unix.NETLINK_INET_DIAG)
	if err != nil {
		return err
	}
	defer h.Close()
	d.Server, err = remote(h, fd)
	return err
}

// family is AF_INET6 for a mapped address: it is for an IPv6 socket.
func family(to netip.AddrPort) int {
	if to.Addr().Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func toSockaddr(to netip.AddrPort) unix.Sockaddr {
	if to.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
}

func fromSockaddr(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}
