package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

const denied = `lictor_denied_total{reason="%s"}`

// A VIP is its owner's alone: from another pod, and from the host itself, a
// connect fails with EPERM at once, whatever kind of socket it comes from.
func TestAStrangerMayNotConnect(t *testing.T) {
	w := newWorld(t, 1, time.Minute)
	m := w.join("web")
	other, err := w.host.NewPod("other")
	w.must(err)
	w.must(w.connects(m.pod.Node, m.vip(), 0))

	asked := 0.0
	for _, from := range []*bed.Node{other.Node, w.host.Node} {
		for _, how := range []bed.Connect{{}, {Nonblocking: true}, {Mapped: true}} {
			how.To = m.vip()
			got, err := from.Connect(w.ctx, how)
			w.must(err)
			if got.Errno != unix.EPERM || got.Took > atOnce {
				t.Errorf("from %s by %+v: %v after %v, want EPERM at once", from.Name, how, errno(got.Errno), got.Took)
			}
			asked++
		}
	}
	if n := w.metric(fmt.Sprintf(denied, "stranger")); n != asked {
		t.Errorf("%v connects of strangers are counted, want %v", n, asked)
	}
	w.must(w.connects(m.pod.Node, m.vip(), 0))
}

// A cgroup owns its VIP with all that is below it, and nobody beside it does,
// also not from the same network namespace.
func TestACgroupOwnsItsVIP(t *testing.T) {
	w := newWorld(t, 1, time.Minute)
	pod, err := w.host.NewPod("web")
	w.must(err)
	other, err := w.host.NewPod("other")
	w.must(err)
	r := w.registerAs("web", v1.RegisterRequest{Cgroup: pod.Cgroup})
	vip := netip.AddrPortFrom(netip.MustParseAddr(r.VIP), r.Port)
	w.must(w.connects(pod.Node, vip, 0))
	w.must(w.connects(other.Node, vip, unix.EPERM))
	w.must(w.connects(w.host.Node, vip, unix.EPERM))
}

// Without a server a VIP refuses at once: all drained, or none ever known. It
// works once there is one.
func TestAVIPWithoutServersRefuses(t *testing.T) {
	w := newWorld(t, 2, time.Minute)
	m := w.join("web")
	w.must(w.connects(m.pod.Node, m.vip(), 0))
	for i, s := range w.cluster.Servers() {
		w.cli("drain", s.Name)
		if i == 0 {
			w.must(w.connects(m.pod.Node, m.vip(), 0))
		}
	}
	w.must(w.connects(m.pod.Node, m.vip(), unix.ECONNREFUSED))
	if p := w.proxies()[m.proxy.ID]; p.State != v1.ProxyNoServer {
		t.Errorf("the proxy is said to be %q, want %q", p.State, v1.ProxyNoServer)
	}
	w.cli("undrain", w.cluster.Server(0).Name)
	w.must(w.connects(m.pod.Node, m.vip(), 0))
	if n := w.metric(fmt.Sprintf(denied, "no-server")); n != 1 {
		t.Errorf("%v connects without a server are counted, want 1", n)
	}
}

// A daemon that has never found a server promises VIPs all the same. They
// refuse, and redirect once Consul is found.
func TestAVIPIsPromisedBeforeThereIsAServer(t *testing.T) {
	w := newWorld(t, 1, time.Minute)
	var err error
	w.host, err = w.bed.NewHost("host-2")
	w.must(err)
	w.lictor, err = w.host.StartLictor(bed.LictorOptions{Args: []string{"--consul-addresses=" + w.host.Addr().String()}})
	w.must(err)
	w.must(w.lictor.WaitSocket(w.ctx))
	m := w.join("web")
	w.must(w.connects(m.pod.Node, m.vip(), unix.ECONNREFUSED))
	if m.Server != nil {
		t.Errorf("registering hints at server %+v, and none is known", m.Server)
	}
	ctx, cancel := context.WithTimeout(w.ctx, 100*time.Millisecond)
	defer cancel()
	if err := w.lictor.WaitReady(ctx); err == nil {
		t.Error("ready without a server")
	}

	w.must(w.lictor.Start(bed.LictorOptions{Cluster: w.cluster}))
	w.must(w.lictor.WaitReady(w.ctx))
	if again := w.register(m.pod.Node, m.proxy); again.VIP != m.VIP {
		t.Errorf("registered again it has %s, it was promised %s", again.VIP, m.VIP)
	}
	w.must(w.connects(m.pod.Node, m.vip(), 0))
}

// A proxy that was deregistered is refused at once, and its VIP is nobody
// else's for a while: a client that has not heard of it must not reach another
// proxy's servers. An address of the pool that is no VIP refuses likewise.
func TestADeregisteredVIPRefusesAndRests(t *testing.T) {
	w := newWorld(t, 1, time.Minute)
	m := w.join("web")
	w.must(w.connects(m.pod.Node, m.vip(), 0))
	w.cli("deregister", m.proxy.ID)
	w.must(w.connects(m.pod.Node, m.vip(), unix.ECONNREFUSED))
	for i := range 3 {
		if r := w.registerAs(fmt.Sprintf("next-%d", i), v1.RegisterRequest{Owner: v1.OwnerAny}); r.VIP == m.VIP {
			t.Errorf("%s was given to %s at once", m.VIP, r.ProxyID)
		}
	}
	if again := w.register(m.pod.Node, m.proxy); again.VIP == m.VIP {
		t.Errorf("%s was given again at once", m.VIP)
	}
	w.must(w.lictor.Start())
	w.must(w.lictor.WaitReady(w.ctx))
	if r := w.registerAs("later", v1.RegisterRequest{Owner: v1.OwnerAny}); r.VIP == m.VIP {
		t.Errorf("%s was given again after a restart", m.VIP)
	}
	w.must(w.connects(m.pod.Node, m.vip(), unix.ECONNREFUSED))
	nobodys := netip.MustParseAddrPort("239.77.200.200:8702")
	w.must(w.connects(m.pod.Node, nobodys, unix.ECONNREFUSED))
	otherPort := netip.AddrPortFrom(netip.MustParseAddr(m.VIP), 80)
	w.must(w.connects(m.pod.Node, otherPort, unix.ECONNREFUSED))
}
