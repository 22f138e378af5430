package registry

import (
	"fmt"
	"maps"
	"slices"

	"github.com/lictor-mesh/lictor/daemon/placement"
	"github.com/lictor-mesh/lictor/state"
)

// tick does what has no event of its own.
func (r *Registry) tick() {
	if err := r.moves(r.takeTouched()); err != nil {
		r.log.Warn("kernel's moves not read, next try at the next reconcile", "err", err)
	}
	if !r.unsettled {
		return
	}
	if err := r.write(r.place(0)...); err != nil {
		r.log.Error("placed anew, but the map of VIPs is not written; it is repaired at the next reconcile", "err", err)
	}
}

func (r *Registry) takeTouched() []uint32 {
	r.touchedMu.Lock()
	defer r.touchedMu.Unlock()
	slots := slices.Collect(maps.Keys(r.touched))
	clear(r.touched)
	return slots
}

// moves journals where the kernel has moved the VIPs of the given slots. A slot
// whose move has still to settle is looked at again at the next tick.
func (r *Registry) moves(slots []uint32) error {
	if len(slots) == 0 {
		return nil
	}
	states, err := r.cfg.Maps.VIPStates(slots)
	if err != nil {
		return fmt.Errorf("read what the kernel wrote about %d VIPs: %w", len(slots), err)
	}
	now := r.cfg.Maps.Now()
	var moved []string
	for _, vs := range states {
		p := r.s.Proxies[r.byIndex[vs.Slot]]
		if p == nil {
			continue
		}
		placed := now - r.now().Sub(p.Placed)
		move, ok := placement.Moved(p, vs, r.slots, now, placed)
		if !ok {
			if placement.Unsettled(p, vs, r.slots, now, placed) {
				r.Touch(vs.Slot)
			}
			continue
		}
		r.decideNow(state.Placed{ID: p.ID, Ranked: move.Ranked, Reason: move.Reason, At: r.now().UTC()})
		r.log.Info("kernel moved a proxy", "proxy", p.ID, "server", move.Ranked[0], "reason", move.Reason)
		moved = append(moved, p.ID)
	}
	return r.write(moved...)
}
