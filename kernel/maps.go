package kernel

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
)

// Meta returns what SetMeta pinned.
func (k *Kernel) Meta() (Meta, error) {
	var w lictorMetaWords
	if err := k.objs.Meta.Lookup(uint32(0), &w); err != nil {
		return Meta{}, fmt.Errorf("read meta: %w", err)
	}
	return Meta{Journal: w.Journal, LastPromise: w.LastPromise}, nil
}

// SetMeta pins what the kernel is to remember of the journal.
func (k *Kernel) SetMeta(m Meta) error {
	w := lictorMetaWords{Journal: m.Journal, LastPromise: m.LastPromise}
	if err := k.objs.Meta.Update(uint32(0), w, ebpf.UpdateAny); err != nil {
		return fmt.Errorf("write meta: %w", err)
	}
	return nil
}

// VIPs returns every entry, in no order. One that is damaged has its key alone:
// it denies everybody.
func (k *Kernel) VIPs() ([]VIP, error) {
	var vips []VIP
	err := k.entries(func(key lictorVipKey, value *lictorVip) {
		if v := vipOf(key, value); !k.isProbe(v.Key) {
			vips = append(vips, v)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("read VIPs: %w", err)
	}
	return vips, nil
}

// entriesAtOnce is how many entries one system call reads: some 290 kB.
const entriesAtOnce = 1024

// entries calls fn for each entry of the hash, which it reads by batches where the
// kernel has them. What value points to is overwritten after fn.
func (k *Kernel) entries(fn func(key lictorVipKey, value *lictorVip)) error {
	var cursor ebpf.MapBatchCursor
	keys, values := make([]lictorVipKey, entriesAtOnce), make([]lictorVip, entriesAtOnce)
	for began := false; ; began = true {
		n, err := k.objs.Vips.BatchLookup(&cursor, keys, values, nil)
		last := errors.Is(err, ebpf.ErrKeyNotExist)
		switch {
		case errors.Is(err, ebpf.ErrNotSupported) && !began:
			return k.entriesOneByOne(fn)
		case err != nil && !last:
			return err
		}
		for i := range n {
			fn(keys[i], &values[i])
		}
		if last {
			return nil
		}
	}
}

func (k *Kernel) entriesOneByOne(fn func(key lictorVipKey, value *lictorVip)) error {
	var key lictorVipKey
	var value lictorVip
	it := k.objs.Vips.Iterate()
	for it.Next(&key, &value) {
		fn(key, &value)
	}
	return it.Err()
}

// PutVIPs writes whole entries. Writing the same again changes nothing. An
// entry that cannot be is refused, before any is written.
func (k *Kernel) PutVIPs(vips []VIP) error {
	keys, values := make([]lictorVipKey, len(vips)), make([]lictorVip, len(vips))
	for i, v := range vips {
		if err := k.check(v); err != nil {
			return fmt.Errorf("write VIP %v: %w", v.Key.Addr, err)
		}
		keys[i] = keyWords(v.Key)
		values[i] = vipWords(v, k.gen.Add(1))
	}
	return k.put(keys, values)
}

func (k *Kernel) put(keys []lictorVipKey, values []lictorVip) error {
	if len(keys) == 0 {
		return nil
	}
	_, err := k.objs.Vips.BatchUpdate(keys, values, nil)
	if !errors.Is(err, ebpf.ErrNotSupported) {
		return wrap(err, "write %d VIPs", len(keys))
	}
	for i := range keys {
		if err := k.objs.Vips.Put(keys[i], values[i]); err != nil {
			return fmt.Errorf("write VIP %v: %w", keyOf(keys[i]).Addr, err)
		}
	}
	return nil
}

func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}

// DeleteVIPs removes entries; one that is absent is a success.
func (k *Kernel) DeleteVIPs(keys []VIPKey) error {
	for _, key := range keys {
		err := k.objs.Vips.Delete(keyWords(key))
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("remove VIP %v: %w", key.Addr, err)
		}
	}
	return nil
}

// VIPState returns what the kernel wrote about a VIP.
func (k *Kernel) VIPState(slot uint32) (VIPState, error) {
	var w lictorVipWords
	if err := k.objs.VipState.Lookup(slot, &w); err != nil {
		return VIPState{}, fmt.Errorf("read state of VIP slot %d: %w", slot, err)
	}
	counters := countersOf(w.Count)
	w.Count = lictorCounters{}
	for _, m := range k.former[lictorMapVipState] {
		b, err := m.LookupBytes(slot)
		if err != nil {
			return VIPState{}, fmt.Errorf("read former state of VIP slot %d: %w", slot, err)
		}
		var f lictorVipWords
		copy(bytesOf(&f), b)
		counters.add(countersOf(f.Count))
		if f.Count = (lictorCounters{}); w == (lictorVipWords{}) {
			w = f // as Attach will copy it
		}
	}
	s := vipStateOf(slot, &w)
	s.Counters = counters
	return s, nil
}

// ResetVIP makes a slot as new, for a proxy that never had it. It must have no
// entry in the map, and no socket that Sockets lists.
func (k *Kernel) ResetVIP(slot uint32) error {
	if err := k.objs.VipState.Update(slot, lictorVipWords{}, ebpf.UpdateExist); err != nil {
		return fmt.Errorf("reset VIP slot %d: %w", slot, err)
	}
	if err := k.objs.Inflight.Update(slot, lictorInflightWords{}, ebpf.UpdateExist); err != nil {
		return fmt.Errorf("reset VIP slot %d: %w", slot, err)
	}
	for _, m := range k.former[lictorMapVipState] {
		if err := m.Update(slot, make([]byte, m.ValueSize()), ebpf.UpdateExist); err != nil {
			return fmt.Errorf("reset VIP slot %d of a former layout: %w", slot, err)
		}
	}
	return nil
}

// ResetServer makes a server's slot as new, for one that never had it. No entry
// may lead to it, and Sockets list none.
func (k *Kernel) ResetServer(slot uint16) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("reset server slot %d: %w", slot, err)
	}
	err = errors.Join(
		k.objs.ServerState.Update(uint32(slot), lictorServerWords{}, ebpf.UpdateExist),
		k.objs.ServerCounters.Update(uint32(slot), make([]lictorCounters, cpus), ebpf.UpdateExist),
		k.objs.ServerLatency.Update(uint32(slot), lictorLatency{}, ebpf.UpdateExist),
	)
	for _, m := range k.former[lictorMapServerCounters] {
		values := make([][]byte, cpus)
		for i := range values {
			values[i] = make([]byte, m.ValueSize())
		}
		err = errors.Join(err, m.Update(uint32(slot), values, ebpf.UpdateExist))
	}
	for _, m := range k.former[lictorMapServerLatency] {
		err = errors.Join(err, m.Update(uint32(slot), make([]byte, m.ValueSize()), ebpf.UpdateExist))
	}
	if err != nil {
		return fmt.Errorf("reset server slot %d: %w", slot, err)
	}
	return nil
}

// check says why an entry cannot be.
func (k *Kernel) check(v VIP) error {
	addr := v.Key.Addr.Addr()
	pool := k.cfg.Pool6
	if addr.Is4() {
		pool = k.cfg.Pool4
	}
	switch {
	case !pool.IsValid() || !pool.Contains(addr):
		return fmt.Errorf("not an address of the pools (%v, %v)", k.cfg.Pool4, k.cfg.Pool6)
	case addr == pool.Addr():
		return errors.New("the pool's first address is the probe's")
	case v.Key.Addr.Port() == 0:
		return errors.New("port 0")
	case v.Slot == 0 || v.Slot >= uint32(MaxVIPs):
		return fmt.Errorf("slot %d is not one of 1 to %d", v.Slot, MaxVIPs-1)
	case len(v.Ranked) > MaxRanked:
		return fmt.Errorf("%d servers, and %d at most", len(v.Ranked), MaxRanked)
	case v.Owner.Kind > OwnerAny:
		return fmt.Errorf("unknown kind of owner %d", v.Owner.Kind)
	}
	for _, b := range v.Ranked {
		if err := checkBackend(b, addr); err != nil {
			return fmt.Errorf("server %v: %w", b.Addr, err)
		}
	}
	return nil
}

func checkBackend(b Backend, vip netip.Addr) error {
	to := b.Addr.Addr()
	switch {
	case !to.IsValid() || to.Is4() != vip.Is4() || to.Is4In6() || to.Zone() != "":
		return errors.New("not of the VIP's family, without a zone")
	case b.Addr.Port() == 0:
		return errors.New("port 0")
	case b.Slot == 0 || int(b.Slot) >= MaxServers:
		return fmt.Errorf("slot %d is not one of 1 to %d", b.Slot, MaxServers-1)
	}
	return nil
}
