package bed

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/lictor-mesh/lictor/tools/testbed/sandbox"
)

// Node is a place in the bed: a server, a host or a pod. It has a network
// namespace, an address, a cgroup and a directory of its own.
type Node struct {
	Name   string
	Kind   string // server, host or pod
	Netns  *sandbox.Netns
	Cgroup string // directory
	Dir    string // for configuration, data and logs

	bed   *Bed
	link  string // of the hub
	addrs addrs

	mu   sync.Mutex
	uses map[string]int // of process names
}

// newNode makes a node whose cgroup is at the given place below the bed's.
func (b *Bed) newNode(kind, name string, cgroup ...string) (*Node, error) {
	b.mu.Lock()
	closed, taken := b.closed, slices.ContainsFunc(b.nodes, func(n *Node) bool { return n.Name == name })
	b.mu.Unlock()
	if closed {
		return nil, fmt.Errorf("make %s %q: bed is closed", kind, name)
	}
	if taken {
		return nil, fmt.Errorf("make %s %q: the name is taken", kind, name)
	}
	n := &Node{Name: name, Kind: kind, bed: b, addrs: b.net.newAddrs(), uses: map[string]int{}}
	var err error
	if n.Netns, err = b.run.Netns(name); err != nil {
		return nil, err
	}
	if n.Cgroup, err = b.run.Cgroup(cgroup...); err != nil {
		return nil, err
	}
	if n.Dir, err = b.run.Dir(name); err != nil {
		return nil, err
	}
	n.link = fmt.Sprintf("node%d", n.addrs.number)
	if err := b.net.attach(n.Netns, n.link, n.addrs); err != nil {
		return nil, err
	}
	b.mu.Lock()
	b.nodes = append(b.nodes, n)
	b.mu.Unlock()
	return n, nil
}

// Remove kills what runs on the node and takes it out of the bed, with its
// cgroup and whatever is below that.
func (n *Node) Remove() error {
	err := errors.Join(sandbox.RemoveCgroup(n.Cgroup), n.Heal(), n.bed.net.detach(n.link), n.bed.run.RemoveNetns(n.Netns))
	n.bed.mu.Lock()
	defer n.bed.mu.Unlock()
	n.bed.nodes = slices.DeleteFunc(n.bed.nodes, func(m *Node) bool { return m == n })
	return err
}

// renew gives the node a new network namespace under the same name and
// addresses. Nothing may run in the old one.
func (n *Node) renew() error {
	if err := errors.Join(n.bed.net.detach(n.link), n.bed.run.RemoveNetns(n.Netns)); err != nil {
		return err
	}
	ns, err := n.bed.run.Netns(n.Name)
	if err != nil {
		return err
	}
	n.Netns = ns
	return n.bed.net.attach(n.Netns, n.link, n.addrs)
}

// Addr is the node's IPv4 address.
func (n *Node) Addr() netip.Addr { n.mu.Lock(); defer n.mu.Unlock(); return n.addrs.v4 }

// Addr6 is the node's IPv6 address, the zero Addr on a machine without IPv6.
func (n *Node) Addr6() netip.Addr { n.mu.Lock(); defer n.mu.Unlock(); return n.addrs.v6 }

// readdress moves the node to addresses that nobody had.
func (n *Node) readdress() error {
	now := n.bed.net.newAddrs()
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.bed.net.readdress(n.Netns, n.link, n.addrs, now); err != nil {
		return fmt.Errorf("readdress %s: %w", n.Name, err)
	}
	now.number = n.addrs.number // which names the link and its MAC
	n.addrs = now
	return nil
}

// DialContext connects from the node's network namespace, and from this
// process's cgroup: programs on the node's cgroup do not see the connect, so a
// VIP is not redirected; see [Node.Connect] for that. The host in address is an
// IP, "" being the node's own; unix sockets are dialed so that their peer sees
// the node's namespace.
func (n *Node) DialContext(ctx context.Context, network, address string) (conn net.Conn, err error) {
	if network != "unix" {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		if host == "" {
			host = n.Addr().String()
		}
		if _, err := netip.ParseAddr(host); err != nil {
			return nil, fmt.Errorf("dial from %s: names are not resolved: %w", n.Name, err)
		}
		address = net.JoinHostPort(host, port)
	}
	err = n.Netns.Do(func() error {
		var d net.Dialer
		// An IP is dialed by this very goroutine, and so in the namespace.
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen listens inside the node's namespace; the host in address may be "" for
// every address. The caller closes.
func (n *Node) Listen(network, address string) (l net.Listener, err error) {
	err = n.Netns.Do(func() error {
		l, err = net.Listen(network, address)
		return err
	})
	return l, err
}

// HTTPClient sends requests from the node's namespace, one per connection, so
// that nothing is left open in it. Addresses in URLs are IPs.
func (n *Node) HTTPClient() *http.Client {
	return &http.Client{
		Timeout:   30 * time.Second,
		Transport: &http.Transport{DialContext: n.DialContext, DisableKeepAlives: true},
	}
}

// logPath numbers the logs of processes with one name.
func (n *Node) logPath(process string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.uses[process]++
	if i := n.uses[process]; i > 1 {
		process = fmt.Sprintf("%s-%d", process, i)
	}
	return filepath.Join(n.Dir, process+".log")
}
