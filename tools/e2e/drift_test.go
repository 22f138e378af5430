package e2e

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

const (
	drift    = `lictor_reconcile_drift_total{kind="%s"}`
	driftLog = "pinned maps differed from the state"
)

// Entries of the pinned map that somebody deletes, replaces by valid ones of
// another time, damages or brings back are repaired within seconds, counted by
// what was wrong with them, and logged once.
func TestWhatOthersWriteIntoTheMapIsRepaired(t *testing.T) {
	w := newWorld(t, 1, time.Minute)
	// Consul knows none of them: that it does is recorded once it is seen, and
	// the entry written anew, which would be before the repair that is wanted.
	deleted, replaced, stranger := w.owner("deleted"), w.owner("replaced"), w.owner("stranger")
	former := vipOf(w.registerAs("former", v1.RegisterRequest{Owner: v1.OwnerAny}))
	vips := w.openVIPs()
	brought := vips.entry(former)
	w.cli("deregister", "former")
	// An entry by which anybody may use the VIP was valid once, too.
	w.registerAs("replaced", v1.RegisterRequest{Owner: v1.OwnerAny})
	open := vips.entry(replaced.vip())
	w.registerAs("replaced", v1.RegisterRequest{Netns: replaced.pod.Netns.Path})
	w.must(w.connects(stranger.pod.Node, replaced.vip(), unix.EPERM))

	count := func() (missing, changed, unknown float64, lines int) {
		return w.metric(fmt.Sprintf(drift, "missing")), w.metric(fmt.Sprintf(drift, "changed")),
			w.metric(fmt.Sprintf(drift, "unknown")), w.logged(driftLog)
	}
	counted := func(missing, changed, unknown float64, lines int) func() error {
		return func() error {
			m, c, u, l := count()
			return expect("missing, changed, unknown and lines logged",
				fmt.Sprint(m, c, u, l), fmt.Sprint(missing, changed, unknown, lines))
		}
	}
	w.must(counted(0, 0, 0, 0)())

	w.must(vips.Delete(vips.keyOf(deleted.vip())))
	vips.put(replaced.vip(), open)
	vips.put(former, brought)
	w.eventually(10*time.Second, counted(1, 1, 1, 1))
	w.must(w.connects(deleted.pod.Node, deleted.vip(), 0))
	w.must(w.connects(replaced.pod.Node, replaced.vip(), 0))
	w.must(w.connects(stranger.pod.Node, replaced.vip(), unix.EPERM))
	w.must(w.connects(stranger.pod.Node, former, unix.ECONNREFUSED))

	// A damaged one lets nobody through meanwhile, whatever it says.
	damaged := vips.entry(replaced.vip())
	*vips.byte8(damaged, "owner_kind") ^= 0xff
	vips.put(replaced.vip(), damaged)
	if err := w.connects(stranger.pod.Node, replaced.vip(), unix.ECONNREFUSED); err != nil && counted(1, 1, 1, 1)() == nil {
		t.Error("a damaged entry:", err)
	}
	w.eventually(10*time.Second, func() error {
		return expect("changed", w.metric(fmt.Sprintf(drift, "changed")), 2)
	})
	w.must(w.connects(replaced.pod.Node, replaced.vip(), 0))
	w.must(w.connects(stranger.pod.Node, replaced.vip(), unix.EPERM))

	// The kernel's counts are the kernel's alone: that they are off is said at the
	// next start, and by how much.
	live := fmt.Sprintf(drift, "connections")
	w.must(expect("connections miscounted", w.metric(live), 0))
	w.must(w.lictor.Kill())
	w.miscount(3)
	w.must(w.lictor.Start())
	w.must(w.lictor.WaitReady(w.ctx))
	w.eventually(10*time.Second, func() error { return expect("connections miscounted", w.metric(live), 3) })
}

// owner is a pod that owns a VIP, and of which Consul knows nothing.
func (w *world) owner(name string) member {
	w.Helper()
	pod, err := w.host.NewPod(name)
	w.must(err)
	return member{pod: pod, Registered: w.registerAs(name, v1.RegisterRequest{Netns: pod.Netns.Path})}
}

// Somebody who goes on and on is counted each time, and logged once.
func TestAFightForTheMapIsLoggedOnce(t *testing.T) {
	w := newWorld(t, 1, time.Minute)
	m := w.join("web")
	vips := w.openVIPs()
	missing := fmt.Sprintf(drift, "missing")
	w.eventually(25*time.Second, func() error {
		if vips.entry(m.vip()) != nil {
			w.must(vips.Delete(vips.keyOf(m.vip())))
		}
		if n := w.metric(missing); n < 2 {
			return fmt.Errorf("missing is counted %v times, want 2", n)
		}
		return nil
	})
	w.eventually(10*time.Second, func() error { return w.connects(m.pod.Node, m.vip(), 0) })
	if n := w.logged(driftLog); n != 1 {
		t.Errorf("logged %d times, want once", n)
	}
}
