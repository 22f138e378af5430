package bed

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Cut says what becomes of packets that may not pass.
type Cut uint8

const (
	// Silent drops them: a host that vanished, a firewall. Connects time out,
	// and what is sent on a connection is sent again and again.
	Silent Cut = unix.RTN_BLACKHOLE
	// Unreachable answers them with ICMP: connects fail with ENETUNREACH, after
	// their first retransmission, a second. (On one machine the answer to the
	// first packet arrives while the connecting socket is locked, when TCP only
	// takes note of it.)
	Unreachable Cut = unix.RTN_UNREACHABLE
)

// Partition cuts a node off from all others, in both directions. The node
// itself notices nothing but silence. Processes on the node still reach each
// other. Cutting what is cut changes how.
func (n *Node) Partition(how Cut) error {
	if err := n.Heal(); err != nil {
		return err
	}
	return n.bed.net.cut(n.addrs, func(addr netip.Addr, rule func(src, dst netip.Addr) error) error {
		return errors.Join(rule(addr, netip.Addr{}), rule(netip.Addr{}, addr))
	}, how)
}

// PartitionFrom cuts the two nodes off from each other only.
func (n *Node) PartitionFrom(other *Node, how Cut) error {
	return n.bed.net.cut(n.addrs, func(addr netip.Addr, rule func(src, dst netip.Addr) error) error {
		peer := other.addrs.v4
		if addr.Is6() {
			peer = other.addrs.v6
		}
		return errors.Join(rule(addr, peer), rule(peer, addr))
	}, how)
}

// Heal takes every cut away that names the node. Healing what is whole is success.
func (n *Node) Heal() error {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rules, err := n.bed.net.handle.RuleList(family)
		if err != nil {
			return fmt.Errorf("list cuts: %w", err)
		}
		for _, r := range rules {
			if r.Priority != rulePriority || !(n.addrs.in(r.Src) || n.addrs.in(r.Dst)) {
				continue
			}
			r.Family = family
			if err := n.bed.net.handle.RuleDel(&r); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("heal %s: %w", n.Name, err)
			}
		}
	}
	return nil
}

// cut adds the rules that make wants, for each family of the node's addresses.
func (n *network) cut(a addrs, add func(netip.Addr, func(src, dst netip.Addr) error) error, how Cut) error {
	return a.each(func(addr, _ netip.Addr) error {
		return add(addr, func(src, dst netip.Addr) error {
			r := netlink.NewRule()
			r.Priority, r.Type, r.Family = rulePriority, uint8(how), unix.AF_INET
			if addr.Is6() {
				r.Family = unix.AF_INET6
			}
			if src.IsValid() {
				r.Src = hostNet(src)
			}
			if dst.IsValid() {
				r.Dst = hostNet(dst)
			}
			if err := n.handle.RuleAdd(r); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("cut %s: %w", addr, err)
			}
			return nil
		})
	})
}

// in tells whether a rule's prefix is one of the addresses.
func (a addrs) in(prefix *net.IPNet) bool {
	if prefix == nil {
		return false
	}
	addr, _ := netip.AddrFromSlice(prefix.IP)
	addr = addr.Unmap()
	return addr.IsValid() && (addr == a.v4 || addr == a.v6)
}

// LinkDown takes the node's own link away: its connects fail with ENETUNREACH
// before a packet exists, and what others send to it is lost.
func (n *Node) LinkDown() error {
	return n.bed.net.inside(n.Netns, func(h *netlink.Handle) error {
		eth0, err := h.LinkByName("eth0")
		if err != nil {
			return fmt.Errorf("take link of %s down: %w", n.Name, err)
		}
		return h.LinkSetDown(eth0)
	})
}

// LinkUp gives the link back.
func (n *Node) LinkUp() error {
	return n.bed.net.inside(n.Netns, func(h *netlink.Handle) error {
		return configure(h, n.addrs)
	})
}
