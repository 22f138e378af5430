package registry

import (
	"errors"
	"net/netip"
	"testing"
	"time"
)

// A VIP rests after its proxy left, however long the daemon had run by then, and
// goes on resting when it is restarted: one that has rested is given out before
// it, and when there is none, none is.
func TestVIPRestsInAnOldDaemonAndOverARestart(t *testing.T) {
	for name, restart := range map[string]bool{"it runs on": false, "restarted": true} {
		t.Run(name, func(t *testing.T) {
			on(t, func(t *testing.T, h *host) {
				pool := netip.MustParsePrefix("239.77.0.0/30")
				h.r.cfg.Pools.V4 = pool
				vips := h.mustRegister("a", "b", "c")
				time.Sleep(2 * restFor)
				of := map[string]netip.Addr{}
				for _, v := range vips {
					of[v.ID] = v.VIP
				}
				first, last := "", ""
				for id, vip := range of { // the first of the pool is the next to be given
					switch vip {
					case netip.MustParseAddr("239.77.0.1"):
						first = id
					case netip.MustParseAddr("239.77.0.3"):
						last = id
					}
				}
				h.mustDeregister(last)
				time.Sleep(restFor + time.Second)
				h.mustDeregister(first)
				if restart {
					h.restart()
					h.r.cfg.Pools.V4 = pool
				}
				if d := h.mustRegister("d")[0]; d.VIP != of[last] {
					t.Errorf("given %s, want %s, which has rested", d.VIP, of[last])
				}
				time.Sleep(restFor - 2*time.Second)
				if e, err := h.register("e"); !errors.Is(err, ErrPoolFull) {
					t.Errorf("given %s after a short rest: %v", e.VIP, err)
				}
				time.Sleep(3 * time.Second)
				if e := h.mustRegister("e")[0]; e.VIP != of[first] {
					t.Errorf("given %s, want %s, which has rested", e.VIP, of[first])
				}
			})
		})
	}
}
