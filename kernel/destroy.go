package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/kernel/netns"
)

// ErrGone says that there is no such socket any more, or that it is connected
// elsewhere by now.
var ErrGone = errors.New("socket is gone")

const (
	sockDestroy = 21         // SOCK_DESTROY of the kernel's linux/sock_diag.h
	anyCookie   = ^uint64(0) // INET_DIAG_NOCOOKIE, twice, of linux/inet_diag.h
)

// Destroy closes sockets that Sockets listed: their owners read ECONNABORTED, and
// the servers get a reset. It returns an error for each, in their order: nil for
// one that was closed, ErrGone for one that was not there any more. A socket that
// is no longer connected to its Server, or that another has replaced, is left
// alone: the kernel finds it by both addresses and its cookie. One of a
// namespace that cannot be entered has an error that says why, which does not
// keep the others from being closed. It needs CAP_NET_ADMIN, and CAP_SYS_ADMIN to
// enter namespaces.
func Destroy(sockets []Socket) []error {
	errs := make([]error, len(sockets))
	in := map[uint64][]int{} // by namespace: indexes into sockets
	wanted := map[uint64]*netns.Wanted{}
	for i, s := range sockets {
		if s.Cookie == 0 || s.Cookie == anyCookie || !s.Local.IsValid() {
			errs[i] = fmt.Errorf("close socket to %v: the kernel does not tell its cookie or its address", s.Server)
			continue
		}
		w := wanted[s.Netns]
		if w == nil {
			w = &netns.Wanted{Cookie: s.Netns}
			wanted[s.Netns] = w
		}
		if !slices.Contains(w.PIDs, int(s.PID)) {
			w.PIDs = append(w.PIDs, int(s.PID))
		}
		in[s.Netns] = append(in[s.Netns], i)
	}
	all := make([]netns.Wanted, 0, len(wanted))
	for _, w := range wanted {
		all = append(all, *w)
	}
	left := netns.Visit(all, func(cookie uint64) { destroyHere(sockets, in[cookie], errs) })
	for cookie, err := range left {
		for _, i := range in[cookie] {
			errs[i] = fmt.Errorf("close socket to %v: enter its namespace: %w", sockets[i].Server, err)
		}
	}
	return errs
}

// destroyHere closes sockets of the namespace that the calling thread is in.
func destroyHere(sockets []Socket, which []int, errs []error) {
	diag, err := openDiag()
	if err != nil {
		for _, i := range which {
			errs[i] = err
		}
		return
	}
	defer diag.close()
	for _, i := range which {
		s := sockets[i]
		switch err := diag.destroy(s.Local, s.Server, s.Device, s.Cookie); {
		// ESTALE: another cookie.
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ESTALE):
			errs[i] = ErrGone
		case errors.Is(err, unix.EOPNOTSUPP):
			errs[i] = fmt.Errorf("close socket to %v: %w: this kernel is built without CONFIG_INET_DIAG_DESTROY", s.Server, err)
		case err != nil:
			errs[i] = fmt.Errorf("close socket to %v: %w", s.Server, err)
		}
	}
}

// destroyNone destroys a TCP socket that does not exist, and returns the
// kernel's answer: ENOENT where sockets can be destroyed.
func destroyNone() error {
	diag, err := openDiag()
	if err != nil {
		return err
	}
	defer diag.close()
	none := netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	return diag.destroy(none, none, 0, anyCookie)
}

// diag is a descriptor of NETLINK_SOCK_DIAG. It reaches the sockets of the
// namespace that it was made in, and keeps that namespace alive.
type diag int

func openDiag() (diag, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return 0, fmt.Errorf("open sock_diag: %w", err)
	}
	return diag(fd), nil
}

func (d diag) close() { unix.Close(int(d)) }

// destroy closes the TCP socket with these addresses and this cookie, and gives
// the kernel's answer, an errno. An IPv6 socket with v4-mapped addresses is found
// as one of IPv4.
func (d diag) destroy(local, remote netip.AddrPort, device uint32, cookie uint64) error {
	// struct nlmsghdr, then struct inet_diag_req_v2 of 56 bytes.
	msg := make([]byte, unix.NLMSG_HDRLEN+56)
	native := binary.NativeEndian
	native.PutUint32(msg[0:], uint32(len(msg)))
	native.PutUint16(msg[4:], sockDestroy)
	native.PutUint16(msg[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	req := msg[unix.NLMSG_HDRLEN:]
	req[0], req[1] = unix.AF_INET6, unix.IPPROTO_TCP
	if local.Addr().Is4() {
		req[0] = unix.AF_INET
	}
	native.PutUint32(req[4:], ^uint32(0)) // states: any
	binary.BigEndian.PutUint16(req[8:], local.Port())
	binary.BigEndian.PutUint16(req[10:], remote.Port())
	copy(req[12:28], local.Addr().AsSlice())
	copy(req[28:44], remote.Addr().AsSlice())
	native.PutUint32(req[44:], device)
	native.PutUint32(req[48:], uint32(cookie)) // the lower half first
	native.PutUint32(req[52:], uint32(cookie>>32))
	if err := unix.Sendto(int(d), msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("ask sock_diag: %w", err)
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(int(d), answer, 0)
	if err != nil {
		return fmt.Errorf("ask sock_diag: %w", err)
	}
	if n < unix.NLMSG_HDRLEN+4 || native.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return errors.New("sock_diag gave no answer")
	}
	if code := int32(native.Uint32(answer[unix.NLMSG_HDRLEN:])); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}
