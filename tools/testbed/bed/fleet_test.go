package bed_test

import (
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
	"github.com/lictor-mesh/lictor/tools/testbed/xds"
)

func TestFleetHoldsAStreamPerProxyAndComesBack(t *testing.T) {
	testenv.Privileged(t)
	testenv.NoLeaks(t)
	b := bed.ForTest(t)
	c, err := b.StartCluster(within(t, 60*time.Second), bed.ClusterOptions{Servers: 1})
	check(t, err)
	host, err := b.NewHost("host-1")
	check(t, err)
	pod, err := host.NewPod("web-1")
	check(t, err)
	fleet, err := host.StartFleet()
	check(t, err)

	ctx := within(t, 90*time.Second)
	server := c.Server(0)
	const n = 50
	started := time.Now()
	for i := range n {
		proxy, err := c.Register(ctx, bed.Service{Name: fmt.Sprintf("svc-%d", i%5), ID: fmt.Sprintf("svc-%d-%d", i%5, i)})
		check(t, err)
		from := host.Node
		if i == 0 {
			from = pod.Node
		}
		check(t, fleet.Add(proxy, server.XDS(), from))
	}
	check(t, fleet.WaitUp(ctx, n))
	t.Logf("%d proxies registered and up after %v", n, time.Since(started))
	if got := fleet.Servers(); len(got) != 1 || got[server.XDS()] != n {
		t.Errorf("servers = %v, want %d at %s", got, n, server.XDS())
	}
	count, err := c.XDSServers(pod.Node)
	check(t, err)
	if count[server] != 1 {
		t.Errorf("connections from the pod = %v, want one", count)
	}

	t.Log("a configuration change arrives")
	_, since := fleet.Events(0)
	_, err = c.Register(ctx, bed.Service{
		Name: "svc-0", ID: "svc-0-0",
		Upstreams: []api.Upstream{{DestinationName: "svc-1", LocalBindPort: 5000}},
	})
	check(t, err)
	check(t, fleet.Wait(ctx, "the change has arrived", func(map[string]bed.ProxyState) bool {
		events, _ := fleet.Events(since)
		for _, e := range events {
			if e.Proxy == "svc-0-0-sidecar-proxy" && e.Type == xds.ListenerType && e.Changed > 0 {
				return true
			}
		}
		return false
	}))

	t.Log("the server is killed and comes back")
	check(t, server.Kill())
	check(t, fleet.Wait(ctx, "all streams have ended", func(states map[string]bed.ProxyState) bool {
		for _, s := range states {
			if s.Up {
				return false
			}
		}
		return true
	}))
	check(t, server.Restart(ctx))
	check(t, fleet.WaitUp(ctx, n))
	for id, s := range fleet.State() {
		if s.Streams != 2 {
			t.Errorf("%s has had %d streams, want 2", id, s.Streams)
		}
	}
}

// Connections to different servers may share a local port, by which their real
// remotes must not be told.
func TestFleetTellsServersApartOnOneLocalPort(t *testing.T) {
	testenv.Privileged(t)
	testenv.NoLeaks(t)
	b := bed.ForTest(t)
	host, err := b.NewHost("host-1")
	check(t, err)
	const ports = 2
	check(t, host.Netns.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("40000 40001"), 0)
	}))
	fleet, err := host.StartFleet()
	check(t, err)
	want := map[string]netip.AddrPort{}
	for s := range 3 {
		pod, err := host.NewPod(fmt.Sprintf("server-%d", s))
		check(t, err)
		l, err := pod.Listen("tcp", ":7000") // it never answers
		check(t, err)
		t.Cleanup(func() { _ = l.Close() })
		for i := range ports {
			id := fmt.Sprintf("proxy-%d-%d", s, i)
			want[id] = netip.AddrPortFrom(pod.Addr(), 7000)
			check(t, fleet.Add(bed.Proxy{ID: id}, want[id], nil))
		}
	}
	check(t, fleet.Wait(within(t, 15*time.Second), "all are connected", func(all map[string]bed.ProxyState) bool {
		connected := 0
		for _, s := range all {
			if s.Last.Kind == xds.Connected {
				connected++
			}
		}
		return connected == len(want)
	}))
	for id, s := range fleet.State() {
		if s.Server != want[id] {
			t.Errorf("%s from %s: server = %v, want %v", id, s.Last.Local, s.Server, want[id])
		}
	}
}
