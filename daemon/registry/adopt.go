package registry

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/state"
)

// AdoptedPrefix begins the id of a VIP that was found in the kernel without a
// journaled proxy.
const AdoptedPrefix = "adopted-"

// adopt registers the VIPs that a kernel ahead of its journal holds: the
// journal was restored from a backup, or is another one, and proxies rely on
// what was promised to them. They get ids of their own, for an operator to see.
func (r *Registry) adopt(meta kernel.Meta, actual []kernel.VIP) error {
	known := meta.Journal == r.cfg.JournalUUID && meta.LastPromise <= r.s.Seq
	if meta.Journal == [16]byte{} || known {
		return nil
	}
	found := r.unknown(actual)
	if len(found) == 0 {
		return nil
	}
	todo := make([]state.Body, 0, len(found))
	for _, reg := range found {
		todo = append(todo, state.ProxyRegistered{Proxy: reg})
	}
	events, err := r.append(todo)
	if err != nil {
		return fmt.Errorf("journal %d VIPs that the kernel holds and the journal does not know: %w", len(todo), err)
	}
	for _, e := range events {
		r.fold(e)
	}
	r.log.Warn("kernel was ahead of the journal, which is another one or an older copy: its VIPs are kept as proxies named adopted-…; register the proxies they belong to anew, then deregister these",
		"vips", len(found), "journal_seq", r.s.Seq, "kernel_seq", meta.LastPromise)
	return nil
}

// unknown gives the VIPs of which the state knows nothing, by index. An entry
// that is not as the pools and the port say is not one of ours any more.
func (r *Registry) unknown(actual []kernel.VIP) []state.Registration {
	regs := map[uint32]state.Registration{}
	for _, v := range actual {
		_, taken := r.byIndex[v.Slot]
		vip, vip6 := r.cfg.Pools.At(v.Slot)
		if taken || v.Slot == 0 || v.Slot >= r.cfg.Pools.Limit() || v.Key != r.der.Key(vip) && v.Key != r.der.Key(vip6) {
			continue
		}
		addr := vip
		if !addr.IsValid() {
			addr = vip6
		}
		regs[v.Slot] = state.Registration{
			ID: AdoptedPrefix + addr.String(), Index: v.Slot, Owner: r.ownerOf(v.Owner), VIP: vip, VIP6: vip6,
		}
	}
	out := make([]state.Registration, 0, len(regs))
	for _, reg := range regs {
		out = append(out, reg)
	}
	slices.SortFunc(out, func(a, b state.Registration) int { return cmp.Compare(a.Index, b.Index) })
	return out
}

// ownerOf reads an owner back from an entry. One that was not resolved is
// nobody: it denies until root registers the proxy anew.
func (r *Registry) ownerOf(o kernel.Owner) state.Owner {
	switch o.Kind {
	case kernel.OwnerAny:
		return state.Owner{Kind: state.OwnerAny}
	case kernel.OwnerCgroup:
		return state.Owner{Kind: state.OwnerCgroup, ID: o.ID, Level: o.Level, BootID: r.cfg.BootID}
	case kernel.OwnerNetns:
		return state.Owner{Kind: state.OwnerNetns, ID: o.ID, BootID: r.cfg.BootID}
	default:
		return state.Owner{Kind: state.OwnerNetns}
	}
}
