package drain

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/state"
)

// A drained server is left at five connections a second, and nobody else's
// connection is touched.
func TestADrainedServerIsLeft(t *testing.T) {
	h := newHost(t, 3, 20)
	if n := h.looks(10); n != 0 {
		t.Fatalf("%d closed before anything is drained", n)
	}
	h.drain(1)
	for second := range 4 {
		if n := h.looks(5); n != 5 {
			t.Errorf("%d closed in second %d, want 5", n, second)
		}
	}
	if n := h.on(1); n != 0 {
		t.Errorf("%d connections are left", n)
	}
	for _, s := range h.closed {
		if s.Slot != 1 {
			t.Errorf("closed one to server %d", s.Slot)
		}
	}
	if n := h.looks(50); n != 0 {
		t.Errorf("%d more closed", n)
	}
	h.wantSaid("closing connections to a server that is to be left", 1)
	h.wantSaid("no connection to the server is left", 1)
	h.wantSaid("closed=20", 1)
	h.wantSaid("kept", 0)
}

// Many are closed at a twentieth a second, and no two hosts in the same order.
func TestManyAreClosedByTheirShare(t *testing.T) {
	h := newHost(t, 2, 1000)
	h.back = func(kernel.Socket) int { return 2 }
	h.drain(1)
	if n := h.looks(5); n < 40 || n > 50 {
		t.Errorf("%d of 1000 closed in a second, want about 48", n)
	}
	sorted := true
	for i := 1; i < len(h.closed); i++ {
		sorted = sorted && h.closed[i-1].VIPSlot < h.closed[i].VIPSlot
	}
	if sorted {
		t.Error("closed in the order of the walk")
	}
}

// One that is gone is left ten times as fast, room or not.
func TestAGoneServerIsLeftFast(t *testing.T) {
	h := newHost(t, 2, 100)
	h.back = func(kernel.Socket) int { return -1 }
	delete(h.state.Servers, name(1))
	h.place()
	if n := h.look(); n != 20 {
		t.Errorf("%d of 100 closed in a tick, want 20", n)
	}
	if n := h.look(); n != 16 {
		t.Errorf("%d of 80 closed in the next, want 16", n)
	}
	if got := h.c.Kept("consul-1"); got != "" {
		t.Errorf("kept: %q", got)
	}
	h.looks(14)
	if n := h.on(1); n != 0 {
		t.Errorf("%d are left after 3.2 s", n)
	}
	h.wantSaid("why=gone", 1)
}

// Drained, and then no longer listed: it is gone.
func TestADrainedServerThatIsGone(t *testing.T) {
	h := newHost(t, 2, 101)
	h.drain(1)
	h.look()
	delete(h.state.Servers, name(1))
	if n := h.look(); n != 20 {
		t.Errorf("%d closed in a tick, want 20", n)
	}
	h.wantSaid("why=drained connections=101", 1)
	h.wantSaid("why=gone connections=100", 1)
}

// A server that is listed at another address is left at its old one.
func TestAMovedServerIsLeft(t *testing.T) {
	for name, move := range map[string]func(*state.Server){
		"another address": func(s *state.Server) { s.Addr4 = netip.MustParseAddr("10.9.9.9") },
		"another port":    func(s *state.Server) { s.Port = 8503 },
		"IPv6 alone":      func(s *state.Server) { s.Addr4, s.Addr6 = netip.Addr{}, netip.MustParseAddr("fd00::1") },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, 2, 3)
			h.back = func(kernel.Socket) int { return 2 }
			h.looks(3)
			move(h.state.Servers["consul-1"])
			h.place()
			if n := h.looks(int(patrolEvery/tick) + 10); n != 3 || h.on(1) != 0 {
				t.Errorf("%d closed, %d left", n, h.on(1))
			}
			h.wantSaid("why=moved", 1)
			h.wantSaid("no connection to the server is left", 1)
		})
	}
}

// Where the servers are what a name resolved to, only a drain closes anything.
func TestServersThatAreNotFromTheCatalog(t *testing.T) {
	h := newHost(t, 3, 3)
	h.given = true
	h.restart()
	delete(h.state.Servers, name(1))
	h.state.Servers[name(2)].Port = 8503
	h.place()
	if n := h.looks(100); n != 0 {
		t.Errorf("%d closed", n)
	}
	h.back = func(kernel.Socket) int { return 3 }
	h.drain(1)
	h.drain(2)
	h.looks(100)
	if h.on(1) != 0 || h.on(2) != 0 {
		t.Errorf("%d and %d are left on drained ones", h.on(1), h.on(2))
	}
	h.wantSaid("why=drained", 2)
}

// A server with addresses of both families has connections to either.
func TestBothFamiliesAreOneServer(t *testing.T) {
	h := newHost(t, 2, 3)
	srv := h.state.Servers["consul-1"]
	srv.Addr4, srv.Addr6 = netip.MustParseAddr("10.9.9.9"), srv.Addr4
	h.place()
	if n := h.looks(int(patrolEvery / tick)); n != 0 {
		t.Errorf("%d closed", n)
	}
}

// A proxy that is deregistered while it waits for room stops nobody.
func TestOneThatIsDeregistered(t *testing.T) {
	h := newHost(t, 2, 5)
	h.back = func(s kernel.Socket) int {
		if len(h.closed) == 1 {
			return -1
		}
		return 2
	}
	h.drain(1)
	h.looks(5)
	delete(h.vips, h.closed[0].VIPSlot)
	h.looks(20)
	if n := h.on(1); n != 0 {
		t.Errorf("%d are left", n)
	}
}

func TestNothingIsClosedThatHasNowhereToGo(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*host)
		kept   string
	}{
		"all are drained":      {func(h *host) { h.drain(1); h.drain(2) }, keptAlone},
		"the proxy is gone":    {func(h *host) { h.drain(1); clear(h.vips) }, keptOrphan},
		"the VIP is another's": {func(h *host) { h.drain(1); h.reslot() }, keptOrphan},
		"the map is not written": {func(h *host) {
			before := h.vips[1]
			h.drain(1)
			for slot, v := range h.vips {
				v.Ranked = before.Ranked
				h.vips[slot] = v
			}
		}, ""},
		"not established": {func(h *host) {
			h.drain(1)
			for i := range h.sockets {
				h.sockets[i].Established = false
			}
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, 2, 4)
			ranked := h.vips[1].Ranked
			if len(ranked) != 2 {
				t.Fatal(ranked)
			}
			c.change(h)
			if n := h.looks(100); n != 0 {
				t.Errorf("%d closed", n)
			}
			if got := h.c.Kept("consul-1"); got != c.kept {
				t.Errorf("kept: %q, want %q", got, c.kept)
			}
			if c.kept != "" {
				h.wantSaid("connections kept for now", h.said("closing connections"))
			}
		})
	}
}

// reslot gives every VIP to another proxy.
func (h *host) reslot() {
	for slot, v := range h.vips {
		v.Slot += 1000
		h.vips[slot] = v
	}
}

// The first refusals stop a drain; room on the other servers lets it go on.
func TestADrainStopsWhereThereIsNoRoom(t *testing.T) {
	h := newHost(t, 3, 20)
	room := 5
	h.back = func(kernel.Socket) int {
		if room--; room < 0 {
			return -1
		}
		return 2
	}
	h.drain(1)
	n := h.looks(100)
	if n < 6 || n > 7 {
		t.Errorf("%d closed, want the five that fit and at most two more", n)
	}
	if got := h.c.Kept("consul-1"); got != keptFull {
		t.Errorf("kept: %q", got)
	}
	h.wantSaid("connections kept for now", 1)

	room = 100
	for slot, w := range h.words { // those that wait find it
		if w.WaitUntil > 0 {
			h.connect(slot, 3)
		}
	}
	h.looks(100)
	if n := h.on(1); n != 0 {
		t.Errorf("%d are left", n)
	}
	if got := h.c.Kept("consul-1"); got != "" {
		t.Errorf("kept: %q", got)
	}
}

// A proxy that is refused for ever, by a dead token perhaps, does not stop a
// drain for ever.
func TestOneThatIsRefusedForEver(t *testing.T) {
	h := newHost(t, 2, 5)
	first := true
	h.back = func(kernel.Socket) int {
		if first {
			first = false
			return -1
		}
		return 2
	}
	h.drain(1)
	h.looks(int(waitsFor/tick) - 1)
	if h.on(1) == 0 {
		t.Error("the drain did not stop")
	}
	h.looks(20)
	if n := h.on(1); n != 0 {
		t.Errorf("%d are left", n)
	}
}

// Proxies that do not connect again hold others up, each for a while only.
func TestOnlyFewAreOnTheirWay(t *testing.T) {
	h := newHost(t, 2, 10)
	h.back = func(kernel.Socket) int { return 0 }
	h.drain(1)
	if n := h.looks(int(unsettledFor/tick) - 1); n != 2 {
		t.Errorf("%d closed, want 2 at a time", n)
	}
	h.looks(int(6 * unsettledFor / tick))
	if n := h.on(1); n != 0 {
		t.Errorf("%d are left", n)
	}
}

func TestUndrainEndsIt(t *testing.T) {
	h := newHost(t, 3, 20)
	h.drain(1)
	h.looks(5)
	h.undrain(1)
	before := h.on(1)
	if n := h.looks(50); n != 0 || h.on(1) != before {
		t.Errorf("%d closed after the drain ended", n)
	}
	h.wantSaid("the server is in use again", 1)
	h.wantSaid("closed=5", 1)
}

func TestARestartGoesOn(t *testing.T) {
	h := newHost(t, 3, 20)
	h.drain(1)
	h.looks(10)
	h.restart()
	h.looks(10)
	if n := h.on(1); n != 0 {
		t.Errorf("%d are left", n)
	}
	h.wantSaid("connections=10", 1)
}

// What cannot be closed keeps nothing else, is said once, and is tried again.
func TestWhatCannotBeClosed(t *testing.T) {
	h := newHost(t, 2, 4)
	stubborn := h.sockets[0]
	tries := 0
	for _, c := range []struct {
		err  error
		said int
	}{{kernel.ErrGone, 0}, {errors.New("enter its namespace: not found"), 1}} {
		tries = 0
		h.fail = func(s kernel.Socket) error {
			if s.Cookie == stubborn.Cookie {
				tries++
				return c.err
			}
			return nil
		}
		h.drain(1)
		h.looks(int(retryAfter / tick))
		if n := h.on(1); n != 1 || tries != 1 {
			t.Errorf("%d are left after %d tries, want one", n, tries)
		}
		h.looks(int(retryAfter / tick))
		if tries != 2 {
			t.Errorf("tried %d times, want 2", tries)
		}
		h.wantSaid("connection not closed", c.said)
		if got := h.c.Kept("consul-1"); (got != "") != (c.said > 0) {
			t.Errorf("kept: %q", got)
		}
		h.undrain(1)
		h.looks(int(retryAfter / tick))
	}
}

// Without a server to be left the sockets are walked every ten seconds only.
func TestIdleCostsLittle(t *testing.T) {
	h := newHost(t, 3, 5)
	h.looks(int(time.Minute / tick))
	if h.walks > 7 {
		t.Errorf("%d walks in a minute", h.walks)
	}
	if h.reads > 0 {
		t.Errorf("%d looks at where VIPs lead, and nobody is to leave", h.reads)
	}
	h.drain(1)
	h.looks(50)
	h.walks, h.reads = 0, 0
	h.looks(int(time.Minute / tick)) // drained and empty
	if h.walks > 7 {
		t.Errorf("%d walks in a minute of a drained server", h.walks)
	}
	if h.reads > 1 { // the last one's arrival
		t.Errorf("%d looks at where VIPs lead, and all have left", h.reads)
	}
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, 3, 4)
		h.drain(1)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- h.c.Run(ctx) }()
		time.Sleep(5 * time.Second)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		// The fake's own clock stands still, so those moved never settle: two.
		if n := len(h.closed); n != 2 {
			t.Errorf("%d closed", n)
		}
	})
}
