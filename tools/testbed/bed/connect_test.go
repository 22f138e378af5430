package bed_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

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

func TestStormCountsEveryConnect(t *testing.T) {
	testenv.Privileged(t)
	testenv.NoLeaks(t)
	b := bed.ForTest(t)
	host, err := b.NewHost("host-1")
	check(t, err)
	pod, err := host.NewPod("pod-1")
	check(t, err)
	l, err := host.Listen("tcp", ":7000")
	check(t, err)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(conn, "hello")
			conn.Close()
		}
	}()
	to := netipAddrPort(host, 7000)
	storm, err := pod.StartStorm(bed.StormOptions{To: []netip.AddrPort{to}, Banner: true})
	check(t, err)
	time.Sleep(300 * time.Millisecond)
	check(t, l.Close())
	time.Sleep(100 * time.Millisecond)
	r, err := storm.End()
	check(t, err)
	t.Logf("%+v", r)
	if r.OK < 100 || r.OK != r.Banners["hello"] || r.Peers[to.String()] < r.OK {
		t.Errorf("result = %+v, want at least 100 connects that were answered", r)
	}
	failed := 0
	for _, n := range r.Errnos {
		failed += n
	}
	if r.Errnos[unix.ECONNREFUSED.Error()] == 0 || r.OK+failed != r.Connects {
		t.Errorf("result = %+v, want refusals, and every connect counted", r)
	}
}
