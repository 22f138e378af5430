package bed

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// tcpEstablished is TCP_ESTABLISHED of include/net/tcp_states.h.
const tcpEstablished = 1

// Socket is a TCP socket as the kernel has it: of a redirected connection the
// remote is the server, whatever getpeername says.
type Socket struct {
	Local, Remote netip.AddrPort
	Established   bool
	Cookie        uint64 // no other socket of this boot has it
}

// Sockets lists the TCP sockets in the node's namespace, listeners left out.
func (n *Node) Sockets() ([]Socket, error) {
	h, err := netlink.NewHandleAt(netns.NsHandle(n.Netns.FD()), unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, fmt.Errorf("list sockets of %s: %w", n.Name, err)
	}
	defer h.Close()
	return sockets(h)
}

func sockets(h *netlink.Handle) (out []Socket, err error) {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		// An interrupted dump is of sockets that came and went; those asked for stay.
		list, err := h.SocketDiagTCP(family)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil, fmt.Errorf("list sockets: %w", err)
		}
		for _, s := range list {
			if s.ID.DestinationPort != 0 {
				out = append(out, Socket{
					Local:       addrPort(s.ID.Source, s.ID.SourcePort),
					Remote:      addrPort(s.ID.Destination, s.ID.DestinationPort),
					Established: s.State == tcpEstablished,
					Cookie:      uint64(s.ID.Cookie[1])<<32 | uint64(s.ID.Cookie[0]),
				})
			}
		}
	}
	return out, nil
}

// remote is a socket's remote as the kernel has it, zero when it has none. The
// socket is told by its cookie: connections to different servers may share a
// local port.
func remote(h *netlink.Handle, fd int) (netip.AddrPort, error) {
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("read socket cookie: %w", err)
	}
	list, err := sockets(h)
	if err != nil {
		return netip.AddrPort{}, err
	}
	for _, s := range list {
		if s.Cookie == cookie && s.Established {
			return s.Remote, nil
		}
	}
	return netip.AddrPort{}, nil
}

func addrPort(ip []byte, port uint16) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(addr.Unmap(), port)
}

// XDSServers counts the node's established connections to servers' gRPC ports,
// by server.
func (c *Cluster) XDSServers(n *Node) (map[*Server]int, error) {
	list, err := n.Sockets()
	if err != nil {
		return nil, err
	}
	count := map[*Server]int{}
	for _, sock := range list {
		for _, s := range c.Servers() {
			at := sock.Remote.Addr() == s.Addr() || sock.Remote.Addr() == s.Addr6()
			if at && sock.Established && sock.Remote.Port() == s.GRPCPort() {
				count[s]++
			}
		}
	}
	return count, nil
}
