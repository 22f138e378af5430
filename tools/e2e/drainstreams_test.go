package e2e

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// countsOf is what lictord says of a Consul server.
func (w *world) countsOf(id string) v1.Server {
	w.Helper()
	for _, s := range w.counts() {
		if s.ID == id {
			return s
		}
	}
	w.Fatalf("lictord knows no server %s", id)
	return v1.Server{}
}

// unlisted is an error while Consul lists a server for lictord, which forgets one
// that is not listed when its last connection has ended.
func (w *world) unlisted(id string) error {
	for _, s := range w.counts() {
		if s.ID == id && s.Listed {
			return fmt.Errorf("%s is listed", id)
		}
	}
	return nil
}

func (w *world) counts() []v1.Server {
	w.Helper()
	client := w.lictor.Client()
	defer client.Close()
	servers, err := client.Servers(w.ctx)
	w.must(err)
	return servers
}

// bounced adds up what servers refused; established, the connections made.
func (w *world) bounced() (n uint64) {
	w.Helper()
	for _, s := range w.counts() {
		n += s.Bounced
	}
	return n
}

func (w *world) established() (n uint64) {
	w.Helper()
	for _, s := range w.counts() {
		n += s.Established
	}
	return n
}

// registerAbsent tells Consul of n proxies that never connect, which makes room.
func (w *world) registerAbsent(n int) {
	w.Helper()
	for i := range n {
		_, err := w.cluster.Register(w.ctx, bed.Service{Name: "absent", ID: fmt.Sprintf("absent-%d", i), Addr: "10.66.255.1"})
		w.must(err)
	}
}

// A drain takes the live streams of real Envoys with it: they connect to another
// server and go on, no server refuses one, and no other stream is touched. The
// end of a drain moves nothing by force.
func TestADrainedServerIsLeftByItsStreams(t *testing.T) {
	const envoys = 9
	w := newWorld(t, 3, 2*time.Minute)
	m := newMesh(w, envoys, 27)
	victim := w.cluster.Server(1)
	served := m.on(victim)
	if len(served) == 0 {
		t.Fatalf("no Envoy is served by %s", victim.Name)
	}
	began := time.Now()
	w.cli("drain", victim.Name)
	took := time.Since(began)
	t.Logf("%d streams left %s within %v", len(served), victim.Name, took.Round(time.Millisecond))
	if took > 5*time.Second {
		t.Errorf("the drain took %v, want 5s", took)
	}
	if n := w.countsOf(victim.Name).Active; n != 0 {
		t.Errorf("%d connections are left when the command returns", n)
	}
	w.eventually(3*time.Second, func() error {
		on := 0
		for _, s := range w.cluster.Servers() {
			on += len(m.on(s))
		}
		return expect("number of Envoys with a stream", on, envoys)
	})
	if n := w.established(); n != uint64(envoys+len(served)) {
		t.Errorf("%d connections were made, want one for each Envoy and one for each that moved: %d", n, envoys+len(served))
	}
	if n := w.bounced(); n != 0 {
		t.Errorf("%d connections were refused", n)
	}
	before, made := m.change()
	for e := range m.envoys {
		w.must(e.WaitUpdates(w.ctx, before[e]+1))
	}
	t.Logf("all have a change after %v", time.Since(made).Round(time.Millisecond))

	n := w.established()
	w.cli("undrain", victim.Name)
	time.Sleep(3 * time.Second)
	if now := w.established(); now != n {
		t.Errorf("the end of the drain led to %d connections", now-n)
	}
	for _, line := range []string{"closing connections to a server that is to be left", "no connection to the server is left"} {
		if n := w.logged(line); n != 1 {
			t.Errorf("%q was logged %d times", line, n)
		}
	}
}

// A drain of many keeps its pace, over a restart of lictord too.
func TestADrainKeepsItsPace(t *testing.T) {
	const proxies = 75
	w := newWorld(t, 3, 2*time.Minute)
	w.registerAbsent(proxies)
	fleet := w.startFleet(proxies)
	w.must(fleet.WaitUp(w.ctx, proxies))
	victim := w.cluster.Server(0)
	was := w.countsOf(victim.Name).Active
	t.Logf("streams: %v", streams(fleet))

	began := time.Now()
	w.cli("drain", victim.Name, "--no-wait")
	if took := time.Since(began); took > time.Second {
		t.Errorf("--no-wait waited for %v", took)
	}
	w.eventually(5*time.Second, func() error {
		if left := w.countsOf(victim.Name).Active; left > was-5 {
			return fmt.Errorf("%d of %d are left", left, was)
		}
		return nil
	})
	w.must(w.lictor.Kill())
	left := w.streamsOn(victim)
	w.must(w.lictor.Start())
	w.must(w.lictor.WaitReady(w.ctx))
	again := time.Now()
	w.eventually(30*time.Second, func() error { return expect("number of connections left", w.countsOf(victim.Name).Active, 0) })
	took := time.Since(again)
	t.Logf("%d of %d had left when lictord was killed; the other %d took %v", int(was)-left, was, left, took.Round(time.Millisecond))
	// Five a second, the first at once; up to a second until it is looked.
	least := time.Duration(left-1) * time.Second / 5
	if took < least-time.Second || took > 2*least+3*time.Second {
		t.Errorf("%d connections were closed in %v, want about %v", left, took, least)
	}
	w.must(fleet.WaitUp(w.ctx, proxies))
	if n := refusals(fleet, 0); n != 0 {
		t.Errorf("%d streams were refused", n)
	}
}

// streamsOn counts the streams on a server without lictord.
func (w *world) streamsOn(s *bed.Server) int {
	w.Helper()
	n, err := w.cluster.XDSServers(w.host.Node)
	w.must(err)
	return n[s]
}

// Where the others have no room, a drain stops after the first that found none,
// says so, and leaves the rest where they are served.
func TestADrainWithoutRoomKeepsStreams(t *testing.T) {
	const proxies = 30 // ten a server, whose limit is eleven
	w := newWorld(t, 3, 2*time.Minute)
	fleet := w.startFleet(proxies)
	w.must(fleet.WaitUp(w.ctx, proxies))
	victim := w.cluster.Server(2)
	w.cli("drain", victim.Name)
	w.eventually(5*time.Second, func() error {
		return expect("what keeps connections", w.countsOf(victim.Name).Kept, "the other servers have no room")
	})
	time.Sleep(5 * time.Second)
	// Two fit, and two are on their way at most when the first is refused.
	if n := w.countsOf(victim.Name).Active; n < 6 || n > 8 {
		t.Errorf("%d of 10 streams are left on %s, want 6 to 8", n, victim.Name)
	}
	if n := w.logged("connections kept for now"); n != 1 {
		t.Errorf("that connections are kept was logged %d times", n)
	}
	w.cli("undrain", victim.Name)
	began := time.Now()
	w.must(fleet.WaitUp(w.ctx, proxies))
	t.Logf("all are up %v after the drain ended", time.Since(began).Round(time.Millisecond))
}

// A server that hangs, alive at TCP, keeps its streams open and says nothing. When
// Consul takes it from its list its streams are closed, long before HTTP/2's
// pings would notice.
func TestStreamsOfAServerThatHangsAreClosed(t *testing.T) {
	w := newWorld(t, 3, 2*time.Minute)
	m := newMesh(w, 9, 18)
	leader, err := w.cluster.Leader(w.ctx)
	w.must(err)
	var victim *bed.Server
	for _, s := range w.cluster.Servers() {
		if s != leader {
			victim = s
		}
	}
	served := m.on(victim)
	if len(served) == 0 {
		t.Fatalf("no Envoy is served by %s", victim.Name)
	}
	stopped := time.Now()
	w.must(victim.Stop())
	defer func() { w.must(victim.Cont()) }()
	before, _ := m.change()
	w.eventually(20*time.Second, func() error { return w.unlisted(victim.Name) })
	gone := time.Now()
	for _, e := range served {
		w.must(e.WaitUpdates(w.ctx, before[e]+1))
	}
	t.Logf("%s left the list %v after it stopped; its %d streams were up elsewhere %v later",
		victim.Name, gone.Sub(stopped).Round(time.Millisecond), len(served), time.Since(gone).Round(time.Millisecond))
	if took := time.Since(gone); took > 3*time.Second {
		t.Errorf("its streams were up elsewhere after %v, want 3s", took)
	}
	w.eventually(2*time.Second, func() error { return expect("number of streams left", len(m.on(victim)), 0) })
	if n := w.logged("why=gone connections=" + strconv.Itoa(len(served))); n != 1 {
		t.Errorf("that connections are closed was logged %d times", n)
	}
}
