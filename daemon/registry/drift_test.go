package registry

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/daemon/reconcile"
	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/state"
)

func TestDrift(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.servers("s1", "s2")
		views := h.mustRegister("a", "b", "c")
		h.settle()
		meddle := func() {
			h.maps.edit(func() {
				delete(h.maps.vips, h.r.der.Key(views[0].VIP))
				e := h.maps.vips[h.r.der.Key(views[1].VIP)]
				e.Owner = kernel.Owner{Kind: kernel.OwnerAny}
				h.maps.vips[e.Key] = e
				e.Key.Addr = netip.MustParseAddrPort("239.77.9.9:8702")
				h.maps.vips[e.Key] = e
				h.maps.meta.LastPromise = 1
			})
		}
		meddle()
		for range 3 {
			time.Sleep(reconcileEvery)
			for _, id := range []string{"a", "b", "c"} {
				h.inForce(id)
			}
			meddle()
		}
		time.Sleep(reconcileEvery)
		want := map[reconcile.Drift]uint64{reconcile.DriftMissing: 4, reconcile.DriftChanged: 2 * 4, reconcile.DriftUnknown: 4}
		for kind, n := range want {
			if got := h.r.Drift()[kind]; got != n {
				t.Errorf("%s: counted %d, want %d", kind, got, n)
			}
		}
		if n := h.logs.count("differed from the state"); n != 1 {
			t.Errorf("said %d times while it went on", n)
		}
		if h.meta().LastPromise != h.snapshot().State.Seq {
			t.Errorf("the kernel remembers %+v", h.meta())
		}
		time.Sleep(reconcileEvery)
		meddle()
		time.Sleep(reconcileEvery)
		if n := h.logs.count("differed from the state"); n != 2 {
			t.Errorf("said %d times of two", n)
		}
		h.maps.edit(func() { h.maps.meta.LastPromise = 1 }) // and nothing else
		time.Sleep(reconcileEvery)
		if h.meta().LastPromise != h.snapshot().State.Seq {
			t.Errorf("the kernel remembers %+v", h.meta())
		}
	})
}

// Nothing is answered that is not in the map, also not to a caller who asks again.
func TestMapNotWritable(t *testing.T) {
	broken := errors.New("no memory")
	on(t, func(t *testing.T, h *host) {
		h.servers("s1", "s2")
		v := h.mustRegister("a")[0]
		h.settle()
		h.maps.failing(broken)
		for range 2 {
			if err := h.r.Deregister(t.Context(), "a", state.LeaveOperator, nil); !errors.Is(err, broken) {
				t.Errorf("deregister, with its entry there: %v", err)
			}
			if err := h.r.Drain(t.Context(), "s1", "uid 0", true); !errors.Is(err, broken) {
				t.Errorf("drain: %v", err)
			}
		}
		if _, err := h.register("b"); !errors.Is(err, broken) {
			t.Errorf("register: %v", err)
		}
		h.maps.failing(nil)
		h.mustDeregister("a")
		if _, ok := h.entry(v.VIP); ok {
			t.Error("answered while the VIP still redirects")
		}
		h.mustRegister("b")
		h.inForce("b")
	})
}

// A map that could not be written is written as soon as it can be.
func TestMapWritableAgain(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.servers("s1", "s2", "s3")
		h.mustRegister(names(9)...)
		h.settle()
		h.maps.failing(errors.New("no memory"))
		h.servers("s1", "s2")
		if err := h.r.Drain(t.Context(), "s2", "uid 0", true); err == nil {
			t.Error("answered while it is not in the map")
		}
		promised := h.snapshot().State.Seq
		h.maps.failing(nil)
		time.Sleep(tickEvery + time.Millisecond)
		if h.meta().LastPromise != promised {
			t.Errorf("the kernel remembers %+v, promised is %d", h.meta(), promised)
		}
		for _, id := range names(9) {
			if e := h.inForce(id); len(e.Ranked) != 1 {
				t.Errorf("entry %+v", e)
			}
		}
	})
}

// Journals come and go: what the kernel has promised stays promised.
func TestKernelAheadOfItsJournal(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.v6 = true
		h.restart()
		h.servers("s1", "s2")
		h.mustRegister("a")
		h.settle()
		backup := t.TempDir()
		h.copyDisk(backup)
		b := h.mustRegister("b")[0]
		h.stop()
		h.dir = backup
		h.maps.edit(func() { // and one that is not ours
			h.maps.vips[kernel.VIPKey{Addr: netip.MustParseAddrPort("239.77.0.77:1"), Proto: 6}] = kernel.VIP{
				Key: kernel.VIPKey{Addr: netip.MustParseAddrPort("239.77.0.77:1"), Proto: 6}, Slot: 77,
			}
		})
		h.start()
		if h.meta().Journal != h.r.cfg.JournalUUID || h.meta().LastPromise != h.snapshot().State.Seq {
			t.Errorf("the kernel remembers %+v", h.meta())
		}
		p := h.proxy("adopted-" + b.VIP.String())
		if p.VIP != b.VIP || p.VIP6 != b.VIP6 || p.Owner.ID != b.Owner.ID || len(p.Ranked) != 2 {
			t.Errorf("adopted %+v, was %+v", *p, b.Proxy)
		}
		h.inForce(p.ID)
		h.inForce("a")
		if n := len(h.snapshot().State.Proxies); n != 2 {
			t.Errorf("%d proxies", n)
		}
		if len(h.maps.vips) != 4 {
			t.Errorf("%d entries", len(h.maps.vips))
		}
		if c := h.mustRegister("c")[0]; c.VIP == b.VIP {
			t.Error("the adopted VIP was given away")
		}
		if h.logs.count("ahead of the journal") != 1 {
			t.Error("nobody was told")
		}
		h.restart()
		if h.logs.count("ahead of the journal") != 1 {
			t.Error("told again")
		}
		h.restartOn(t.TempDir()) // a new journal
		if n := len(h.snapshot().State.Proxies); n != 3 {
			t.Errorf("%d proxies", n)
		}
	})
}

// After a reboot VIPs are as before, and deny until their owners are found.
func TestReboot(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.servers("s1", "s2")
		h.mustRegister("a", "b")
		before := h.proxy("a")
		h.reboot()
		e, ok := h.entry(before.VIP)
		if !ok || e.Owner.Kind != kernel.OwnerUnresolved || len(e.Ranked) != 2 {
			t.Errorf("entry %+v", e)
		}
		if h.meta().Journal != h.r.cfg.JournalUUID || h.meta().LastPromise == 0 {
			t.Errorf("the kernel remembers %+v", h.meta())
		}
		if h.drift() != 0 {
			t.Errorf("new maps count as drift: %v", h.r.Drift())
		}
		owner := state.Owner{Kind: state.OwnerNetns, ID: 9000, BootID: h.boot}
		if err := h.r.Change(t.Context(), state.ProxyChanged{ID: "a", Owner: &owner}, nil); err != nil {
			t.Fatal(err)
		}
		if e := h.inForce("a"); e.Owner.Kind != kernel.OwnerNetns || e.Owner.ID != 9000 {
			t.Errorf("entry %+v", e)
		}
		req := request("b")
		req.Owner = owner // another one than before: that of the other boot is gone
		if v, err := h.r.Register(t.Context(), req); err != nil || v.VIP != h.proxy("b").VIP {
			t.Errorf("%+v, %v", v, err)
		}
	})
}
