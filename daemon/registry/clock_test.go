package registry

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/kernel"
)

// small is a pool of seven VIPs.
var small = netip.MustParsePrefix("239.77.0.0/29")

// The wall clock is set, by a day back or a year forward, or there and back.
// What takes time takes as long as ever, and no promise ends early.
func TestTheClockIsSet(t *testing.T) {
	const day, year = 24 * time.Hour, 365 * 24 * time.Hour
	for _, jump := range []struct {
		name  string
		skews []time.Duration
	}{
		{"back a day", []time.Duration{-day}},
		{"forward a year", []time.Duration{year}},
		{"forward a year and right again", []time.Duration{year, 0}},
		{"back a day and right again", []time.Duration{-day, 0}},
	} {
		for _, stopped := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, stopped %v", jump.name, stopped), func(t *testing.T) {
				on(t, func(t *testing.T, h *host) { setClock(t, h, jump.skews, stopped) })
			})
		}
	}
}

func setClock(t *testing.T, h *host, skews []time.Duration, stopped bool) {
	h.r.cfg.Pools.V4 = small
	h.servers("s1", "s2")
	h.settle()
	vips := h.mustRegister("a", "b", "c")
	h.mustDeregister("a")
	for _, skew := range skews {
		if stopped {
			h.stop()
		}
		h.skew.Store(int64(skew))
		if stopped {
			h.start()
			h.r.cfg.Pools.V4 = small
		}
		// Something is journaled under this clock, and placed.
		h.servers("s1", "s3")
		h.settle()
		h.servers("s1", "s2")
		h.settle()
	}

	// What rests goes on resting: the other VIPs are given out first.
	limit := int(h.r.cfg.Pools.Limit())
	for i := range limit - 4 {
		if d := h.mustRegister(fmt.Sprintf("d%d", i))[0]; d.VIP == vips[0].VIP {
			t.Errorf("%s was given out again while there were others", d.VIP)
		}
	}
	if !stopped {
		if d, err := h.register("e"); !errors.Is(err, ErrPoolFull) {
			t.Errorf("given %v, %v, want none: what is left rests", d.VIP, err)
		}
	}
	time.Sleep(restFor)
	e := h.mustRegister("e")[0]
	if e.VIP != vips[0].VIP {
		t.Errorf("given %s, want %s, which has rested", e.VIP, vips[0].VIP)
	}

	// A server that goes is left within seconds, however far off the clock is.
	h.servers("s2", "s3")
	time.Sleep(2 * placeEvery)
	for _, id := range []string{"b", "c", "e"} {
		if p := h.proxy(id); p == nil || slices.Contains(p.Ranked, "s1") {
			t.Errorf("%s is %+v after s1 went", id, p)
		}
		h.inForce(id)
	}

	// A move of the kernel's is journaled, once.
	to := h.kernelMoves("b", kernel.HoldFailed)
	time.Sleep(2 * reconcileEvery)
	if p := h.proxy("b"); p.Ranked[0] != to {
		t.Errorf("b is on %v, the kernel moved it to %s", p.Ranked, to)
	}
	n := h.journal.count()
	time.Sleep(2 * reconcileEvery)
	if more := h.journal.count() - n; more > 0 {
		t.Errorf("%d commits with nothing to say", more)
	}

	// A disk that recovers is written again within moments.
	h.sick(func() error { return errors.New("no space left") })
	if _, err := h.register("b2"); err == nil {
		t.Error("registered on a full disk")
	}
	h.sick(nil)
	h.servers("s1", "s2", "s3")
	time.Sleep(2 * retryEvery)
	if err := h.r.JournalProblem(); err != nil {
		t.Errorf("the disk is well, and still: %v", err)
	}

	// The journal's time never goes back.
	h.stop()
	var last time.Time
	for _, e := range h.events() {
		if e.Time.Before(last) {
			t.Fatalf("event %d is of %s, the one before it of %s", e.Seq, e.Time, last)
		}
		last = e.Time
	}
}
