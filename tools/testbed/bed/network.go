package bed

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/tools/testbed/sandbox"
)

// The addresses are the bed's own: no link leads out of its namespaces, so they
// may be in use anywhere else.
var (
	subnet4  = netip.MustParseAddr("10.66.0.0")
	subnet6  = netip.MustParseAddr("fd66::")
	gateway4 = netip.MustParseAddr("169.254.1.1")
	gateway6 = netip.MustParseAddr("fe80::1")
	hubMAC   = net.HardwareAddr{2, 0, 0, 0, 0, 1}
)

// hubNumber is the hub's own place among the addresses.
const hubNumber = 0xfffe

// rulePriority is where cuts stand: after the local table, before the main one.
const rulePriority = 100

// network is a router with one link per node. A router, not a bridge, since a
// bridge cannot lose a packet in silence: a node behind a dead port stops
// answering ARP, and its peers see EHOSTUNREACH within seconds, which in the
// field is the exception.
type network struct {
	hub    *sandbox.Netns
	handle *netlink.Handle
	ipv6   bool

	mu   sync.Mutex
	next uint16 // number of the last node or address
}

func newNetwork(hub *sandbox.Netns) (*network, error) {
	h, err := netlink.NewHandleAt(netns.NsHandle(hub.FD()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink of hub: %w", err)
	}
	_, err = os.Stat("/proc/net/if_inet6")
	n := &network{hub: hub, handle: h, ipv6: err == nil}
	err = errors.Join(hub.Do(n.sysctls), n.addressHub())
	if err != nil {
		h.Close()
		return nil, fmt.Errorf("make hub a router: %w", err)
	}
	return n, nil
}

func (n *network) close() { n.handle.Close() }

// sysctls makes the hub forward, and say that something is unreachable as often
// as it is asked, not once a second.
func (n *network) sysctls() error {
	err := errors.Join(sysctl("net/ipv4/ip_forward", "1"), sysctl("net/ipv4/icmp_ratelimit", "0"))
	if n.ipv6 {
		err = errors.Join(err, sysctl("net/ipv6/conf/all/forwarding", "1"), sysctl("net/ipv6/icmp/ratelimit", "0"))
	}
	return err
}

// addressHub gives the hub addresses of its own, from which ICMP can come.
func (n *network) addressHub() error {
	lo, err := n.handle.LinkByName("lo")
	if err != nil {
		return err
	}
	return n.addrsOf(hubNumber).each(func(addr, _ netip.Addr) error {
		return n.handle.AddrReplace(lo, &netlink.Addr{IPNet: hostNet(addr), Flags: unix.IFA_F_NODAD})
	})
}

// sysctl must run on a thread inside the namespace it means.
func sysctl(name, value string) error {
	return os.WriteFile("/proc/sys/"+name, []byte(value), 0)
}

// addrs is a node's place in the network.
type addrs struct {
	number uint16
	v4, v6 netip.Addr // v6 is the zero Addr on a machine without IPv6
}

func (n *network) newAddrs() addrs {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.next++
	return n.addrsOf(n.next)
}

func (n *network) addrsOf(number uint16) addrs {
	a := addrs{number: number}
	b4 := subnet4.As4()
	b4[2], b4[3] = byte(a.number>>8), byte(a.number)
	a.v4 = netip.AddrFrom4(b4)
	if n.ipv6 {
		b6 := subnet6.As16()
		b6[14], b6[15] = byte(a.number>>8), byte(a.number)
		a.v6 = netip.AddrFrom16(b6)
	}
	return a
}

// each calls fn for the node's addresses with the gateway of that family.
func (a addrs) each(fn func(addr, gateway netip.Addr) error) error {
	if err := fn(a.v4, gateway4); err != nil || !a.v6.IsValid() {
		return err
	}
	return fn(a.v6, gateway6)
}

// attach links a namespace to the hub, with neighbours set for good: the
// network has no ARP to lose.
func (n *network) attach(ns *sandbox.Netns, link string, a addrs) error {
	mac := net.HardwareAddr{2, 0, 0, 1, byte(a.number >> 8), byte(a.number)}
	la := netlink.NewLinkAttrs()
	la.Name, la.HardwareAddr, la.TxQLen = link, hubMAC, 1000
	veth := &netlink.Veth{LinkAttrs: la, PeerName: "eth0", PeerHardwareAddr: mac, PeerNamespace: netlink.NsFd(ns.FD())}
	if err := n.handle.LinkAdd(veth); err != nil {
		return fmt.Errorf("link %s to hub: %w", ns.Name, err)
	}
	if err := n.inside(ns, func(h *netlink.Handle) error { return configure(h, a) }); err != nil {
		return fmt.Errorf("configure eth0 of %s: %w", ns.Name, err)
	}
	if err := n.route(link, mac, a); err != nil {
		return fmt.Errorf("route to %s: %w", ns.Name, err)
	}
	return nil
}

// inside runs fn with a netlink socket of that namespace.
func (n *network) inside(ns *sandbox.Netns, fn func(*netlink.Handle) error) error {
	h, err := netlink.NewHandleAt(netns.NsHandle(ns.FD()), unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	return fn(h)
}

// configure sets the node's side; doing it again restores what a link that was
// down has lost.
func configure(h *netlink.Handle, a addrs) error {
	eth0, err := h.LinkByName("eth0")
	if err != nil {
		return err
	}
	if err := h.LinkSetUp(eth0); err != nil {
		return err
	}
	index := eth0.Attrs().Index
	return a.each(func(addr, gateway netip.Addr) error {
		own := &netlink.Addr{IPNet: hostNet(addr), Flags: unix.IFA_F_NODAD}
		if err := h.AddrReplace(eth0, own); err != nil {
			return fmt.Errorf("set address %s: %w", addr, err)
		}
		if err := h.NeighSet(neighbour(index, gateway, hubMAC)); err != nil {
			return fmt.Errorf("set gateway %s: %w", gateway, err)
		}
		out := &netlink.Route{LinkIndex: index, Gw: gateway.AsSlice(), Flags: int(netlink.FLAG_ONLINK), Src: addr.AsSlice()}
		if err := h.RouteReplace(out); err != nil {
			return fmt.Errorf("set default route by %s: %w", gateway, err)
		}
		return nil
	})
}

// route sets the hub's side.
func (n *network) route(link string, mac net.HardwareAddr, a addrs) error {
	l, err := n.handle.LinkByName(link)
	if err != nil {
		return err
	}
	if err := n.handle.LinkSetUp(l); err != nil {
		return err
	}
	index := l.Attrs().Index
	return a.each(func(addr, _ netip.Addr) error {
		if err := n.handle.NeighSet(neighbour(index, addr, mac)); err != nil {
			return err
		}
		return n.handle.RouteReplace(&netlink.Route{LinkIndex: index, Dst: hostNet(addr), Scope: netlink.SCOPE_LINK})
	})
}

// readdress gives an attached node other addresses and takes the old ones away.
func (n *network) readdress(ns *sandbox.Netns, link string, old, now addrs) error {
	mac := net.HardwareAddr{2, 0, 0, 1, byte(old.number >> 8), byte(old.number)}
	err := n.inside(ns, func(h *netlink.Handle) error {
		eth0, err := h.LinkByName("eth0")
		if err != nil {
			return err
		}
		err = old.each(func(addr, _ netip.Addr) error {
			return h.AddrDel(eth0, &netlink.Addr{IPNet: hostNet(addr)})
		})
		return errors.Join(err, configure(h, now))
	})
	if err != nil {
		return err
	}
	now.number = old.number // the link keeps its MAC
	return n.route(link, mac, now)
}

func (n *network) detach(link string) error {
	l, err := n.handle.LinkByName(link)
	if err != nil {
		return err
	}
	return n.handle.LinkDel(l)
}

func neighbour(index int, addr netip.Addr, mac net.HardwareAddr) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: index, IP: addr.AsSlice(), HardwareAddr: mac, State: netlink.NUD_PERMANENT}
}

func hostNet(addr netip.Addr) *net.IPNet {
	return &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())}
}
