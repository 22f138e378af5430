package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

// callerOf asks the kernel who is at the other end. An accepted unix socket is
// made in the network namespace of the socket that connected (af_unix.c,
// unix_stream_connect), so what it says of its namespace is the caller's.
//
// The namespace's cookie and inode are 0 where the kernel does not tell them:
// the cookie before Linux 5.14, the inode without CAP_NET_ADMIN.
func callerOf(conn *net.UnixConn) (Caller, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return Caller{}, fmt.Errorf("reach the caller's socket: %w", err)
	}
	var caller Caller
	var asked error
	err = raw.Control(func(fd uintptr) { caller, asked = askSocket(int(fd)) })
	return caller, errors.Join(err, asked)
}

func askSocket(fd int) (Caller, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return Caller{}, os.NewSyscallError("getsockopt SO_PEERCRED", err)
	}
	caller := Caller{UID: cred.Uid, GID: cred.Gid, PID: cred.Pid}
	caller.NetnsCookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil && !errors.Is(err, unix.ENOPROTOOPT) {
		return Caller{}, os.NewSyscallError("getsockopt SO_NETNS_COOKIE", err)
	}
	caller.NetnsInode, err = netnsInode(fd)
	if err != nil && !errors.Is(err, unix.EPERM) {
		return Caller{}, err
	}
	return caller, nil
}

// netnsInode is the inode of a socket's network namespace, as in
// /proc/PID/ns/net.
func netnsInode(fd int) (uint64, error) {
	ns, err := unix.IoctlRetInt(fd, unix.SIOCGSKNS)
	if err != nil {
		return 0, os.NewSyscallError("ioctl SIOCGSKNS", err)
	}
	defer unix.Close(ns)
	var stat unix.Stat_t
	if err := unix.Fstat(ns, &stat); err != nil {
		return 0, os.NewSyscallError("fstat of a network namespace", err)
	}
	return stat.Ino, nil
}

// root says whether the caller may do everything.
func (c Caller) root() bool { return c.UID == 0 }

// MayUse says why the caller may not read or end the registration of a proxy with
// that owner: it is for root and for the network namespace that owns it. The error
// is ErrForbidden.
func (c Caller) MayUse(id string, o v1.Owner) error {
	own := o.Kind == "netns" && o.Resolved && o.ID != 0 && o.ID == c.NetnsCookie
	if c.root() || own {
		return nil
	}
	return fmt.Errorf("proxy %q belongs to another owner than the network namespace of uid %d; call as root, or from its namespace: %w",
		id, c.UID, ErrForbidden)
}

// mayOperate says why the caller may not do what is for root.
func (c Caller) mayOperate(what string) error {
	if c.root() {
		return nil
	}
	return fmt.Errorf("%s is for root, the caller is uid %d: %w", what, c.UID, ErrForbidden)
}

// peer is what is known of a connection.
type peer struct {
	caller Caller
	over   bool // answer 429
	conn   *net.UnixConn
}

type peerKey struct{}

// withPeer notes who is at the other end of an API connection.
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	if c, ok := conn.(*apiConn); ok {
		return context.WithValue(ctx, peerKey{}, peer{c.caller, c.over, c.UnixConn})
	}
	return ctx
}

// peerOf gives what withPeer noted; the zero value, ok false, on the pages'
// connections.
func peerOf(ctx context.Context) (p peer, ok bool) {
	p, ok = ctx.Value(peerKey{}).(peer)
	return p, ok
}
