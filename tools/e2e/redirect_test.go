package e2e

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// dualStack gives each server an IPv6 address beside the IPv4 one that it is
// known by.
var dualStack = bed.ClusterOptions{Servers: 3, Config: map[string]any{
	"advertise_addr_ipv6": `{{ GetAllInterfaces | include "name" "eth0" | include "network" "fd66::/64" | attr "address" }}`,
}}

// A proxy gets the VIPs of those families that a server has, and a connect to
// each of them, by whatever socket, reaches the server that lictord assigned;
// the peer is the VIP still.
func TestAConnectToAVIPReachesTheAssignedServer(t *testing.T) {
	for _, tc := range []struct {
		servers   string
		cluster   bed.ClusterOptions
		vip, vip6 bool
	}{
		{"IPv4", bed.ClusterOptions{Servers: 3}, true, false},
		{"IPv6", bed.ClusterOptions{Servers: 3, IPv6: true}, false, true},
		{"both", dualStack, true, true},
	} {
		t.Run(tc.servers, func(t *testing.T) {
			w := newBareWorld(t, time.Minute, tc.cluster)
			w.startLictor(bed.LictorOptions{Cluster: w.cluster})
			if tc.vip && tc.vip6 { // a server tells the catalog of its second address some seconds later
				w.eventually(30*time.Second, func() error { return w.eachServerHas(2) })
			}
			m := w.join("web")
			if (m.VIP != "") != tc.vip || (m.VIP6 != "") != tc.vip6 {
				t.Fatalf("vip = %q, vip6 = %q; want them only where a server can be reached", m.VIP, m.VIP6)
			}
			var ways []bed.Connect
			for _, nonblocking := range []bool{false, true} {
				if tc.vip {
					ways = append(ways, bed.Connect{To: m.vip(), Nonblocking: nonblocking},
						bed.Connect{To: m.vip(), Nonblocking: nonblocking, Mapped: true})
				}
				if tc.vip6 {
					ways = append(ways, bed.Connect{To: m.vip6(), Nonblocking: nonblocking})
				}
			}
			for _, way := range ways {
				way.Timeout = 5 * time.Second
				got, err := m.pod.Connect(w.ctx, way)
				w.must(err)
				server := w.server(m.Server.ID)
				want := server.XDS()
				if way.To.Addr().Is6() {
					want = netip.AddrPortFrom(server.Addr6(), server.GRPCPort())
				}
				if got.Errno != 0 || got.Server != want || got.Peer != way.To {
					t.Errorf("%+v: errno %v, server %v, peer %v; want server %v and the VIP as the peer",
						way, got.Errno, got.Server, got.Peer, want)
				}
			}
			w.accounts(m.proxy.ID, uint64(len(ways)))
		})
	}
}

// eachServerHas is an error unless lictord knows so many addresses of each server.
func (w *world) eachServerHas(addresses int) error {
	client := w.lictor.Client()
	defer client.Close()
	servers, err := client.Servers(w.ctx)
	w.must(err)
	for _, s := range servers {
		if len(s.Addresses) != addresses {
			return fmt.Errorf("%s has addresses %v", s.ID, s.Addresses)
		}
	}
	return nil
}

// accounts checks that lictord has counted that many connections of a proxy,
// and none in any other way.
func (w *world) accounts(id string, connections uint64) {
	w.Helper()
	w.eventually(5*time.Second, func() error {
		p := w.assignment(id)
		if p.Total != connections || p.Failed != 0 || p.Active != 0 {
			return fmt.Errorf("%d connections, %d failed, %d active of %s; want %d, 0 and 0", p.Total, p.Failed, p.Active, id, connections)
		}
		return nil
	})
}

// An Envoy gets its configuration from servers that have IPv6 addresses only:
// the bootstrap names the IPv6 VIP.
func TestEnvoyGetsItsConfigurationThroughAnIPv6VIP(t *testing.T) {
	w := newBareWorld(t, time.Minute, bed.ClusterOptions{Servers: 3, IPv6: true})
	w.startLictor(bed.LictorOptions{Cluster: w.cluster})
	m := w.join("web")
	e := w.envoy(m)
	w.must(e.WaitUp(w.ctx))
	list, err := m.pod.Sockets()
	w.must(err)
	server := w.server(m.Server.ID)
	want := netip.AddrPortFrom(server.Addr6(), server.GRPCPort())
	streams := 0
	for _, s := range list {
		if s.Established && s.Remote == want {
			streams++
		}
	}
	if streams != 1 {
		t.Errorf("%d streams to %s at %v, want 1; sockets: %+v", streams, server.Name, want, list)
	}
	if m.Server.Address != server.Addr6() {
		t.Errorf("the hint is %v, want %v", m.Server.Address, server.Addr6())
	}
}

// What is not a VIP is not touched: 127.0.0.0/8, the servers themselves, other
// pods, and the nearest addresses outside the pools.
func TestOtherAddressesAreUntouched(t *testing.T) {
	w := newWorld(t, 3, time.Minute)
	m := w.join("web")
	other := w.join("other")
	client := w.lictor.Client()
	defer client.Close()
	before, err := client.Servers(w.ctx)
	w.must(err)

	// A listener at the VIPs' own port tempts a program that looks at ports only.
	listening := []netip.Addr{m.pod.Addr(), other.pod.Addr(), other.pod.Addr6()}
	for _, local := range []string{"127.0.0.1", "127.77.0.1", "127.239.0.1", "127.255.255.254", "::1"} {
		listening = append(listening, netip.MustParseAddr(local))
	}
	for _, pod := range []*bed.Pod{m.pod, other.pod} {
		l, err := pod.Listen("tcp", fmt.Sprintf(":%d", m.Port))
		w.must(err)
		t.Cleanup(func() { _ = l.Close() })
	}
	for _, addr := range listening {
		for _, nonblocking := range []bool{false, true} {
			to := netip.AddrPortFrom(addr, m.Port)
			got, err := m.pod.Connect(w.ctx, bed.Connect{To: to, Nonblocking: nonblocking})
			w.must(err)
			if got.Errno != 0 || got.Peer != to || got.Server != to {
				t.Errorf("connect to %v: errno %v, peer %v, really %v", to, got.Errno, got.Peer, got.Server)
			}
		}
	}
	for _, s := range w.cluster.Servers() {
		got, err := m.pod.Connect(w.ctx, bed.Connect{To: s.XDS()})
		w.must(err)
		if got.Errno != 0 || got.Server != s.XDS() {
			t.Errorf("connect to %s: errno %v, really %v", s.Name, got.Errno, got.Server)
		}
	}
	for _, outside := range []string{"239.76.255.255", "239.78.0.0", "ff05::7777:1:0:1", "ff05::7776:0:1"} {
		to := netip.AddrPortFrom(netip.MustParseAddr(outside), m.Port)
		got, err := m.pod.Connect(w.ctx, bed.Connect{To: to})
		w.must(err)
		if got.Errno != unix.ENETUNREACH {
			t.Errorf("connect to %v: errno %v, want the kernel's own ENETUNREACH", to, got.Errno)
		}
	}

	after, err := client.Servers(w.ctx)
	w.must(err)
	for i := range after {
		if after[i].Redirected != before[i].Redirected {
			t.Errorf("%d connects were redirected to %s", after[i].Redirected-before[i].Redirected, after[i].ID)
		}
	}
}

// vip6 is where the member connects to by IPv6.
func (m member) vip6() netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(m.VIP6), m.Port)
}

// server is the Consul server of that name.
func (w *world) server(name string) *bed.Server {
	w.Helper()
	for _, s := range w.cluster.Servers() {
		if s.Name == name {
			return s
		}
	}
	w.Fatalf("there is no server %q", name)
	return nil
}

// assignment is what lictord says of a proxy.
func (w *world) assignment(id string) v1.Proxy {
	w.Helper()
	client := w.lictor.Client()
	defer client.Close()
	p, err := client.Proxy(w.ctx, id)
	w.must(err)
	return p
}
