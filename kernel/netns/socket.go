package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

var (
	// ErrNotLocal says that an address is not one of the namespace's own.
	ErrNotLocal = errors.New("not an address of this network namespace")
	// ErrPrivilegedPort says that only root may listen on a port there.
	ErrPrivilegedPort = errors.New("a port for root alone")
)

// Of returns which namespace an open file such as /proc/PID/ns/net is.
func Of(f *os.File) (ID, error) {
	inode, err := inodeOf(f)
	if err != nil {
		return ID{}, err
	}
	cookie, err := cookieIn(f)
	if err != nil {
		return ID{}, fmt.Errorf("network namespace %s: %w", f.Name(), err)
	}
	return ID{Cookie: cookie, Inode: inode}, nil
}

// Listen listens inside a namespace, for a user who may not listen on all ports
// there: the socket is the user's for whoever asks whose it is. It keeps the
// namespace alive until it is closed. The error is ErrPrivilegedPort for a
// port that the user may not have, ErrNotLocal for an address that the
// namespace has not.
func Listen(ns *os.File, at netip.AddrPort, uid uint32) (l net.Listener, err error) {
	err = Do(ns, func() error {
		if first, err := unprivilegedPort(); err != nil {
			return err
		} else if uid != 0 && at.Port() < first {
			return fmt.Errorf("port %d: %w", at.Port(), ErrPrivilegedPort)
		}
		return as(uid, func() (err error) {
			// The socket is made by this goroutine, thus on this thread.
			l, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", at.String())
			if errors.Is(err, syscall.EADDRNOTAVAIL) {
				err = ErrNotLocal
			}
			return err
		})
	})
	if err != nil && l != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, err
}

// Dial connects inside a namespace to one of the namespace's own addresses, with
// a socket that is the user's; the error is ErrNotLocal for any other address.
// The connection keeps the namespace alive until it is closed. ctx bounds the
// connecting alone.
func Dial(ctx context.Context, ns *os.File, to netip.AddrPort, uid uint32) (c net.Conn, err error) {
	err = Do(ns, func() error {
		return as(uid, func() (err error) {
			if err := local(to.Addr()); err != nil {
				return err
			}
			c, err = (&net.Dialer{}).DialContext(ctx, "tcp", to.String())
			return err
		})
	})
	if err != nil && c != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, err
}

// as runs fn on a thread that is the caller's own with the user's id on what it
// makes. Rights stay as they are, but for files.
func as(uid uint32, fn func() error) error {
	old, err := unix.SetfsuidRetUid(int(uid))
	if err != nil {
		return fmt.Errorf("become uid %d for a socket: %w", uid, err)
	}
	defer func() { _, _ = unix.SetfsuidRetUid(old) }() // back to what it was is always allowed
	return fn()
}

// local says whether an address belongs to the calling thread's namespace: only
// such can be bound to. Loopback addresses always do.
func local(addr netip.Addr) error {
	addr = addr.Unmap()
	if addr.IsLoopback() {
		return nil
	}
	family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: addr.As16()})
	if addr.Is4() {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Addr: addr.As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a socket: %w", err)
	}
	defer unix.Close(fd)
	if addr.IsUnspecified() || addr.IsMulticast() || unix.Bind(fd, sa) != nil {
		return fmt.Errorf("%s: %w", addr, ErrNotLocal)
	}
	return nil
}

// unprivilegedPort is the first port that everybody may listen on in the
// calling thread's namespace.
func unprivilegedPort() (uint16, error) {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if err != nil {
		return 0, fmt.Errorf("read which ports are for root: %w", err)
	}
	first, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
	if err != nil {
		return 0, fmt.Errorf("read which ports are for root: %w", err)
	}
	return uint16(min(first, 65535)), nil
}
