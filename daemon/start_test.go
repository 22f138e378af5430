package daemon

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/daemon/reconcile"
	"github.com/lictor-mesh/lictor/daemon/registry"
	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/state"
)

// outside is what a starting registry reads and writes, and in which order.
type outside struct {
	steps []string
	seq   uint64
	vips  []kernel.VIP
	words map[uint32]kernel.VIPState
	meta  kernel.Meta
}

func (o *outside) step(format string, args ...any) {
	o.steps = append(o.steps, fmt.Sprintf(format, args...))
}

func (o *outside) Append(bodies ...state.Body) (events []state.Event, err error) {
	for _, b := range bodies {
		o.seq++
		events = append(events, state.Event{Seq: o.seq, Time: time.Now(), Body: b})
		what := ""
		if p, ok := b.(state.Placed); ok {
			what = fmt.Sprint(" ", p.Ranked, " ", p.Reason)
		}
		o.step("journal %s of %s%s", b.Kind(), b.ProxyID(), what)
	}
	return events, nil
}

func (*outside) SnapshotDue() bool          { return false }
func (*outside) Probe() error               { return nil }
func (*outside) Snapshot(state.State) error { return nil }

func (o *outside) VIPs() ([]kernel.VIP, error) {
	o.step("read the map")
	return o.vips, nil
}

func (o *outside) PutVIPs(vips []kernel.VIP) error {
	o.step("put %d", len(vips))
	return nil
}

func (o *outside) DeleteVIPs(keys []kernel.VIPKey) error {
	o.step("delete %d", len(keys))
	return nil
}

func (o *outside) VIPStates(slots []uint32) ([]kernel.VIPState, error) {
	out := make([]kernel.VIPState, len(slots))
	for i, slot := range slots {
		out[i] = o.words[slot]
		out[i].Slot = slot
	}
	return out, nil
}

func (*outside) ResetVIP(uint32) error             { return nil }
func (*outside) Sockets() ([]kernel.Socket, error) { return nil, nil }
func (*outside) ResetServer(uint16) error          { return nil }

func (o *outside) Meta() (kernel.Meta, error) { return o.meta, nil }

func (o *outside) SetMeta(m kernel.Meta) error {
	o.meta = m
	o.step("note event %d in the kernel", m.LastPromise)
	return nil
}

func (*outside) Now() time.Duration { return 2 * time.Hour }

func (*outside) JournalAppended(time.Duration) {}
func (*outside) Reconciled(time.Duration)      {}
func (*outside) Placed(state.PlaceReason)      {}

// A start reads the maps, journals what the kernel decided meanwhile, or holds
// and the journal does not know, and only then repairs what differs besides.
func TestWhatAStartDoesInWhichOrder(t *testing.T) {
	uuid := [16]byte{1}
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	pool := netip.MustParsePrefix("239.77.0.0/16")
	replayed := state.New()
	for i, b := range []state.Body{
		state.ServerSeen{Server: state.ServerSpec{ID: "s1", Slot: 1, Port: 8502, Addr4: netip.MustParseAddr("10.0.0.1")}},
		state.ServerSeen{Server: state.ServerSpec{ID: "s2", Slot: 2, Port: 8502, Addr4: netip.MustParseAddr("10.0.0.2")}},
		state.ProxyRegistered{Proxy: state.Registration{ID: "a", Index: 1, VIP: netip.MustParseAddr("239.77.0.1"), Owner: state.Owner{Kind: state.OwnerAny}}},
		state.Placed{ID: "a", Ranked: []string{"s1", "s2"}, Reason: state.PlaceInitial},
	} {
		replayed = state.Fold(replayed, state.Event{Seq: uint64(i) + 1, Time: now.Add(-time.Hour), Body: b})
	}
	der := reconcile.Deriver{Port: 8702, BootID: "boot"}
	entry := der.Desired(replayed, replayed.Proxies["a"], reconcile.Set(replayed))[0]
	stranger := entry
	stranger.Key, stranger.Slot = der.Key(netip.MustParseAddr("239.77.0.9")), 9
	moved := map[uint32]kernel.VIPState{1: { // from s1, which failed, to s2, where it has been for a while
		LastSlot: 2, LastAt: 2*time.Hour - time.Minute,
		Holds:    []kernel.Hold{{Slot: 1, Reason: kernel.HoldFailed, At: 2*time.Hour - time.Minute}},
		Counters: kernel.Counters{Attempted: 2, Established: 1, Failed: 1},
	}}
	for name, test := range map[string]struct {
		outside
		want []string
	}{
		"nothing happened": {
			outside{vips: []kernel.VIP{entry}, meta: kernel.Meta{Journal: uuid, LastPromise: 4}},
			[]string{"read the map", "note event 4 in the kernel"},
		},
		"the kernel moved a proxy, and somebody wrote to the map": {
			outside{vips: []kernel.VIP{entry, stranger}, words: moved, meta: kernel.Meta{Journal: uuid, LastPromise: 4}},
			[]string{"read the map", "journal Placed of a [s2 s1] connect-failed", "put 1", "delete 1", "note event 5 in the kernel"},
		},
		"the kernel is ahead of the journal": {
			outside{vips: []kernel.VIP{stranger}, meta: kernel.Meta{Journal: uuid, LastPromise: 5}},
			[]string{"read the map", "journal ProxyRegistered of adopted-239.77.0.9",
				"journal Placed of adopted-239.77.0.9 [s2 s1] initial", "put 2", "note event 6 in the kernel"},
		},
		"the kernel's journal was another one": {
			outside{vips: []kernel.VIP{entry, stranger}, meta: kernel.Meta{Journal: [16]byte{2}, LastPromise: 3}},
			[]string{"read the map", "journal ProxyRegistered of adopted-239.77.0.9",
				"journal Placed of adopted-239.77.0.9 [s2 s1] initial", "put 1", "note event 6 in the kernel"},
		},
		"a reboot": {
			outside{},
			[]string{"read the map", "put 1", "note event 4 in the kernel"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := test.outside
			o.seq = replayed.Seq
			r := registry.New(registry.Config{
				State: replayed.Clone(), Journal: &o, JournalUUID: uuid, Maps: &o, Observer: &o,
				Pools: registry.Pools{V4: pool}, Port: 8702, BootID: "boot", Seed: "host-1",
				Hold: func(kernel.HoldReason) time.Duration { return 15 * time.Second },
				Now:  func() time.Time { return now }, Logger: slog.New(slog.DiscardHandler),
			})
			if err := r.Start(); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(o.steps, test.want) {
				t.Errorf("it did\n%q, want\n%q", o.steps, test.want)
			}
		})
	}
}
