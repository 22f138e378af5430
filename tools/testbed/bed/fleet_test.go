package bed_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"golang.org/x/sys/unix"

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
	since := len(fleet.Events(0))
	_, err = c.Register(ctx, bed.Service{
		Name: "svc-0", ID: "svc-0-0",
		Upstreams: []api.Upstream{{DestinationName: "svc-1", LocalBindPort: 5000}},
	})
	check(t, err)
	check(t, fleet.Wait(ctx, "the change has arrived", func(map[string]bed.ProxyState) bool {
		for _, e := range fleet.Events(since) {
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

func TestConnectTellsWhatHappened(t *testing.T) {
	testenv.Privileged(t)
	testenv.NoLeaks(t)
	b := bed.ForTest(t)
	host, err := b.NewHost("host-1")
	check(t, err)
	pod, err := host.NewPod("pod-1")
	check(t, err)
	l, err := host.Listen("tcp", ":7000")
	check(t, err)
	defer l.Close()
	to := netipAddrPort(host, 7000)
	ctx := within(t, 60*time.Second)

	for name, ask := range map[string]bed.Connect{
		"blocking":     {To: to},
		"non-blocking": {To: to, Nonblocking: true},
		"v4-mapped":    {To: to, Mapped: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := pod.Connect(ctx, ask)
			check(t, err)
			if got.Errno != 0 || got.Peer != to || got.Server != to || got.Local.Addr() != pod.Addr() {
				t.Errorf("connect = %+v, want from %s to %s", got, pod.Addr(), to)
			}
		})
	}
	if pod.Addr6().IsValid() {
		to6 := netipAddrPort6(host, 7000)
		got, err := pod.Connect(ctx, bed.Connect{To: to6})
		check(t, err)
		if got.Errno != 0 || got.Server != to6 {
			t.Errorf("IPv6: connect = %+v, want to %s", got, to6)
		}
	}

	expect := func(name string, want ...unix.Errno) {
		t.Helper()
		got, err := pod.Connect(ctx, bed.Connect{To: to, Timeout: 2 * time.Second})
		check(t, err)
		for _, w := range want {
			if got.Errno == w {
				return
			}
		}
		t.Errorf("%s: errno = %v, want %v", name, got.Errno, want)
	}
	check(t, host.Partition(bed.Silent))
	expect("silent cut", unix.EINPROGRESS, unix.EAGAIN)
	check(t, host.Partition(bed.Unreachable))
	expect("unreachable", unix.ENETUNREACH)
	check(t, host.Heal())
	expect("healed", 0)
	check(t, pod.PartitionFrom(host.Node, bed.Unreachable))
	expect("cut between the two", unix.ENETUNREACH)
	check(t, pod.Heal())
	expect("healed again", 0)
	check(t, pod.LinkDown())
	expect("link down", unix.ENETUNREACH)
	check(t, pod.LinkUp())
	expect("link up", 0)
	to = netipAddrPort(host, 7001)
	expect("nobody listens", unix.ECONNREFUSED)
}
