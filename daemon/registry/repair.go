package registry

import (
	"time"

	"github.com/lictor-mesh/lictor/daemon/reconcile"
)

// reconcile journals the kernel's own moves, also those of which the ring
// buffer lost the event, and then repairs what differs between the map and the
// state.
func (r *Registry) reconcile() {
	began := time.Now()
	r.follow(r.allSlots())
	if err := r.repair(); err != nil {
		r.log.Error("map of VIPs not brought in line with the state, next try at the next reconcile", "err", err)
		return
	}
	r.cfg.Observer.Reconciled(time.Since(began))
}

// repair makes the map equal to the state, and the kernel's record of the journal
// what was recorded. What somebody else changed is counted, and said once as long
// as it goes on.
func (r *Registry) repair() error {
	actual, err := r.cfg.Maps.VIPs()
	if err != nil {
		return err
	}
	meta, err := r.cfg.Maps.Meta()
	if err != nil {
		return err
	}
	changes := reconcile.Diff(r.der.All(r.s, r.set), actual)
	if changes.Empty() && meta == r.meta {
		r.drifting, r.unwritten = false, false
		return nil
	}
	if err := r.change(changes); err != nil {
		return err
	}
	if meta != r.meta {
		if err := r.written(r.cfg.Maps.SetMeta(r.meta)); err != nil {
			return err
		}
		changes.Drift[reconcile.DriftChanged]++
	}
	r.stats.reconciled(changes.Drift)
	if r.unwritten {
		r.unwritten = false
		r.log.Info("pinned maps written, after a failure", "put", len(changes.Put), "deleted", len(changes.Delete))
		return nil
	}
	if !r.drifting {
		r.drifting = true
		r.log.Warn("pinned maps differed from the state and are repaired; did something else write to them?",
			"put", len(changes.Put), "deleted", len(changes.Delete), "record", meta != r.meta)
	}
	return nil
}

// change puts before it deletes, so that nothing desired is missing meanwhile.
func (r *Registry) change(c reconcile.Changes) error {
	if len(c.Put) > 0 {
		if err := r.written(r.cfg.Maps.PutVIPs(c.Put)); err != nil {
			return err
		}
	}
	return r.remove(c.Delete)
}
