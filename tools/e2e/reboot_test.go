package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// After a reboot pins, pods and namespaces are gone and their numbers mean
// nothing. Every VIP is as it was; each denies until its owner is there again:
// found by its path, or come to register. One that is anybody's works at once.
func TestAfterARebootVIPsWaitForTheirOwners(t *testing.T) {
	w := newWorld(t, 3, time.Minute)
	own := w.join("own") // registers itself, from its namespace
	byNetns, err := w.host.NewPod("by-netns")
	w.must(err)
	byCgroup, err := w.host.NewPod("by-cgroup")
	w.must(err)
	anybody, err := w.host.NewPod("anybody")
	w.must(err)
	type owned struct {
		v1.Registered
		pod *bed.Pod
	}
	all := map[string]*owned{
		"netns":  {w.registerAs("netns", v1.RegisterRequest{Netns: byNetns.Netns.Path}), byNetns},
		"cgroup": {w.registerAs("cgroup", v1.RegisterRequest{Cgroup: byCgroup.Cgroup}), byCgroup},
		"any":    {w.registerAs("any", v1.RegisterRequest{Owner: v1.OwnerAny}), anybody},
		"own":    {own.Registered, own.pod},
	}
	connects := func(name string, want unix.Errno) error {
		o := all[name]
		if err := w.connects(o.pod.Node, netip.AddrPortFrom(netip.MustParseAddr(o.VIP), o.Port), want); err != nil {
			return fmt.Errorf("owner %s: %w", name, err)
		}
		return nil
	}
	for name := range all {
		w.must(connects(name, 0))
	}
	before := w.proxies()

	w.must(w.host.Reboot())
	w.must(w.lictor.Start())
	w.must(w.lictor.WaitReady(w.ctx))
	after := w.proxies()
	for id, p := range before {
		if now := after[id]; now.VIP != p.VIP || now.VIP6 != p.VIP6 || fmt.Sprint(now.Servers) != fmt.Sprint(p.Servers) {
			t.Errorf("%s has %s, %s and servers %v, before the reboot it had %s, %s and %v",
				id, now.VIP, now.VIP6, now.Servers, p.VIP, p.VIP6, p.Servers)
		}
		if want := p.Owner.Kind != "any"; (after[id].State == v1.ProxyNoOwner) != want {
			t.Errorf("%s is said to be %q", id, after[id].State)
		}
	}
	if len(after) != len(before) {
		t.Errorf("%d proxies after the reboot, %d before", len(after), len(before))
	}

	// Whoever was there first after the reboot is not the owner.
	first, err := w.host.NewPod("first")
	w.must(err)
	for _, o := range all {
		o.pod = first
	}
	w.must(errors.Join(
		connects("any", 0), connects("own", unix.EPERM), connects("netns", unix.EPERM), connects("cgroup", unix.EPERM)))
	if n := w.metric(fmt.Sprintf(denied, "owner-unresolved")); n != 3 {
		t.Errorf("%v connects to VIPs of unknown owners are counted, want 3", n)
	}

	// At its path the namespace is found, and the cgroup at its own.
	for _, name := range []string{"netns", "cgroup"} {
		all[name].pod, err = w.host.NewPod("by-" + name)
		w.must(err)
		w.eventually(10*time.Second, func() error { return connects(name, 0) })
	}
	if byNetns.Netns.Path != all["netns"].pod.Netns.Path || byCgroup.Cgroup != all["cgroup"].pod.Cgroup {
		t.Fatal("the pods are not at their former paths, so that nothing was proved")
	}

	// The one that registered itself does so again, from a namespace without a
	// path that anybody told, and is given what it had.
	all["own"].pod, err = w.host.NewPod("own-again")
	w.must(err)
	w.must(connects("own", unix.EPERM))
	if again := w.register(all["own"].pod.Node, own.proxy); again.VIP != own.VIP {
		t.Errorf("registered again it has %s, it was promised %s", again.VIP, own.VIP)
	}
	w.must(connects("own", 0))
	all["own"].pod = first
	w.must(connects("own", unix.EPERM))
	for _, p := range w.proxies() {
		if p.State == v1.ProxyNoOwner {
			t.Errorf("%s is still said to wait for its owner", p.ProxyID)
		}
	}
}
