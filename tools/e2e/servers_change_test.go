package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// inMapWithin is what is promised from Consul's answer on.
const inMapWithin = 100 * time.Millisecond

// A server that joins is in the kernel's entries of all proxies within 100 ms
// of Consul answering a blocking query: one of the test's own, at the server
// that lictord follows, which is answered in the same moment as lictord's.
func TestANewServerIsInTheMapAtOnce(t *testing.T) {
	const proxies = 100
	w := newWorld(t, 3, 2*time.Minute)
	vips := w.openVIPs()
	// Two of three: on a busy machine the test itself may be late.
	for i, late := 0, 0; i-late < 2; i++ {
		w.registerMany(fmt.Sprintf("web-%d", i), proxies)
		took := w.newServerAfter(vips, (i+1)*proxies)
		t.Logf("in the map %v after Consul's answer", took)
		if took <= inMapWithin {
			continue
		}
		if late++; late == 2 {
			t.Fatalf("in the map %v after Consul's answer, want %v", took, inMapWithin)
		}
	}
}

// newServerAfter adds a server and returns how long after Consul's answer it was in that
// many entries.
func (w *world) newServerAfter(vips vipMap, entries int) time.Duration {
	w.Helper()
	followed := w.status().Consul.Address
	var asked *bed.Server
	for _, s := range w.cluster.Servers() {
		if followed == fmt.Sprintf("%s:%d", s.Addr(), bed.HTTPPort) {
			asked = s
		}
	}
	if asked == nil {
		w.Fatalf("lictord follows %q, which is no server", followed)
	}
	known := len(w.cluster.Servers())
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()

	var answered, inMap time.Time
	var wg sync.WaitGroup
	wg.Go(func() {
		var index uint64
		for ctx.Err() == nil {
			q := (&api.QueryOptions{AllowStale: true, WaitIndex: index}).WithContext(ctx)
			list, meta, err := asked.Client().Health().Service("consul", "", true, q)
			if err == nil && len(list) > known {
				answered = time.Now()
				return
			}
			if err == nil {
				index = meta.LastIndex
			}
		}
	})
	wg.Go(func() {
		for ctx.Err() == nil {
			time.Sleep(2 * time.Millisecond)
			all := w.cluster.Servers()
			if len(all) == known {
				continue
			}
			addr := all[known].Addr().As4()
			have := 0
			for _, entry := range vips.entries() {
				if bytes.Contains(entry, addr[:]) {
					have++
				}
			}
			if have == entries {
				inMap = time.Now()
				return
			}
		}
	})
	_, err := w.cluster.AddServer(ctx)
	w.must(err)
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		cancel()
		<-done
	}
	if answered.IsZero() || inMap.IsZero() {
		w.Fatalf("Consul answered at %v, in the map at %v", answered, inMap)
	}
	return inMap.Sub(answered)
}

// standIn is a listener that the catalog lists as a Consul server: of a real
// one, Consul cannot keep the old address alive until the new one is listed. It
// says its name to who connects.
type standIn struct {
	net.Listener
	name string
	at   netip.AddrPort
	wg   sync.WaitGroup

	mu   sync.Mutex
	last time.Time // of an accept
}

// standIn listens in a pod.
func (w *world) standIn(name string, pod *bed.Pod, port uint16) *standIn {
	w.Helper()
	at := netip.AddrPortFrom(pod.Addr(), port)
	l, err := pod.Listen("tcp", at.String())
	w.must(err)
	s := &standIn{Listener: l, name: name, at: at}
	s.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.last = time.Now()
			s.mu.Unlock()
			s.wg.Go(func() {
				defer conn.Close()
				_, _ = io.WriteString(conn, name)
				_, _ = io.Copy(io.Discard, conn) // until who connected ends it
			})
		}
	})
	w.Cleanup(s.stop)
	return s
}

func (s *standIn) stop() { _ = s.Close(); s.wg.Wait() }

func (s *standIn) lastAccept() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// list writes the stand-in to the catalog as a server of that name, in the
// place of what the name meant before, and returns when that was done.
func (w *world) list(s *standIn) time.Time {
	w.Helper()
	client, err := w.cluster.Client(w.ctx)
	w.must(err)
	_, err = client.Catalog().Register(&api.CatalogRegistration{
		Node: s.name, Address: s.at.Addr().String(),
		Service: &api.AgentService{ID: "consul", Service: "consul", Port: 8300, Meta: map[string]string{"grpc_port": fmt.Sprint(s.at.Port())}},
	}, nil)
	w.must(err)
	return time.Now()
}

// unlist takes a server out of the catalog.
func (w *world) unlist(name string) time.Time {
	w.Helper()
	client, err := w.cluster.Client(w.ctx)
	w.must(err)
	_, err = client.Catalog().Deregister(&api.CatalogDeregistration{Node: name}, nil)
	w.must(err)
	return time.Now()
}

// Servers change address, port and number, are drained and undrained, and
// proxies come and go, while connects go on all the time: none fails, and each
// reaches a server that was in the catalog then.
func TestServersChangeUnderAConnectStorm(t *testing.T) {
	w := newWorld(t, 1, time.Minute)
	pods := make([]*bed.Pod, 5)
	for i := range pods {
		var err error
		pods[i], err = w.host.NewPod(fmt.Sprintf("pod-%d", i))
		w.must(err)
	}
	const port = 7000
	a, b, c := w.standIn("a", pods[0], port), w.standIn("b", pods[1], port), w.standIn("c", pods[2], port)
	for _, s := range []*standIn{a, b, c} {
		w.list(s)
	}
	w.known(a, b, c)
	w.cli("drain", "consul-1") // which has no name to say

	storm := w.stormOverVIPs(30)
	time.Sleep(500 * time.Millisecond)
	// replaced ends a stand-in that the catalog no longer has. Connects that
	// began before lictord knew may still arrive.
	replaced := func(old *standIn, at time.Time) {
		t.Helper()
		time.Sleep(time.Second)
		if late := old.lastAccept().Sub(at); late > 3*inMapWithin { // the scheduler's share included
			t.Errorf("%s at %v was still connected to %v after the catalog had changed", old.name, old.at, late)
		}
		old.stop()
	}

	moved := w.standIn("a", pods[3], port) // a new address, of both for a while
	at := w.list(moved)
	w.known(moved, b, c)
	replaced(a, at)

	ported := w.standIn("b", pods[1], port+1)
	at = w.list(ported)
	w.known(moved, ported, c)
	replaced(b, at)

	d := w.standIn("d", pods[4], port)
	w.list(d)
	w.known(moved, ported, c, d)
	w.cli("drain", "d")
	for _, id := range w.registerMany("more", 20) {
		w.cli("deregister", id)
	}
	w.cli("undrain", "d")

	at = w.unlist("c")
	w.known(moved, ported, d)
	replaced(c, at)

	got, err := storm.End()
	w.must(err)
	t.Logf("%d connects, the longest %v: %v", got.Connects, got.Longest, got.Banners)
	if got.OK != got.Connects || len(got.Errnos) > 0 {
		t.Errorf("%d of %d connects succeeded; errors: %v", got.OK, got.Connects, got.Errnos)
	}
	if len(got.Peers) != 30 || len(got.Banners) != 4 {
		t.Errorf("peers %v, reached %v; want the 30 VIPs, and a, b, c and d", got.Peers, got.Banners)
	}
}

// stormOverVIPs registers proxies and connects to all their VIPs in turn.
func (w *world) stormOverVIPs(n int) *bed.Storm {
	w.Helper()
	var to []netip.AddrPort
	for _, id := range w.registerMany("storm", n) {
		p := w.assignment(id)
		to = append(to, netip.AddrPortFrom(netip.MustParseAddr(p.VIP), p.Port))
	}
	// Aborted, as a connection that is closed after a few bytes looks like a
	// refusal, after which the next connect goes elsewhere.
	storm, err := w.host.StartStorm(bed.StormOptions{To: to, Banner: true, Abort: true, Pause: 5 * time.Millisecond})
	w.must(err)
	return storm
}

// Real servers move to another address and to another port, one joins and one
// leaves. Each leaves the cluster before it ends, so the catalog is ahead of
// it, and no connect fails though the old address dies.
func TestRealServersMoveUnderAConnectStorm(t *testing.T) {
	w := newWorld(t, 3, 2*time.Minute)
	var to []netip.AddrPort
	for _, id := range w.registerMany("storm", 30) {
		p := w.assignment(id)
		to = append(to, netip.AddrPortFrom(netip.MustParseAddr(p.VIP), p.Port))
	}
	storm, err := w.host.StartStorm(bed.StormOptions{To: to, Abort: true, Pause: 5 * time.Millisecond})
	w.must(err)
	at := func(s *bed.Server) {
		t.Helper()
		w.must(w.cluster.WaitServers(w.ctx, len(w.cluster.Servers())))
		client := w.lictor.Client()
		defer client.Close()
		w.eventually(5*time.Second, func() error {
			servers, err := client.Servers(w.ctx)
			w.must(err)
			for _, known := range servers {
				if known.ID == s.Name && known.Listed && slices.Equal(known.Addresses, []string{s.Addr().String()}) && known.GRPCPort == s.GRPCPort() {
					return nil
				}
			}
			return fmt.Errorf("%s at %v is not known: %+v", s.Name, s.XDS(), servers)
		})
	}
	follower := func() *bed.Server {
		t.Helper()
		w.must(w.cluster.WaitLeader(w.ctx))
		leader, err := w.cluster.Leader(w.ctx)
		w.must(err)
		for _, s := range w.cluster.Servers() {
			if s != leader {
				return s
			}
		}
		return nil
	}
	s := follower()
	w.must(s.Move(w.ctx))
	at(s)

	s = follower()
	_ = s.Client().Agent().Leave() // its answer may not come before its end
	w.must(s.Process().Wait(w.ctx))
	w.must(s.Reconfigure(w.ctx, map[string]any{"ports": map[string]any{"grpc": 8512}}))
	at(s)

	s, err = w.cluster.AddServer(w.ctx)
	w.must(err)
	at(s)
	w.must(follower().Remove(w.ctx))
	w.must(w.cluster.WaitServers(w.ctx, 3))
	time.Sleep(time.Second)

	got, err := storm.End()
	w.must(err)
	t.Logf("%d connects, the longest %v", got.Connects, got.Longest)
	// Only getpeername says so, of a connection that was up and is closed: lictord
	// does that to those to a server that has left.
	cut := got.Errnos[unix.ENOTCONN.Error()]
	delete(got.Errnos, unix.ENOTCONN.Error())
	if closed := w.closed(); cut > closed {
		t.Errorf("%d connections ended before they were looked at, and lictord closed %d", cut, closed)
	}
	if got.OK+cut != got.Connects || len(got.Errnos) > 0 || len(got.Peers) != 30 {
		t.Errorf("%d of %d connects succeeded; errors: %v; peers: %v", got.OK, got.Connects, got.Errnos, got.Peers)
	}
}

// known waits until lictord lists these, beside the real server.
func (w *world) known(stand ...*standIn) {
	w.Helper()
	want := []string{}
	for _, s := range stand {
		want = append(want, s.name+" "+s.at.String())
	}
	slices.Sort(want)
	client := w.lictor.Client()
	defer client.Close()
	w.eventually(5*time.Second, func() error {
		servers, err := client.Servers(w.ctx)
		w.must(err)
		var have []string
		for _, s := range servers {
			if s.Listed && s.ID != "consul-1" {
				have = append(have, fmt.Sprintf("%s %s:%d", s.ID, s.Addresses[0], s.GRPCPort))
			}
		}
		if !slices.Equal(have, want) {
			return fmt.Errorf("listed are %v, not %v", have, want)
		}
		return nil
	})
}

// closed counts the connections that lictord says it has closed.
func (w *world) closed() (n int) {
	w.Helper()
	log, err := os.ReadFile(w.lictor.Process().Log)
	w.must(err)
	for _, found := range regexp.MustCompile(`component=drain .*\bclosed=(\d+)`).FindAllSubmatch(log, -1) {
		one, err := strconv.Atoi(string(found[1]))
		w.must(err)
		n += one
	}
	return n
}
