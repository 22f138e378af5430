package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// crash is a world in which lictord is killed.
type crash struct {
	*world
	pod    *bed.Pod // which owns all VIPs
	stable netip.AddrPort
	vips   vipMap
}

func newCrash(t *testing.T, servers int) *crash {
	w := newWorld(t, servers, 2*time.Minute)
	pod, err := w.host.NewPod("pod")
	w.must(err)
	c := &crash{world: w, pod: pod, vips: w.openVIPs()}
	c.stable = vipOf(c.promise("stable"))
	return c
}

func vipOf(r v1.Registered) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(r.VIP), r.Port)
}

func (c *crash) promise(id string) v1.Registered {
	c.Helper()
	return c.registerAs(id, v1.RegisterRequest{Netns: c.pod.Netns.Path})
}

// atEachStep does something again and again, lictord being killed before the
// first of its steps of a kind, before the second, and so on, until it lives
// through all of them, and so with each kind: what lictord does besides in some
// rounds takes no step's turn. inMap is the kind of step by which it comes into
// force. Each time, the data path is looked at while no daemon runs, and then
// everything after a restart. answered says that the caller was told success.
func (c *crash) atEachStep(inMap string, do func(round int) error, dead, restarted func(round int, answered bool)) {
	c.Helper()
	round := 0
	once := func(kind string, n int) steps {
		c.Helper()
		round++
		k := c.killAt(kind, n)
		err := do(round)
		saw := k.saw(c.world)
		if !saw.Killed && err != nil {
			c.Fatalf("round %d: nobody killed lictord, but: %v", round, err)
		}
		c.must(c.lictor.Kill())
		c.must(c.connects(c.pod.Node, c.stable, 0))
		dead(round, err == nil)
		c.verifyJournal()
		c.must(c.lictor.Start())
		c.must(c.lictor.WaitReady(c.ctx))
		c.must(c.connects(c.pod.Node, c.stable, 0))
		restarted(round, err == nil)
		if c.Failed() {
			c.Fatalf("round %d: answered %v, killed %v before the last of %q", round, err == nil, saw.Killed, saw.Calls)
		}
		return saw
	}
	whole := once("", 0)
	killed := map[string]int{}
	for _, kind := range slices.Compact(slices.Sorted(slices.Values(whole.Calls))) {
		for once(kind, killed[kind]+1).Killed {
			killed[kind]++
		}
	}
	c.Logf("killed in %d rounds, before steps of kinds: %v; the whole: %q", round, killed, whole.Calls)
	for _, step := range []string{"pwrite", "sync", inMap, "answer"} {
		if killed[step] == 0 {
			c.Errorf("lictord was never killed before a step of kind %q", step)
		}
	}
}

// verifyJournal checks the journal of a dead daemon.
func (c *crash) verifyJournal() {
	c.Helper()
	c.cli("journal", "verify", "--state-dir="+c.lictor.State)
}

// journaled gives the kind of the last event about a proxy, or of the last
// drain or undrain of a server; "" when there is none.
func (c *crash) journaled(id string, kinds ...string) (last string) {
	c.Helper()
	client := c.lictor.Client()
	defer client.Close()
	c.must(client.Journal(c.ctx, 0, false, func(e v1.JournalEvent) error {
		var about struct {
			ID    string
			Proxy struct{ ID string }
		}
		if err := json.Unmarshal(e.Data, &about); err != nil {
			return err
		}
		if slices.Contains(kinds, e.Kind) && (about.ID == id || about.Proxy.ID == id) {
			last = e.Kind
		}
		return nil
	}))
	return last
}

// agree complains unless journal, map, API and data path all say that a proxy
// is registered, or all that it is not. vip is where it was promised to be, if
// anybody was told.
func (c *crash) agree(id string, vip netip.AddrPort) (registered bool) {
	c.Helper()
	all := c.proxies()
	p, registered := all[id]
	if registered {
		vip = netip.AddrPortFrom(netip.MustParseAddr(p.VIP), p.Port)
	}
	if kept := c.journaled(id, "ProxyRegistered", "ProxyDeregistered") == "ProxyRegistered"; kept != registered {
		c.Errorf("%s: registered in the journal %v, by the API %v", id, kept, registered)
	}
	want := map[netip.AddrPort]bool{}
	for _, p := range all {
		want[netip.AddrPortFrom(netip.MustParseAddr(p.VIP), p.Port)] = true
	}
	have := c.vips.addresses4()
	if !maps.Equal(have, want) {
		c.Errorf("the map has the VIPs %v, the API %v", have, want)
	}
	if !vip.IsValid() {
		return registered
	}
	errno := unix.ECONNREFUSED
	if registered {
		errno = 0
	}
	if err := c.connects(c.pod.Node, vip, errno); err != nil {
		c.Errorf("%s, registered %v: %v", id, registered, err)
	}
	return registered
}

// What a registration answered is in force, at whatever step lictord is killed.
// One that was not answered is wholly there or wholly absent, and asking again
// gives a VIP that works.
func TestKilledAtEachStepOfARegistration(t *testing.T) {
	c := newCrash(t, 1)
	var told v1.Registered
	id := func(round int) string { return fmt.Sprintf("proxy-%d", round) }
	there := 0
	c.atEachStep("map update", func(round int) (err error) {
		client := c.lictor.Client()
		defer client.Close()
		told, err = client.Register(c.ctx, id(round), v1.RegisterRequest{Netns: c.pod.Netns.Path})
		return err
	}, func(_ int, answered bool) {
		if answered {
			c.must(c.connects(c.pod.Node, vipOf(told), 0))
		}
	}, func(round int, answered bool) {
		var vip netip.AddrPort
		if answered {
			vip = vipOf(told)
		}
		registered := c.agree(id(round), vip)
		if answered && !registered {
			t.Errorf("%s was promised %v, and is not registered", id(round), vip)
		}
		before := c.proxies()[id(round)]
		if answered && before.VIP != told.VIP {
			t.Errorf("%s was promised %s, and has %s", id(round), told.VIP, before.VIP)
		}
		again := c.promise(id(round))
		if registered && again.VIP != before.VIP {
			t.Errorf("%s had %s, asking again gives %s", id(round), before.VIP, again.VIP)
		}
		c.must(c.connects(c.pod.Node, vipOf(again), 0))
		if registered && !answered {
			there++
		}
	})
	if there == 0 {
		t.Error("of the registrations that were not answered none was kept, so that the wholly there was not seen")
	}
}

// A deregistration that was answered is in force, at whatever step lictord is
// killed: the VIP refuses. One that was not has left the VIP working, or
// refusing, and nothing in between.
func TestKilledAtEachStepOfADeregistration(t *testing.T) {
	c := newCrash(t, 1)
	const most = 40 // more than steps
	promised := map[int]netip.AddrPort{}
	id := func(round int) string { return fmt.Sprintf("proxy-%d", round) }
	for round := 1; round <= most; round++ {
		promised[round] = vipOf(c.promise(id(round)))
	}
	deregister := func(round int) error {
		client := c.lictor.Client()
		defer client.Close()
		return client.Deregister(c.ctx, id(round))
	}
	kept, gone := 0, 0
	c.atEachStep("map delete", deregister, func(round int, answered bool) {
		refused := c.connects(c.pod.Node, promised[round], unix.ECONNREFUSED)
		if refused != nil && (answered || c.connects(c.pod.Node, promised[round], 0) != nil) {
			t.Errorf("without a daemon, deregistration answered %v: %v", answered, refused)
		}
	}, func(round int, answered bool) {
		registered := c.agree(id(round), promised[round])
		switch {
		case answered && registered:
			t.Errorf("%s is registered, its caller was told that it is not", id(round))
		case registered:
			kept++
		case !answered:
			gone++
		}
		c.must(deregister(round))
		c.must(c.connects(c.pod.Node, promised[round], unix.ECONNREFUSED))
	})
	if kept == 0 || gone == 0 {
		t.Errorf("of the deregistrations that were not answered %d left the proxy and %d removed it, want some of each", kept, gone)
	}
}

// A drain that was answered holds, at whatever step lictord is killed. One that
// was not holds everywhere or nowhere.
func TestKilledAtEachStepOfADrain(t *testing.T) {
	c := newCrash(t, 2)
	server := c.cluster.Server(1)
	for i := range 4 {
		c.promise(fmt.Sprintf("proxy-%d", i))
	}
	call := func(do func(*v1.Client) error) error {
		client := c.lictor.Client()
		defer client.Close()
		return do(client)
	}
	// A VIP is placed once a second at most, so that the end of a drain takes a
	// moment to be in its list.
	settled := func() {
		t.Helper()
		c.eventually(5*time.Second, func() error {
			return expect("the number of VIPs that may lead to "+server.Name, c.vips.using(server.Addr()), len(c.vips.addresses4()))
		})
	}
	settled()
	c.atEachStep("map update", func(int) error {
		return call(func(client *v1.Client) error { return client.Drain(c.ctx, server.Name) })
	}, func(_ int, answered bool) {
		if answered && c.vips.using(server.Addr()) > 0 {
			t.Error("without a daemon, VIPs lead to a server whose drain was answered")
		}
	}, func(_ int, answered bool) {
		drained := c.isDrained(server.Name)
		if answered && !drained {
			t.Error("the drain that was answered is forgotten")
		}
		if kept := c.journaled(server.Name, "ServerDrained", "ServerUndrained") == "ServerDrained"; kept != drained {
			t.Errorf("drained in the journal %v, by the API %v", kept, drained)
		}
		if n := c.vips.using(server.Addr()); drained && n > 0 {
			t.Errorf("drained, and %d VIPs may lead there", n)
		}
		c.must(call(func(client *v1.Client) error {
			return errors.Join(client.Drain(c.ctx, server.Name), client.Undrain(c.ctx, server.Name))
		}))
		settled() // for the next round
	})
}

func (c *crash) isDrained(id string) bool {
	c.Helper()
	client := c.lictor.Client()
	defer client.Close()
	servers, err := client.Servers(c.ctx)
	c.must(err)
	i := slices.IndexFunc(servers, func(s v1.Server) bool { return s.ID == id })
	return i >= 0 && servers[i].Drained
}

// addresses4 are the IPv4 VIPs that have an entry.
func (m vipMap) addresses4() map[netip.AddrPort]bool {
	m.Helper()
	all := map[netip.AddrPort]bool{}
	for vip := range m.entries() {
		if vip.Addr().Is4() {
			all[vip] = true
		}
	}
	return all
}

// using counts the IPv4 VIPs that may lead to an address.
func (m vipMap) using(server netip.Addr) (n int) {
	m.Helper()
	addr := server.As16()
	for vip, value := range m.entries() {
		if vip.Addr().Is4() && bytes.Contains(value, addr[:]) {
			n++
		}
	}
	return n
}
