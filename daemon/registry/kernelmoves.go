package registry

import (
	"fmt"
	"maps"
	"slices"

	"github.com/lictor-mesh/lictor/daemon/placement"
)

// tick does what has no event of its own.
func (r *Registry) tick() {
	r.watchDisk(r.DiskDelay())
	r.follow(r.takeTouched())
	if r.unwritten {
		r.reconcile()
	}
}

func (r *Registry) takeTouched() []uint32 {
	r.touchedMu.Lock()
	defer r.touchedMu.Unlock()
	slots := slices.Collect(maps.Keys(r.touched))
	clear(r.touched)
	return slots
}

// follow places VIPs where the kernel has moved them. What is not read or not
// written now is at the next reconcile.
func (r *Registry) follow(slots []uint32) {
	moved, err := r.learn(slots)
	if err != nil {
		r.log.Warn("kernel's moves not read, next try at the next reconcile", "err", err)
		return
	}
	if err := r.write(moved...); err != nil {
		r.log.Error("kernel's moves not made first rank, next try at the next reconcile", "err", err)
	}
}

// learn takes over where the kernel has moved the VIPs of the given slots, and
// returns the ids of their proxies; their entries are to be written. A slot
// whose move has still to settle is looked at again at the next tick.
func (r *Registry) learn(slots []uint32) ([]string, error) {
	if len(slots) == 0 {
		return nil, nil
	}
	states, err := r.cfg.Maps.VIPStates(slots)
	if err != nil {
		return nil, fmt.Errorf("read what the kernel wrote about %d VIPs: %w", len(slots), err)
	}
	now := r.cfg.Maps.Now()
	var moved []string
	for _, vs := range states {
		p := r.s.Proxies[r.byIndex[vs.Slot]]
		if p == nil {
			continue
		}
		placed := now - r.age(p.Placed)
		move, ok := placement.Moved(p, vs, r.slots, now, placed)
		if !ok {
			if placement.Unsettled(p, vs, r.slots, now, placed) {
				r.Touch(vs.Slot)
			}
			continue
		}
		r.decidePlacement(p.ID, move.Ranked, move.Reason)
		r.log.Info("kernel moved a proxy", "proxy", p.ID, "server", move.Ranked[0], "reason", move.Reason)
		moved = append(moved, p.ID)
	}
	return moved, nil
}
