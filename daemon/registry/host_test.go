package registry

import (
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/lictor-mesh/lictor/daemon/reconcile"
	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/state/journal"
)

// host is a machine with a disk and a kernel, on which daemons come and go. It
// lives in a bubble of testing/synctest: its time is false, and whoever leaves
// a goroutine behind fails. Every daemon's end is checked, see stop.
type host struct {
	t    rapid.TB
	dir  string
	maps *fakeMaps
	boot string
	v6   bool
	seen *observer
	logs *buffer
	// fault is what the disk does at each commit; nil: nothing bad.
	fault atomic.Pointer[func() error]
	// skew is by how much the wall clock is wrong.
	skew atomic.Int64

	// Of the running daemon.
	life    *lifeline
	disk    *journal.Journal
	journal *fakeJournal
	r       *Registry
	cancel  func()
	ended   chan error
}

// on runs a test on a new host whose daemon has started.
func on(t *testing.T, test func(t *testing.T, h *host)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, t.TempDir())
		h.start()
		test(t, h)
		if h.r != nil {
			h.stop()
		}
	})
}

func newHost(t rapid.TB, dir string) *host {
	return &host{
		t: t, dir: dir, maps: newFakeMaps(), boot: "boot-1",
		seen: &observer{placed: map[state.PlaceReason]int{}}, logs: &buffer{},
	}
}

// meta is what the kernel remembers of the journal.
func (h *host) meta() kernel.Meta {
	m, _ := h.maps.Meta() // the fake's fails never
	return m
}

// start starts a daemon; it may be killed at once.
func (h *host) start() { h.startKilled(-1) }

// startKilled starts a daemon that dies after so many steps; it may not even
// come up.
func (h *host) startKilled(steps int) {
	h.t.Helper()
	j, s, err := journal.Open(h.ctx(), filepath.Join(h.dir, "state"), journal.Options{
		Now:    h.wall,
		NoSync: true, // a kill loses nothing that was written
		Fault: func() error {
			if fault := h.fault.Load(); fault != nil {
				return (*fault)()
			}
			return nil
		},
	})
	if err != nil {
		h.t.Fatal(err)
	}
	h.life = &lifeline{left: steps}
	h.maps.life = h.life
	h.disk, h.journal = j, &fakeJournal{Journal: j, life: h.life}
	pools := Pools{V4: netip.MustParsePrefix("239.77.0.0/16")}
	if h.v6 {
		pools.V6 = netip.MustParsePrefix("ff05::7777:0:0/96")
	}
	var uuid [16]byte
	if _, err := hex.Decode(uuid[:], []byte(strings.ReplaceAll(j.Meta().UUID, "-", ""))); err != nil {
		h.t.Fatal(err)
	}
	h.r = New(Config{
		State: s, Journal: h.journal, JournalUUID: uuid, Maps: h.maps, Pools: pools, Port: 8702,
		BootID: h.boot, Seed: "host-1", Observer: h.seen, Now: h.wall,
		Hold:   func(kernel.HoldReason) time.Duration { return 15 * time.Second },
		Logger: slog.New(slog.NewTextHandler(h.logs, nil)),
	})
	if err := h.r.Start(); err != nil {
		if !h.life.killed() {
			h.t.Fatal(err)
		}
		h.closeDisk()
		h.r = nil
		return
	}
	ctx, cancel := context.WithCancel(h.ctx())
	r, ended := h.r, make(chan error, 1)
	h.cancel, h.ended = cancel, ended
	go func() { ended <- r.Run(ctx) }()
}

// wall is the host's wall clock. It has no monotonic part: what is measured by
// it goes wrong when it is set.
func (h *host) wall() time.Time { return time.Now().Round(0).Add(time.Duration(h.skew.Load())) }

// stop ends the daemon as SIGTERM does, and checks what must hold then: the
// journal gives exactly the state that was, its invariants hold, and the map is
// what the state says.
func (h *host) stop() {
	h.t.Helper()
	h.cancel()
	if err := <-h.ended; err != nil {
		h.t.Errorf("Run: %v", err)
	}
	h.closeDisk()
	h.compare(h.r)
	h.r = nil
}

// kill ends the daemon without a chance to do anything.
func (h *host) kill() {
	h.life.mu.Lock()
	h.life.left, h.life.dead = 0, true
	h.life.mu.Unlock()
	h.reap()
}

// reap puts a killed daemon away.
func (h *host) reap() {
	if h.r == nil {
		return
	}
	h.cancel()
	<-h.ended // its error is that it could not journal
	h.closeDisk()
	h.r = nil
}

func (h *host) closeDisk() {
	h.t.Helper()
	if err := h.disk.Close(); err != nil {
		h.t.Error(err)
	}
}

// sick makes the disk do something at each commit; nil ends it.
func (h *host) sick(fault func() error) {
	if fault == nil {
		h.fault.Store(nil)
		return
	}
	h.fault.Store(&fault)
}

func (h *host) restart() {
	h.t.Helper()
	h.stop()
	h.start()
}

// reboot restarts the machine: nothing in the kernel is left.
func (h *host) reboot() {
	h.t.Helper()
	h.stop()
	h.maps = newFakeMaps()
	h.boot += "'"
	h.start()
}

// replayed is the state that the next daemon would start with.
func (h *host) replayed() state.State {
	h.t.Helper()
	j, s, err := journal.Open(h.ctx(), filepath.Join(h.dir, "state"), journal.Options{NoSync: true})
	if err != nil {
		h.t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		h.t.Fatal(err)
	}
	return s
}

// compare checks an ended daemon's state against the journal and the map.
func (h *host) compare(r *Registry) {
	h.t.Helper()
	replayed := h.replayed()
	if !r.s.Equal(replayed) {
		h.t.Errorf("the journal does not give the state that was:\nwas   %s\ngives %s", dump(r.s), dump(replayed))
	}
	if err := r.s.Check(); err != nil {
		h.t.Errorf("state: %v", err)
	}
	first := map[string]int{}
	for _, p := range r.s.Proxies {
		if len(p.Ranked) > 0 {
			first[p.Ranked[0]]++
		}
	}
	for id := range r.s.Slots {
		if r.loads.First(id) != first[id] {
			h.t.Errorf("%d proxies counted on %s, it has %d", r.loads.First(id), id, first[id])
		}
	}
	actual, _ := h.maps.VIPs()
	if diff := reconcile.Diff(r.der.All(r.s, r.set), actual); !diff.Empty() {
		h.t.Errorf("the map is not what the state says: %+v", diff)
	}
}

func dump(s state.State) string {
	data, err := s.MarshalJSON()
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// settle lets everything happen that is to happen soon.
func (h *host) settle() {
	time.Sleep(1500 * time.Millisecond)
	synctest.Wait()
}

func (h *host) register(id string) (View, error) {
	return h.r.Register(h.ctx(), request(id))
}

func (h *host) mustRegister(ids ...string) []View {
	h.t.Helper()
	views := make([]View, len(ids))
	var wg sync.WaitGroup
	for i, id := range ids {
		wg.Go(func() {
			v, err := h.register(id)
			if err != nil {
				h.t.Errorf("register %s: %v", id, err)
			}
			views[i] = v
		})
	}
	wg.Wait()
	return views
}

func (h *host) mustDeregister(id string) {
	h.t.Helper()
	if err := h.r.Deregister(h.ctx(), id, state.LeaveOperator, nil); err != nil {
		h.t.Fatalf("deregister %s: %v", id, err)
	}
}

// servers tells the daemon what the catalog lists, and waits.
func (h *host) servers(names ...string) {
	h.t.Helper()
	h.r.SetServers(specs(names...))
	synctest.Wait()
}

func (h *host) snapshot() Snapshot {
	h.t.Helper()
	snap, err := h.r.Snapshot(h.ctx())
	if err != nil {
		h.t.Fatal(err)
	}
	return snap
}

func (h *host) proxy(id string) *state.Proxy {
	h.t.Helper()
	p := h.snapshot().State.Proxies[id]
	if p == nil {
		h.t.Fatalf("proxy %s is not registered", id)
	}
	return p
}

// entry is the map's entry of an IPv4 VIP.
func (h *host) entry(vip netip.Addr) (kernel.VIP, bool) {
	h.maps.mu.Lock()
	defer h.maps.mu.Unlock()
	v, ok := h.maps.vips[kernel.VIPKey{Addr: netip.AddrPortFrom(vip, 8702), Proto: kernel.ProtoTCP}]
	return v, ok
}

// inForce fails the test unless connects to a proxy's VIP reach the first of its
// servers that may be used.
func (h *host) inForce(id string) kernel.VIP {
	h.t.Helper()
	snap := h.snapshot()
	p := snap.State.Proxies[id]
	if p == nil {
		h.t.Fatalf("proxy %s is not registered", id)
	}
	var want uint16
	for _, server := range p.Ranked {
		if reconcile.Usable(snap.State, server) {
			want = snap.Slots[server]
			break
		}
	}
	e, ok := h.entry(p.VIP)
	switch {
	case !ok:
		h.t.Errorf("proxy %s: no entry for %s", id, p.VIP)
	case e.Slot != p.Index || e.Owner.ID != p.Owner.ID && e.Owner.Kind != kernel.OwnerUnresolved:
		h.t.Errorf("proxy %s: entry %+v is not that of %+v", id, e, *p)
	case want != 0 && (len(e.Ranked) == 0 || e.Ranked[0].Slot != want):
		h.t.Errorf("proxy %s: entry leads to %+v, placed on %v", id, e.Ranked, p.Ranked)
	}
	return e
}

// drift is how many differences were repaired.
func (h *host) drift() uint64 {
	var sum uint64
	for _, n := range h.r.Drift() {
		sum += n
	}
	return sum
}

// copyDisk ends the daemon, copies its disk to dir, and starts it again.
func (h *host) copyDisk(dir string) {
	h.t.Helper()
	h.stop()
	if err := os.CopyFS(dir, os.DirFS(h.dir)); err != nil {
		h.t.Fatal(err)
	}
	h.start()
}

// restartOn restarts the daemon with another disk.
func (h *host) restartOn(dir string) {
	h.t.Helper()
	h.stop()
	h.dir = dir
	h.start()
}

func (h *host) ctx() context.Context { return context.Background() }

// events are all that the journal of an ended daemon holds.
func (h *host) events() []state.Event {
	h.t.Helper()
	var all []state.Event
	j, _, err := journal.Open(h.ctx(), filepath.Join(h.dir, "state"), journal.Options{NoSync: true})
	if err == nil {
		err = errors.Join(j.Read(0, func(e state.Event) error { all = append(all, e); return nil }), j.Close())
	}
	if err != nil {
		h.t.Fatal(err)
	}
	return all
}
