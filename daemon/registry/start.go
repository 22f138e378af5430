package registry

import (
	"fmt"

	"github.com/lictor-mesh/lictor/daemon/reconcile"
	"github.com/lictor-mesh/lictor/kernel"
)

// Start brings the replayed state and the kernel's maps together, once, before
// Run. What the kernel decided while no daemon ran is evidence, and journaled
// first; what else differs is drift, and repaired. Without a writable journal
// it goes on, as redirects matter more than their record, unless there are VIPs
// to adopt: nothing is touched then.
func (r *Registry) Start() error {
	actual, err := r.cfg.Maps.VIPs()
	if err != nil {
		return fmt.Errorf("read the map of VIPs: %w", err)
	}
	meta, err := r.cfg.Maps.Meta()
	if err != nil {
		return fmt.Errorf("read the kernel's record of the journal: %w", err)
	}
	if err := r.adopt(meta, actual); err != nil {
		return err
	}
	// Counted now: an entry that is written anew because its proxy is placed
	// elsewhere below had not been changed by anybody.
	drift := reconcile.Diff(r.der.All(r.s, r.set), actual).Drift
	if _, err := r.learn(r.allSlots()); err != nil {
		return err
	}
	// What the last daemon had still to place. Evenness has time.
	r.place(0)
	r.flush()
	changes := reconcile.Diff(r.der.All(r.s, r.set), actual)
	if err := r.change(changes); err != nil {
		return err
	}
	if !changes.Empty() {
		r.log.Info("map of VIPs brought in line with the journal", "put", len(changes.Put), "deleted", len(changes.Delete))
	}
	if meta != (kernel.Meta{}) { // else the maps are new, as after a reboot
		r.stats.reconciled(drift)
	}
	return r.setMeta()
}

// flush journals what is pending, and waits for it. What cannot be journaled
// stays pending.
func (r *Registry) flush() {
	if r.pending.len() == 0 {
		return
	}
	events, err := r.append(r.pending.list())
	if err != nil {
		r.notWritable(err)
		return
	}
	r.pending.take()
	r.writable()
	r.stamp(events)
}
