package fleet

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"golang.org/x/sync/errgroup"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// One command drains a server on every host, live streams too; one ends it, and
// what was drained on one host stays drained there. A host that was away has
// what happened meanwhile, and no host gives up a drain because Consul is lost.
func TestADrainOfTheFleet(t *testing.T) {
	const hosts, each = 3, 4
	w := newWorld(t, hosts)
	for i := range 24 { // which never connect: they make room on the servers
		_, err := w.cluster.Register(w.ctx, bed.Service{Name: "absent", ID: fmt.Sprintf("absent-%d", i), Addr: "10.66.255.1"})
		w.must(err)
	}
	for _, h := range w.hosts {
		w.connect(h, each)
	}
	for _, h := range w.hosts {
		w.must(h.streams.WaitUp(w.ctx, each))
	}
	one, two, three := w.hosts[0], w.hosts[1], w.hosts[2]
	w.eventually(10*time.Second, "hosts that report", func() string { return w.reporting(two) }, "host-1 host-2 host-3")

	before := w.status(three).Journal.Seq
	began := time.Now()
	out := w.cli(one, "drain", "consul-2", "--fleet")
	t.Logf("drained for the fleet, as its hosts say, after %v:\n%s", time.Since(began).Round(time.Millisecond), out)
	if !strings.Contains(out, "3 of 3 hosts have applied it, 0 connections left") {
		t.Errorf("drain --fleet says:\n%s", out)
	}
	const byOne = "consul-2 by fleet: uid 0 on host-1"
	for _, h := range w.hosts {
		if got := w.drained(h); got != byOne {
			t.Errorf("drained on %s: %q", h.Name, got)
		}
		w.eventually(5*time.Second, "streams of "+h.Name, func() string { return fmt.Sprintf("%d, %d on consul-2", total(h), w.on(h, "consul-2")) },
			fmt.Sprintf("%d, 0 on consul-2", each))
	}
	for at, want := range map[string]bool{fmt.Sprint(before): false, "1ms": true} {
		state := w.cli(three, "journal", "state", "--at="+at, "--state-dir="+three.lictor.State)
		if strings.Contains(state, "for the whole fleet by uid 0 on host-1 since ") != want {
			t.Errorf("state at %s:\n%s", at, state)
		}
	}
	w.tellsWho(three, "uid 0 on host-1 drained consul-2 for the whole fleet at ")
	if said := w.refused(two, "undrain", "consul-2"); !strings.Contains(said, "--fleet") {
		t.Errorf("ending it on one host: %s", said)
	}

	// Host 3 is away; host 2 has a drain of its own.
	w.must(three.lictor.Term(w.ctx))
	w.eventually(time.Second, "hosts where lictord runs", func() string { return w.reporting(one) }, "host-1 host-2")
	w.cli(two, "drain", "consul-1", "--no-wait")
	w.cli(two, "undrain", "consul-2", "--fleet")
	w.eventually(5*time.Second, "drained on host-1", func() string { return w.drained(one) }, "")
	w.cli(one, "drain", "consul-3", "--fleet", "--no-wait")
	w.eventually(5*time.Second, "drained on host-2", func() string { return w.drained(two) },
		"consul-1 by uid 0, consul-3 by fleet: uid 0 on host-1")
	w.must(three.lictor.Start())
	const byThree = "consul-3 by fleet: uid 0 on host-1"
	w.eventually(10*time.Second, "drained on host-3 when it is back", func() string { return w.drained(three) }, byThree)
	w.cli(two, "undrain", "consul-1")

	// No Consul at all, for a lictord that runs and for one that starts.
	for _, s := range w.cluster.Servers() {
		w.must(s.Kill())
	}
	w.must(one.lictor.Kill())
	w.must(one.lictor.Start())
	w.must(one.lictor.WaitSocket(w.ctx))
	for _, h := range w.hosts {
		w.eventually(15*time.Second, "fleet on "+h.Name, func() string { return string(w.status(h).Fleet.State) }, string(v1.FleetCut))
	}
	w.allDrained(time.Second, byThree)
	if said := w.refused(one, "undrain", "consul-3", "--fleet"); !strings.Contains(said, "no Consul server answers") {
		t.Errorf("without Consul: %s", said)
	}
	var group errgroup.Group
	for _, s := range w.cluster.Servers() { // none is ready without another
		group.Go(func() error { return s.Restart(w.ctx) })
	}
	w.must(group.Wait())
	w.must(w.cluster.WaitLeader(w.ctx))
	w.allDrained(0, byThree)
	w.eventually(20*time.Second, "fleet on host-1", func() string { return string(w.status(one).Fleet.State) }, string(v1.FleetOn))
	w.cli(one, "undrain", "consul-3", "--fleet")
	w.allDrained(20*time.Second, "")
	w.eventually(20*time.Second, "hosts that report", func() string { return w.reporting(two) }, "host-1 host-2 host-3")
}

// tellsWho checks that the history of a host's proxy that was moved off consul-2
// says who wanted it.
func (w *world) tellsWho(h *host, who string) {
	w.Helper()
	moved := 0
	client := h.lictor.Client()
	defer client.Close()
	proxies, err := client.Proxies(w.ctx)
	w.must(err)
	for _, p := range proxies {
		out := w.cli(h, "history", p.ProxyID)
		first, _, _ := strings.Cut(out, "\n")
		if !strings.Contains(first, "moved once") {
			continue
		}
		if moved++; moved == 1 {
			w.Logf("lictor history:\n%s", out)
		}
		if !strings.Contains(first, p.ProxyID+" is on "+p.Servers[0].ID) || !strings.Contains(first, who) {
			w.Errorf("history begins: %s", first)
		}
	}
	if moved == 0 {
		w.Errorf("no proxy of %s was moved", h.Name)
	}
}

// A host whose token has no right to the KV store says so, and works; the others
// do without it. An operator with a right of their own needs no lictor for a drain.
func TestAHostWithoutTheRight(t *testing.T) {
	w := newWorld(t, 1)
	one := w.hosts[0]
	two := w.addHost(`key_prefix "lictor/" { policy = "deny" }`)
	w.eventually(10*time.Second, "fleet on host-2", func() string { return string(w.status(two).Fleet.State) }, string(v1.FleetOff))
	st := w.status(two)
	t.Logf("it says: %s", st.Fleet.Why)
	if !st.Ready || len(st.Problems) > 0 || !strings.Contains(st.Fleet.Why, `"lictor/drains/" read`) {
		t.Errorf("ready %v, problems %q, fleet %+v", st.Ready, st.Problems, st.Fleet)
	}
	if said := w.refused(two, "drain", "consul-2", "--fleet"); !strings.Contains(said, "consul kv put lictor/drains/") {
		t.Errorf("a drain from there: %s", said)
	}
	w.eventually(10*time.Second, "hosts that report", func() string { return w.reporting(one) }, "host-1")

	_, err := w.consul().KV().Put(&api.KVPair{Key: "lictor/drains/consul-2"}, nil)
	w.must(err)
	w.eventually(6*time.Second, "drained on host-1", func() string { return w.drained(one) }, "consul-2 by fleet: the key lictor/drains/consul-2")
	if got := w.drained(two); got != "" {
		t.Errorf("drained on host-2: %s", got)
	}
	_, err = w.consul().KV().Delete("lictor/drains/consul-2", nil)
	w.must(err)
	w.eventually(6*time.Second, "drained on host-1", func() string { return w.drained(one) }, "")
}

// The rights that the documentation names are enough, where everything else is
// denied; with them a host reports and follows drains, and cannot set one.
func TestTheDocumentedRights(t *testing.T) {
	doc, err := os.ReadFile("../../../daemon/fleet/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rules, ok := strings.Cut(string(doc), "```hcl\n")
	rules, _, closed := strings.Cut(rules, "```")
	if !ok || !closed {
		t.Fatal("daemon/fleet/README.md has no policy")
	}
	w := newBareWorld(t, bed.ClusterOptions{ACL: true})
	one := w.addHost(rules + `node_prefix "" { policy = "read" } service_prefix "" { policy = "read" }`)
	w.eventually(10*time.Second, "hosts that report", func() string {
		keys, _, _ := w.consul().KV().Keys("lictor/", "", nil)
		return strings.Join(keys, " ")
	}, "lictor/hosts/host-1")
	if st := w.status(one); st.Fleet.State != v1.FleetOn || st.Fleet.Why != "" || len(st.Problems) > 0 {
		t.Errorf("fleet %+v, problems %q", st.Fleet, st.Problems)
	}
	_, err = w.consul().KV().Put(&api.KVPair{Key: "lictor/drains/consul-2", Value: []byte(`{"by":"an operator"}`)}, nil)
	w.must(err)
	w.eventually(8*time.Second, "drained", func() string { return w.drained(one) }, "consul-2 by fleet: an operator")
	if said := w.refused(one, "undrain", "consul-2", "--fleet"); !strings.Contains(said, "key:write") {
		t.Errorf("undraining with these rights: %s", said)
	}
}
