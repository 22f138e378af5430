package registry

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/state"
)

// registerAs registers for a network namespace as a user.
func (h *host) registerAs(uid uint32, netns uint64, id string) error {
	req := request(id)
	req.UID, req.Owner.ID = uid, netns
	_, err := h.r.Register(h.ctx(), req)
	return err
}

// A namespace cannot have all VIPs, however many ask at once; root may go on.
func TestProxiesOfANamespace(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		var wg sync.WaitGroup
		var had, refused atomic.Int32
		for n := range ownMost + 40 {
			wg.Go(func() {
				switch err := h.registerAs(1000, 7000, fmt.Sprint("p", n)); {
				case err == nil:
					had.Add(1)
				case errors.Is(err, ErrPoolFull) && strings.Contains(err.Error(), "has 256 proxies"):
					refused.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if had.Load() != ownMost || refused.Load() != 40 {
			t.Fatalf("%d were registered, %d refused", had.Load(), refused.Load())
		}
		h.restart() // the bound is no matter of this process
		for name, tc := range map[string]struct {
			uid   uint32
			netns uint64
			ok    bool
		}{
			"one more":           {1000, 7000, false},
			"by another user":    {1001, 7000, false},
			"by root":            {0, 7000, true},
			"another namespace":  {1000, 7001, true},
			"still one too many": {1000, 7000, false},
		} {
			if err := h.registerAs(tc.uid, tc.netns, name); (err == nil) != tc.ok {
				t.Errorf("%s: %v", name, err)
			}
		}
		var mine []string
		for id, p := range h.snapshot().State.Proxies {
			if p.Owner.ID == 7000 {
				mine = append(mine, id)
			}
		}
		if err := h.registerAs(1000, 7000, mine[0]); err != nil {
			t.Errorf("one that it has: %v", err)
		}
		// One that becomes its own is one more.
		after := request(mine[0])
		after.UID, after.Owner.ID = 1000, 7000
		if err := h.registerAs(0, 7002, "left"); err != nil {
			t.Fatal(err)
		}
		after.ID, after.OwnerGone = "left", func(state.Owner) bool { return true }
		if _, err := h.r.Register(h.ctx(), after); !errors.Is(err, ErrPoolFull) {
			t.Errorf("one that another left: %v", err)
		}
		h.mustDeregister(mine[0])
		h.mustDeregister(mine[1]) // root's made it one more than it may have
		if err := h.registerAs(1000, 7000, "in its place"); err != nil {
			t.Errorf("with room: %v", err)
		}
	})
}

// A loop of registrations and their ends cannot fill the journal: it has a burst,
// enough for what a namespace may have, and then one a second.
func TestChangesOfANamespace(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		loop := func() error {
			err := h.registerAs(1000, 7000, "loop")
			h.mustDeregister("loop") // always possible
			return err
		}
		for n := range changeBurst {
			if err := loop(); err != nil {
				t.Fatalf("registration %d: %v", n, err)
			}
		}
		if err := loop(); !errors.Is(err, ErrTooOften) || !strings.Contains(err.Error(), "ask again in 1 s") {
			t.Fatalf("after the burst: %v", err)
		}
		for _, other := range []struct {
			uid   uint32
			netns uint64
		}{{0, 7000}, {1000, 7001}} {
			if err := h.registerAs(other.uid, other.netns, fmt.Sprint("other", other)); err != nil {
				t.Errorf("%+v: %v", other, err)
			}
		}
		time.Sleep(changeEvery)
		if err := h.registerAs(1000, 7000, "later"); err != nil {
			t.Errorf("a second later: %v", err)
		}
		before := h.snapshot().State.Seq
		if err := h.registerAs(1000, 7000, "later"); err != nil || h.snapshot().State.Seq != before {
			t.Errorf("the same again, which changes nothing: %v", err)
		}
		if err := h.registerAs(1000, 7000, "too soon"); !errors.Is(err, ErrTooOften) {
			t.Errorf("a second one: %v", err)
		}
		change := request("later")
		change.UID, change.Envoy = 1000, &state.EnvoySettings{AdminBind: "127.0.0.1:19001"}
		if _, err := h.r.Register(h.ctx(), change); !errors.Is(err, ErrTooOften) || h.proxy("later").Envoy != nil {
			t.Errorf("a change of one that it has: %v", err)
		}
		time.Sleep(changeBurst * changeEvery)
		for n := range changeBurst {
			if err := loop(); err != nil {
				t.Fatalf("registration %d of the next burst: %v", n, err)
			}
		}
		time.Sleep(changeBurst * changeEvery)
		if err := h.registerAs(1000, 7001, "another"); err != nil || len(h.r.allowances) != 1 {
			t.Errorf("%d namespaces are remembered, %v", len(h.r.allowances), err)
		}
	})
}
