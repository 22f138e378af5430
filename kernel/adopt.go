package kernel

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// formerMap is a map of a layout before this version's. Of several the newest comes
// first: what a copy finds there is not looked for in older ones.
type formerMap struct {
	*ebpf.Map
	layout int
}

// openMaps opens what is pinned of this layout, makes what is not, and opens
// what is pinned of former layouts into k.former. It changes nothing that is
// there and pins nothing, so that a start which fails leaves nothing behind.
func (k *Kernel) openMaps(spec *ebpf.CollectionSpec) (_ map[string]*ebpf.Map, err error) {
	have, err := k.pins.scan()
	if err != nil {
		return nil, err
	}
	if err := have.checkNewer(k.version.layouts); err != nil {
		return nil, err
	}
	maps := map[string]*ebpf.Map{}
	defer func() {
		if err != nil {
			closeMaps(maps)
		}
	}()
	for name, layout := range k.version.layouts {
		present := false
		for _, l := range slices.Backward(have.maps[name]) {
			if l == layout {
				present = true
				continue
			}
			m, err := ebpf.LoadPinnedMap(k.pins.mapPath(name, l), nil)
			if err != nil {
				return nil, fmt.Errorf("open pinned map %s of layout %d: %w", name, l, err)
			}
			k.former[name] = append(k.former[name], formerMap{m, l})
		}
		if fixed := name == lictorMapSocks || name == lictorMapInflight; fixed && len(k.former[name]) > 0 {
			return nil, fmt.Errorf("map %s has a former layout, which cannot be carried over; run lictor unload, then start again", name)
		}
		if maps[name], err = k.openMap(spec.Maps[name], k.pins.mapPath(name, layout), present); err != nil {
			return nil, err
		}
	}
	return maps, nil
}

func (k *Kernel) openMap(spec *ebpf.MapSpec, path string, present bool) (*ebpf.Map, error) {
	if !present {
		m, err := ebpf.NewMap(spec)
		if errors.Is(err, unix.EPERM) {
			return nil, fmt.Errorf("make map %s: %w", spec.Name, forbidden(err))
		}
		if err != nil {
			return nil, fmt.Errorf("make map %s: %w", spec.Name, err)
		}
		return m, nil
	}
	m, err := ebpf.LoadPinnedMap(path, nil)
	if err != nil {
		return nil, fmt.Errorf("open pinned map %s: %w", path, err)
	}
	if spec.Type == ebpf.RingBuf {
		spec.MaxEntries = m.MaxEntries() // a size that was configured once stays until unload
	}
	if err := spec.Compatible(m); err != nil {
		return nil, errors.Join(fmt.Errorf("pinned map %s is %w, or damaged: %w; run lictor unload, or give another bpffs path", path, ErrForeign, err), m.Close())
	}
	return m, nil
}

// repin pins what is not pinned: new maps, and those whose pins someone removed
// while we hold them open. It refuses when another map is in the place of one.
func (k *Kernel) repin() error {
	if err := os.MkdirAll(k.pins.path, 0o700); err != nil {
		return fmt.Errorf("make pin directory: %w", err)
	}
	for name, m := range k.maps() {
		path := k.pins.mapPath(name, k.version.layouts[name])
		there, err := ebpf.LoadPinnedMap(path, nil)
		if errors.Is(err, os.ErrNotExist) {
			// Through a duplicate: this object may remember a pin that is gone.
			dup, err := m.Clone()
			if err != nil {
				return fmt.Errorf("pin map %s: %w", name, err)
			}
			if err := errors.Join(dup.Pin(path), dup.Close()); err != nil {
				return fmt.Errorf("pin map %s: %w", name, err)
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("open pinned map %s: %w", path, err)
		}
		id, err := mapID(there)
		mine, err2 := mapID(m)
		if err := errors.Join(err, err2, there.Close()); err != nil {
			return err
		}
		if id != mine {
			return fmt.Errorf("pin %s was replaced by another map (id %d, ours is %d): %w; restart lictord to adopt it, or remove it", path, id, mine, ErrForeign)
		}
	}
	return nil
}

// copyVIPs brings entries of a former layout into the present map. The programs
// in effect go on reading the former one until Attach. Running it again after
// a crash adds what is absent, which the daemon's first reconciliation judges.
func (k *Kernel) copyVIPs() error {
	for _, from := range k.former[lictorMapVips] {
		decode := k.version.decoders[from.layout]
		if decode == nil {
			return fmt.Errorf("entries of vips have layout %d, which this version cannot read; run the version in between once, or lictor unload", from.layout)
		}
		var key, value []byte
		entries := from.Iterate()
		for entries.Next(&key, &value) {
			vip, err := decode(key, value)
			if err != nil {
				return fmt.Errorf("read entry of vips layout %d: %w", from.layout, err)
			}
			w := vipWords(vip, k.gen.Add(1))
			err = k.objs.Vips.Update(w.Key, w, ebpf.UpdateNoExist)
			if err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
				return fmt.Errorf("copy entry %v of vips: %w", vip.Key.Addr, err)
			}
		}
		if err := entries.Err(); err != nil {
			return fmt.Errorf("read vips layout %d: %w", from.layout, err)
		}
	}
	return copyFormer(k, lictorMapMeta, k.objs.Meta, func(m *lictorMetaWords) {})
}

// withFormer is the present map of a name and those of former layouts.
func (k *Kernel) withFormer(name string) []*ebpf.Map {
	all := []*ebpf.Map{k.maps()[name]}
	for _, m := range k.former[name] {
		all = append(all, m.Map)
	}
	return all
}

func mapID(m *ebpf.Map) (ebpf.MapID, error) {
	info, err := m.Info()
	if err != nil {
		return 0, fmt.Errorf("ask for map %v: %w", m, err)
	}
	id, _ := info.ID()
	return id, nil
}

// copyState brings what the kernel wrote about VIPs and servers into the
// present maps, just before the programs change: a hold-down that is noted in
// between costs one connect more. Counters are not copied. The former map keeps
// them, what old programs still add included, and readers sum both.
func (k *Kernel) copyState() error {
	return errors.Join(
		copyFormer(k, lictorMapVipState, k.objs.VipState, func(w *lictorVipWords) { w.Count = lictorCounters{} }),
		copyFormer(k, lictorMapServerState, k.objs.ServerState, func(*lictorServerWords) {}),
	)
}

// copyFormer copies the values of an array's former layouts into the present one,
// unless that has any: then it was copied before, and programs that are in effect
// write to it by now. Members are only ever appended, so that the shorter of two
// layouts is a prefix of the longer one.
func copyFormer[T comparable](k *Kernel, name string, to *ebpf.Map, strip func(*T)) error {
	if len(k.former[name]) == 0 {
		return nil
	}
	var zero T
	present, err := readArray[T](to)
	if err != nil {
		return fmt.Errorf("copy map %s: %w", name, err)
	}
	if slices.ContainsFunc(present, func(v T) bool { return v != zero }) {
		return nil
	}
	for _, from := range k.former[name] {
		values, err := readArray[T](from.Map)
		if err != nil {
			return fmt.Errorf("copy map %s: %w", name, err)
		}
		for i := range min(len(values), len(present)) {
			v := values[i]
			strip(&v)
			if v == zero || present[i] != zero {
				continue
			}
			present[i] = v
			if err := to.Update(uint32(i), v, ebpf.UpdateAny); err != nil {
				return fmt.Errorf("copy map %s, index %d: %w", name, i, err)
			}
		}
	}
	return nil
}

// retireFormer removes former maps that nothing reads any more. Those that
// counted stay, for their counts, until Unload or the next boot.
func (k *Kernel) retireFormer() (err error) {
	for _, name := range []string{lictorMapVips, lictorMapServerState, lictorMapEvents, lictorMapMeta} {
		for _, m := range k.former[name] {
			err = errors.Join(err, os.Remove(k.pins.mapPath(name, m.layout)), m.Close())
		}
		delete(k.former, name)
	}
	return err
}

// readArray reads a whole array: index after index, and within a per-CPU one
// CPU after CPU. A value of another layout is cut or filled with zeros.
func readArray[T any](m *ebpf.Map) ([]T, error) {
	n, cpus := int(m.MaxEntries()), 1
	if m.Type() == ebpf.PerCPUArray {
		var err error
		if cpus, err = ebpf.PossibleCPU(); err != nil {
			return nil, fmt.Errorf("count CPUs: %w", err)
		}
	}
	values := make([]T, n*cpus)
	size := int(unsafe.Sizeof(values[0]))
	if int(m.ValueSize()) == size {
		var cursor ebpf.MapBatchCursor
		got, err := m.BatchLookup(&cursor, make([]uint32, n), values, nil)
		if got == n && (err == nil || errors.Is(err, ebpf.ErrKeyNotExist)) {
			return values, nil
		}
		// Batches are optional, and per-CPU arrays have them only since 5.13.
	}
	stride := (int(m.ValueSize()) + 7) / 8 * 8
	for i := range n {
		b, err := m.LookupBytes(uint32(i))
		if err != nil {
			return nil, fmt.Errorf("read index %d: %w", i, err)
		}
		for cpu := range cpus {
			raw := b[cpu*stride:][:m.ValueSize()]
			copy(bytesOf(&values[i*cpus+cpu]), raw)
		}
	}
	return values, nil
}

// bytesOf is the memory of a value without pointers.
func bytesOf[T any](v *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))
}
