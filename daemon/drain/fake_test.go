package drain

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/daemon/registry"
	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/state"
)

// host is a host of proxies that are connected to servers 1, 2 and so on, with
// its registry and its kernel. Its time goes on by a tick with each look.
type host struct {
	t       *testing.T
	state   state.State
	sockets []kernel.Socket
	vips    map[uint32]kernel.VIP
	words   map[uint32]*kernel.VIPState
	now     time.Duration
	walks   int
	reads   int // of the map of VIPs
	closed  []kernel.Socket
	log     bytes.Buffer
	c       *Closer
	given   bool // the servers are not Consul's list

	// back is where the proxy of a closed socket connects to: a server's slot, 0
	// for nowhere, -1 for being refused by all.
	back func(kernel.Socket) int
	// fail is what keeps a socket from being closed.
	fail func(kernel.Socket) error
}

// newHost gives each of the servers n proxies.
func newHost(t *testing.T, servers, n int) *host {
	h := &host{t: t, state: state.New(), vips: map[uint32]kernel.VIP{}, words: map[uint32]*kernel.VIPState{}, now: time.Hour}
	for i := 1; i <= servers; i++ {
		h.list(i)
	}
	for i := range servers * n {
		slot := uint32(i + 1)
		h.vips[slot] = kernel.VIP{Key: kernel.VIPKey{Addr: vipOf(slot), Proto: kernel.ProtoTCP}, Slot: slot}
		h.words[slot] = &kernel.VIPState{Slot: slot}
		h.connect(slot, i%servers+1)
	}
	h.back = func(s kernel.Socket) int { return int(s.Slot)%servers + 1 }
	h.place()
	h.restart()
	return h
}

func (h *host) restart() {
	h.c = New(h, h, !h.given, slog.New(slog.NewTextHandler(&h.log, nil)))
	h.c.destroy = h.destroy
}

func name(server int) string { return fmt.Sprintf("consul-%d", server) }
func addrOf(server int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(server)}), 8502)
}
func vipOf(slot uint32) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, 77, byte(slot >> 8), byte(slot)}), 8702)
}

func (h *host) list(server int) {
	spec := state.ServerSpec{ID: name(server), Slot: uint16(server), Addr4: addrOf(server).Addr(), Port: 8502}
	h.state.Servers[spec.ID] = &state.Server{ServerSpec: spec}
	h.state.Slots[spec.ID] = state.SlotTenure{Slot: spec.Slot}
}

// place lets every VIP lead to the servers that may be used.
func (h *host) place() {
	var ranked []kernel.Backend
	for id, s := range h.state.Servers {
		if _, drained := h.state.Drained[id]; !drained {
			ranked = append(ranked, kernel.Backend{Slot: s.Slot, Addr: netip.AddrPortFrom(s.Addr4, s.Port)})
		}
	}
	for slot, v := range h.vips {
		v.Ranked = ranked
		h.vips[slot] = v
	}
}

func (h *host) drain(server int) {
	h.state.Drained[name(server)] = state.Drain{By: "uid 0"}
	h.place()
}

func (h *host) undrain(server int) {
	delete(h.state.Drained, name(server))
	h.place()
}

func (h *host) connect(slot uint32, server int) {
	h.sockets = append(h.sockets, kernel.Socket{
		VIP: vipOf(slot), VIPSlot: slot, Server: addrOf(server), Slot: uint16(server),
		Cookie: uint64(h.now) + uint64(len(h.closed)<<16+len(h.sockets)), Established: true,
	})
	h.words[slot].LastAt = h.now
	h.words[slot].WaitUntil = 0
	h.words[slot].Counters.Established++
}

func (h *host) destroy(sockets []kernel.Socket) []error {
	errs := make([]error, len(sockets))
	for i, s := range sockets {
		if h.fail != nil {
			if errs[i] = h.fail(s); errs[i] != nil {
				continue
			}
		}
		h.sockets = slices.DeleteFunc(h.sockets, func(o kernel.Socket) bool { return o.Cookie == s.Cookie })
		h.closed = append(h.closed, s)
		h.words[s.VIPSlot].Counters.Closed++
		switch to := h.back(s); {
		case to > 0:
			h.connect(s.VIPSlot, to)
		case to < 0:
			h.words[s.VIPSlot].WaitUntil = h.now + time.Hour
		}
	}
	return errs
}

// look is a look of the closer's, and a tick; it returns how many were closed.
func (h *host) look() int {
	h.t.Helper()
	before := len(h.closed)
	if _, err := h.c.step(context.Background()); err != nil {
		h.t.Fatal(err)
	}
	h.now += tick
	return len(h.closed) - before
}

func (h *host) looks(n int) (closed int) {
	h.t.Helper()
	for range n {
		closed += h.look()
	}
	return closed
}

// on counts a server's connections.
func (h *host) on(server int) (n int) {
	for _, s := range h.sockets {
		if int(s.Slot) == server {
			n++
		}
	}
	return n
}

// said counts the lines of the log with a text.
func (h *host) said(text string) int { return strings.Count(h.log.String(), text) }

func (h *host) wantSaid(text string, times int) {
	h.t.Helper()
	if n := h.said(text); n != times {
		h.t.Errorf("%q is in the log %d times, want %d:\n%s", text, n, times, h.log.String())
	}
}

var errStop = errors.New("stopping")

func (h *host) Snapshot(ctx context.Context) (registry.Snapshot, error) {
	if ctx.Err() != nil {
		return registry.Snapshot{}, errStop
	}
	snap := registry.Snapshot{State: h.state.Clone(), Slots: map[string]uint16{}}
	for id, t := range h.state.Slots {
		snap.Slots[id] = t.Slot
	}
	return snap, nil
}

func (h *host) Servers() (map[uint16]kernel.Counters, error) {
	out := map[uint16]kernel.Counters{}
	for _, s := range h.sockets {
		c := out[s.Slot]
		c.Established++
		out[s.Slot] = c
	}
	return out, nil
}

func (h *host) Sockets() ([]kernel.Socket, error) {
	h.walks++
	return slices.Clone(h.sockets), nil
}

func (h *host) VIPs() (all []kernel.VIP, err error) {
	h.reads++
	for _, v := range h.vips {
		all = append(all, v)
	}
	return all, nil
}

func (h *host) VIPStates(slots []uint32) (all []kernel.VIPState, err error) {
	for _, slot := range slots {
		all = append(all, *h.words[slot])
	}
	return all, nil
}

func (h *host) Now() time.Duration { return h.now }
