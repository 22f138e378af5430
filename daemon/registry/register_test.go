package registry

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/state"
)

func TestRegister(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.v6 = true
		h.restart()
		h.servers("s1", "s2", "s3")
		v := h.mustRegister("a")[0]
		if v.VIP != netip.MustParseAddr("239.77.0.1") || v.VIP6 != netip.MustParseAddr("ff05::7777:0:1") {
			t.Errorf("VIPs %s and %s", v.VIP, v.VIP6)
		}
		if len(v.Servers) != 3 || !v.Resolved || v.Reason != state.PlaceInitial {
			t.Errorf("view %+v", v)
		}
		e := h.inForce("a")
		if e.Owner != (kernel.Owner{Kind: kernel.OwnerNetns, ID: 7000}) || len(e.Ranked) != 3 {
			t.Errorf("entry %+v", e)
		}
		if len(h.maps.vips) != 2 {
			t.Errorf("%d entries, want one a family", len(h.maps.vips))
		}
		before := h.journal.count()
		again := h.mustRegister("a")[0]
		if again.VIP != v.VIP || again.Seq != v.Seq || h.journal.count() != before {
			t.Errorf("registered again: VIP %s seq %d, was %s seq %d; %d syncs", again.VIP, again.Seq, v.VIP, v.Seq, h.journal.count()-before)
		}
	})
}

// A registration and its placement are one sync, and nothing else follows.
func TestRegisterIsOneSync(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.servers("s1", "s2")
		h.settle()
		before := h.journal.count()
		h.mustRegister("a")
		h.settle()
		if n := h.journal.count() - before; n != 1 {
			t.Errorf("%d syncs", n)
		}
	})
}

// A call for what holds already repairs the entry before it answers.
func TestRegisterAgainWritesTheEntry(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		v := h.mustRegister("a")[0]
		h.maps.edit(func() { clear(h.maps.vips) })
		h.mustRegister("a")
		if _, ok := h.entry(v.VIP); !ok {
			t.Error("answered without an entry")
		}
	})
}

// Whether the former owner is gone is looked for beside the writer, which serves
// others meanwhile, and another owner who has come by then is not overlooked.
func TestRegisterLooksForTheFormerOwner(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.mustRegister("a")
		between := request("a")
		between.Owner.ID, between.Override = 7001, true
		req := request("a")
		var asked []uint64
		req.Owner.ID, req.OwnerGone = 7002, func(o state.Owner) bool {
			asked = append(asked, o.ID)
			if _, err := h.r.Register(t.Context(), between); err != nil {
				t.Error(err)
			}
			return o.ID == 7000
		}
		if _, err := h.r.Register(t.Context(), req); !errors.Is(err, ErrIdentity) {
			t.Errorf("Register: %v", err)
		}
		if e := h.inForce("a"); e.Owner.ID != 7001 || !slices.Equal(asked, []uint64{7000, 7001}) {
			t.Errorf("owner in the map %d; asked about %d", e.Owner.ID, asked)
		}
	})
}

// A namespace of this boot is another than that of the boot before, whose cookie it
// has by chance.
func TestRegisterAfterAReboot(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.mustRegister("a")
		h.reboot()
		req := request("a")
		req.Owner.BootID = h.boot
		if _, err := h.r.Register(h.ctx(), req); err != nil {
			t.Fatal(err)
		}
		if e := h.inForce("a"); e.Owner != (kernel.Owner{Kind: kernel.OwnerNetns, ID: 7000}) {
			t.Errorf("the owner in force is %+v", e.Owner)
		}
	})
}

func TestRegisterConflicts(t *testing.T) {
	gone := func(state.Owner) bool { return true }
	for _, tc := range []struct {
		name     string
		change   func(*Request)
		conflict bool
		owner    uint64 // afterwards
	}{
		{"other node", func(r *Request) { r.Node = "node-2" }, true, 7000},
		{"other namespace", func(r *Request) { r.Namespace = "x" }, true, 7000},
		{"other partition", func(r *Request) { r.Partition = "x" }, true, 7000},
		{"other owner", func(r *Request) { r.Owner.ID = 7001 }, true, 7000},
		{"other kind of owner", func(r *Request) { r.Owner = state.Owner{Kind: state.OwnerAny} }, true, 7000},
		{"other owner, the former gone", func(r *Request) { r.Owner.ID, r.OwnerGone = 7001, gone }, false, 7001},
		{"other owner, by root", func(r *Request) { r.Owner.ID, r.Override = 7001, true }, false, 7001},
		{"other identity, by root", func(r *Request) { r.Node, r.Override = "x", true }, true, 7000},
		{"same owner by a path", func(r *Request) { r.Owner.Path = "/run/netns/a" }, false, 7000},
	} {
		t.Run(tc.name, func(t *testing.T) {
			on(t, func(t *testing.T, h *host) {
				v, known := h.mustRegister("a")[0], true
				if err := h.r.Change(t.Context(), state.ProxyChanged{ID: "a", Known: &known}, nil); err != nil {
					t.Fatal(err)
				}
				req := request("a")
				tc.change(&req)
				w, err := h.r.Register(t.Context(), req)
				if errors.Is(err, ErrIdentity) != tc.conflict || !tc.conflict && err != nil {
					t.Fatalf("Register: %v", err)
				}
				if err == nil && w.VIP != v.VIP {
					t.Errorf("VIP %s, was %s", w.VIP, v.VIP)
				}
				if e := h.inForce("a"); e.Owner.ID != tc.owner {
					t.Errorf("owner in the map %d, want %d", e.Owner.ID, tc.owner)
				}
				// Who is new may be here before Consul has heard of it, and is waited for.
				if p := h.proxy("a"); p.Known != (tc.owner == 7000) {
					t.Errorf("owner %d is known to Consul: %t", tc.owner, p.Known)
				}
			})
		})
	}
}

// Root named the owner by a path; the pod itself registers later.
func TestRegisterFromWithin(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		req := request("a")
		req.Owner.Path = "/run/netns/a"
		if _, err := h.r.Register(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		h.mustRegister("a")
		if p := h.proxy("a"); p.Owner.Path != "/run/netns/a" {
			t.Errorf("the path is lost: %+v", p.Owner)
		}
	})
}

// What was looked at is not what is changed or ended when it is another by then,
// also one with the same owner.
func TestStill(t *testing.T) {
	yes := true
	mine := state.Owner{Kind: state.OwnerCgroup, ID: 8000, BootID: "boot-1"}
	for name, between := range map[string]func(*testing.T, *host){
		"registered anew": func(_ *testing.T, h *host) { h.mustDeregister("a"); h.mustRegister("a") },
		"another owner": func(t *testing.T, h *host) {
			if err := h.r.Change(t.Context(), state.ProxyChanged{ID: "a", Owner: &mine}, nil); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			on(t, func(t *testing.T, h *host) {
				h.servers("s1")
				h.mustRegister("a")
				seen := h.snapshot().State.Proxies["a"]
				between(t, h)
				want := h.snapshot().State.Proxies["a"]
				for what, err := range map[string]error{
					"change":     h.r.Change(t.Context(), state.ProxyChanged{ID: "a", Known: &yes, Owner: &state.Owner{Kind: state.OwnerAny}}, Still(seen)),
					"deregister": h.r.Deregister(t.Context(), "a", state.LeaveOwnerGone, Still(seen)),
				} {
					if !errors.Is(err, ErrReplaced) {
						t.Errorf("%s: %v", what, err)
					}
				}
				if p := h.snapshot().State.Proxies["a"]; p == nil || p.Owner != want.Owner || p.Known || p.Seq != want.Seq {
					t.Errorf("it is %+v, want %+v", p, want)
				}
			})
		})
	}
}

func TestDeregister(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.servers("s1")
		v := h.mustRegister("a")[0]
		denied := errors.New("denied")
		err := h.r.Deregister(t.Context(), "a", state.LeaveOperator, func(*state.Proxy) error { return denied })
		if !errors.Is(err, denied) {
			t.Fatalf("Deregister: %v", err)
		}
		h.inForce("a")
		h.mustDeregister("a")
		if _, ok := h.entry(v.VIP); ok {
			t.Error("answered while the VIP still redirects")
		}
		h.mustDeregister("a") // absent is success
		if w := h.mustRegister("a")[0]; w.VIP == v.VIP {
			t.Errorf("%s was given again at once", w.VIP)
		}
	})
}

// The smallest pool shows when a VIP comes back: after its rest, unless a
// socket still holds its slot.
func TestVIPRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, t.TempDir())
		h.start()
		h.r.cfg.Pools.V4 = netip.MustParsePrefix("239.77.0.0/30")
		vips := h.mustRegister("a", "b", "c")
		if _, err := h.register("d"); !errors.Is(err, ErrPoolFull) {
			t.Fatalf("a fourth of three: %v", err)
		}
		h.maps.edit(func() {
			for i := range uint32(3) {
				h.maps.states[i+1] = kernel.VIPState{Counters: kernel.Counters{Attempted: 2, Established: 1, Failed: 1}}
			}
		})
		h.mustDeregister("a")
		h.mustDeregister("b")
		time.Sleep(59 * time.Second)
		if _, err := h.register("d"); !errors.Is(err, ErrPoolFull) {
			t.Fatalf("while it rests: %v", err)
		}
		time.Sleep(2 * time.Second)
		if _, err := h.register("d"); !errors.Is(err, ErrPoolFull) {
			t.Fatalf("while a socket holds it: %v", err)
		}
		h.maps.edit(func() {
			for slot, vs := range h.maps.states {
				if slot == h.r.indexOf(vips[1].VIP) {
					vs.Counters.Closed = 1
					h.maps.states[slot] = vs
				}
			}
		})
		d := h.mustRegister("d")[0]
		if d.VIP != vips[1].VIP {
			t.Errorf("got %s, want %s, whose sockets are closed", d.VIP, vips[1].VIP)
		}
		views, err := h.r.Views(t.Context(), "d")
		if err != nil || views[0].Counters != (kernel.Counters{}) {
			t.Errorf("it has the counters of another proxy: %+v, %v", views, err)
		}
		h.stop()
	})
}

// indexOf is the index of a VIP of the IPv4 pool.
func (r *Registry) indexOf(vip netip.Addr) uint32 {
	for i := range r.cfg.Pools.Limit() {
		if v4, _ := r.cfg.Pools.At(i); v4 == vip {
			return i
		}
	}
	return 0
}

// With the clock set back, what rests seems to have left in the future.
func TestClockSetBack(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.servers("s1", "s2")
		h.mustRegister("a")
		h.settle()
		back := time.Duration(0)
		real := h.r.now
		if err := h.r.do(t.Context(), func() {
			h.r.now = func() time.Time { return real().Add(-back).Round(0) }
			back = 24 * time.Hour
		}); err != nil {
			t.Fatal(err)
		}
		h.servers("s2", "s3") // placed in the future, and yet placed anew
		h.settle()
		if p := h.proxy("a"); slices.Contains(p.Ranked, "s1") {
			t.Errorf("still on %v", p.Ranked)
		}
		h.inForce("a")
		h.mustDeregister("a")
		h.mustRegister("b")
		h.settle()
		// And forward: the journal's own time must not follow a placement's.
		if err := h.r.do(h.ctx(), func() { back = -24 * time.Hour }); err != nil {
			t.Fatal(err)
		}
		h.servers("s1", "s3")
		h.restart()
	})
}

// Callers that come while the disk syncs share the next sync.
func TestSharedSync(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.servers("s1", "s2", "s3")
		h.settle()
		h.sick(func() error { time.Sleep(20 * time.Millisecond); return nil })
		before, began := h.journal.count(), time.Now()
		views := h.mustRegister(names(64)...)
		if n := h.journal.count() - before; n > 2 {
			t.Errorf("64 callers: %d syncs", n)
		}
		if took := time.Since(began); took > 50*time.Millisecond {
			t.Errorf("took %s", took)
		}
		vips := map[netip.Addr]bool{}
		for _, v := range views {
			vips[v.VIP] = true
		}
		if len(vips) != 64 {
			t.Errorf("%d VIPs for 64 proxies", len(vips))
		}
		h.even(64, 3)
	})
}

// One proxy's calls come into force one after the other, in the order in which
// they came.
func TestCallsOfOneProxy(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.sick(func() error { time.Sleep(20 * time.Millisecond); return nil })
		var wg sync.WaitGroup
		call := func(f func()) {
			wg.Go(f)
			time.Sleep(time.Millisecond)
		}
		call(func() { h.mustRegister("a") })
		call(func() { h.mustDeregister("a") })
		call(func() { h.mustRegister("a") })
		call(func() { h.mustDeregister("a") })
		call(func() { h.mustRegister("a", "b") })
		wg.Wait()
		h.inForce("a")
		h.inForce("b")
	})
}

func TestStopped(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.sick(func() error { time.Sleep(time.Second); return nil })
		var wg sync.WaitGroup
		for _, id := range []string{"a", "b", "b"} { // the first under way, the second decided, the third not
			wg.Go(func() {
				if _, err := h.register(id); err != nil && !errors.Is(err, ErrStopped) {
					t.Errorf("register %s: %v", id, err)
				}
			})
			time.Sleep(time.Millisecond)
		}
		r := h.r
		h.stop()
		wg.Wait()
		if _, err := r.Register(t.Context(), request("c")); !errors.Is(err, ErrStopped) {
			t.Errorf("after the end: %v", err)
		}
		if _, err := r.Views(t.Context()); !errors.Is(err, ErrStopped) {
			t.Errorf("Views after the end: %v", err)
		}
		r.Touch(1)
		r.SetServers(specs("s1"))
		r.SetServers(specs("s2")) // never blocks
	})
}

func TestCancelled(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.sick(func() error { time.Sleep(time.Second); return nil })
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := h.r.Register(ctx, request("a")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Register: %v", err)
		}
		time.Sleep(2 * time.Second)
		h.inForce("a") // it was on its way
		if _, err := h.r.Register(ctx, request("b")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Register: %v", err)
		}
	})
}

func TestViews(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.servers("s1", "s2")
		h.mustRegister(names(5)...)
		now := h.maps.Now()
		first := h.proxy("proxy-3").Ranked[0]
		h.maps.edit(func() {
			h.maps.states[h.r.s.Proxies["proxy-3"].Index] = kernel.VIPState{
				WaitUntil: now + time.Second,
				Holds:     []kernel.Hold{{Slot: h.r.s.Slots[first].Slot, Reason: kernel.HoldBounced, At: now}},
				Counters:  kernel.Counters{Established: 4, Closed: 4},
			}
		})
		all, err := h.r.Views(t.Context())
		if err != nil || len(all) != 5 {
			t.Fatalf("%d views, %v", len(all), err)
		}
		one, err := h.r.Views(t.Context(), "proxy-3")
		if err != nil {
			t.Fatal(err)
		}
		if v := one[0]; !v.Waiting || len(v.Held) != 1 || v.Held[0] != first || v.Counters.Established != 4 {
			t.Errorf("view %+v", v)
		}
		if _, err := h.r.Views(t.Context(), "proxy-3", "nobody"); !errors.Is(err, ErrNotRegistered) {
			t.Errorf("Views of nobody: %v", err)
		}
		snap := h.snapshot()
		if snap.First["s1"]+snap.First["s2"] != 5 || len(snap.Indexes) != 5 || len(snap.Slots) != 2 {
			t.Errorf("snapshot %+v", snap)
		}
	})
}
