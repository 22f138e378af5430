package registry

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/lictor-mesh/lictor/daemon/reconcile"
	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/state"
)

// Start brings the replayed state and the kernel's maps together, once, before
// Run. What the kernel decided while no daemon ran is evidence, and journaled
// first; what else differs is drift, and repaired. Without a writable journal
// it goes on: redirects matter more than their record.
func (r *Registry) Start() error {
	actual, err := r.cfg.Maps.VIPs()
	if err != nil {
		return fmt.Errorf("read the map of VIPs: %w", err)
	}
	if err := r.adopt(actual); err != nil {
		return err
	}
	if err := r.moves(r.allSlots()); err != nil {
		return err
	}
	if err := r.clearUnused(actual); err != nil {
		return err
	}
	changes := reconcile.Diff(r.desired(), actual)
	r.stats.reconciled(changes.Drift)
	if err := r.repair(changes); err != nil {
		return fmt.Errorf("repair the map of VIPs: %w", err)
	}
	if !changes.Empty() {
		r.log.Info("map of VIPs brought in line with the journal", "put", len(changes.Put), "deleted", len(changes.Delete))
	}
	return r.setMeta()
}

// adopt registers the VIPs that a kernel ahead of its journal holds: the
// journal was restored from a backup, or is another one, and proxies rely on
// what was promised to them. They get ids of their own, for an operator to see.
func (r *Registry) adopt(actual []kernel.VIP) error {
	meta, err := r.cfg.Maps.Meta()
	if err != nil {
		return fmt.Errorf("read the kernel's record of the journal: %w", err)
	}
	if meta.Journal == [16]byte{} || meta.Journal == r.cfg.JournalUUID && meta.LastPromise <= r.s.Seq {
		return nil
	}
	regs := map[uint32]*state.Registration{}
	for _, v := range actual {
		addr := v.Key.Addr.Addr()
		if r.byIndex[v.Slot] != "" || v.Key.Addr.Port() != r.cfg.Port || !r.cfg.Pools.Contains(addr) {
			continue
		}
		reg := regs[v.Slot]
		if reg == nil {
			reg = &state.Registration{Index: v.Slot, Owner: r.ownerOf(v.Owner)}
			regs[v.Slot] = reg
		}
		if addr.Is4() {
			reg.VIP = addr
		} else {
			reg.VIP6 = addr
		}
	}
	if len(regs) == 0 {
		return nil
	}
	var todo []state.Body
	for _, reg := range regs {
		reg.ID = adoptedID(reg)
		todo = append(todo, state.ProxyRegistered{Proxy: *reg})
	}
	slices.SortFunc(todo, func(a, b state.Body) int {
		return int(a.(state.ProxyRegistered).Proxy.Index) - int(b.(state.ProxyRegistered).Proxy.Index)
	})
	events, err := r.cfg.Journal.Append(todo...)
	if err != nil {
		return fmt.Errorf("journal %d VIPs that the kernel holds and the journal does not know: %w", len(todo), err)
	}
	var ids []string
	for _, e := range events {
		r.fold(e)
		ids = append(ids, e.Body.ProxyID())
	}
	r.placeNew(ids)
	r.log.Warn("kernel was ahead of the journal, which is another one or an older copy: its VIPs are kept as proxies named adopted-…; register the proxies they belong to anew, then deregister these",
		"vips", len(ids), "journal_seq", r.s.Seq, "kernel_seq", meta.LastPromise)
	return nil
}

func adoptedID(reg *state.Registration) string {
	addr := reg.VIP
	if !addr.IsValid() {
		addr = reg.VIP6
	}
	return AdoptedPrefix + addr.String()
}

// AdoptedPrefix begins the id of a VIP that was found in the kernel without a
// journaled proxy.
const AdoptedPrefix = "adopted-"

// ownerOf reads an owner back from an entry.
func (r *Registry) ownerOf(o kernel.Owner) state.Owner {
	switch o.Kind {
	case kernel.OwnerAny:
		return state.Owner{Kind: state.OwnerAny}
	case kernel.OwnerCgroup:
		return state.Owner{Kind: state.OwnerCgroup, ID: o.ID, Level: o.Level, BootID: r.cfg.BootID}
	default:
		return state.Owner{Kind: state.OwnerNetns, ID: o.ID, BootID: r.cfg.BootID}
	}
}

// clearUnused readies the slots of proxies whose registration was journaled and
// whose entry was not written before the crash.
func (r *Registry) clearUnused(actual []kernel.VIP) error {
	written := make(map[netip.Addr]bool, len(actual))
	for _, v := range actual {
		written[v.Key.Addr.Addr()] = true
	}
	var fresh []string
	for id, p := range r.s.Proxies {
		if len(p.Ranked) == 0 && !written[p.VIP] && !written[p.VIP6] {
			fresh = append(fresh, id)
		}
	}
	slices.Sort(fresh)
	for _, id := range fresh {
		if _, err := r.clear(r.s.Proxies[id].Index); err != nil {
			return err
		}
	}
	r.placeNew(fresh)
	return nil
}
