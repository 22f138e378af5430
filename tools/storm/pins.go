package storm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// Entry is an entry of the kernel's map of VIPs, as far as it is judged.
type Entry struct {
	VIP       netip.AddrPort
	Slot      uint32
	OwnerKind uint8
	OwnerID   uint64
	Ranked    []netip.AddrPort
}

// ReadPins reads the map of VIPs that is pinned in a directory. It goes by the
// type information that the map itself carries and shares no code with the
// daemon; no lock is taken, so it works beside one. An entry that is written
// meanwhile is read again. The probe's entry, of slot 0, is left out.
func ReadPins(dir string) (entries []Entry, err error) {
	pins, err := filepath.Glob(filepath.Join(dir, "vips_v*"))
	if err != nil || len(pins) == 0 {
		return nil, errors.Join(fmt.Errorf("find the map of VIPs in %s: none is pinned there", dir), err)
	}
	slices.Sort(pins)
	m, err := ebpf.LoadPinnedMap(pins[len(pins)-1], &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return nil, fmt.Errorf("open the map of VIPs: %w", err)
	}
	defer m.Close()
	types, err := typesOf(m)
	if err != nil {
		return nil, err
	}
	var key, value []byte
	for it := m.Iterate(); ; {
		if !it.Next(&key, &value) {
			return entries, it.Err()
		}
		for tries := 0; !types.whole(value); tries++ {
			if tries == 100 {
				return nil, fmt.Errorf("entry %x is torn a hundred times in a row", key)
			}
			if value, err = m.LookupBytes(key); err != nil || value == nil {
				break // gone meanwhile
			}
		}
		if e := types.entry(key, value); value != nil && e.Slot != 0 {
			entries = append(entries, e)
		}
	}
}

// layout finds members of the map's types by name.
type layout struct{ key, value, backend map[string]member }

type member struct{ offset, size int }

func typesOf(m *ebpf.Map) (layout, error) {
	h, err := m.Handle()
	if err != nil {
		return layout{}, fmt.Errorf("read the types of the map of VIPs: %w", err)
	}
	defer h.Close()
	spec, err := h.Spec(nil)
	if err != nil {
		return layout{}, fmt.Errorf("read the types of the map of VIPs: %w", err)
	}
	var l layout
	for _, t := range []struct {
		name string
		into *map[string]member
	}{{"vip_key", &l.key}, {"vip", &l.value}, {"backend", &l.backend}} {
		var s *btf.Struct
		if err := spec.TypeByName(t.name, &s); err != nil {
			return layout{}, fmt.Errorf("find struct %s among the types of the map of VIPs: %w", t.name, err)
		}
		*t.into = map[string]member{}
		for _, f := range s.Members {
			size, err := btf.Sizeof(f.Type)
			if err != nil {
				return layout{}, err
			}
			(*t.into)[f.Name] = member{int(f.Offset.Bytes()), size}
		}
		(*t.into)[""] = member{0, int(s.Size)}
	}
	return l, errors.Join(missing(l.key, "addr", "port"), missing(l.backend, "addr", "port"),
		missing(l.value, "gen", "gen_last", "slot", "owner_id", "owner_kind", "n", "ranked"))
}

func missing(have map[string]member, names ...string) error {
	for _, name := range names {
		if _, ok := have[name]; !ok {
			return fmt.Errorf("find member %s among the types of the map of VIPs: it was renamed", name)
		}
	}
	return nil
}

func (f member) of(b []byte) []byte { return b[f.offset:][:f.size] }

// number reads an unsigned integer in the machine's own order.
func (f member) number(b []byte) uint64 {
	switch b = f.of(b); len(b) {
	case 1:
		return uint64(b[0])
	case 2:
		return uint64(binary.NativeEndian.Uint16(b))
	case 4:
		return uint64(binary.NativeEndian.Uint32(b))
	default:
		return binary.NativeEndian.Uint64(b)
	}
}

func (l layout) whole(value []byte) bool {
	return value == nil || l.value["gen"].number(value) == l.value["gen_last"].number(value)
}

func (l layout) entry(key, value []byte) Entry {
	if value == nil {
		return Entry{}
	}
	e := Entry{
		VIP:       addrPort(l.key, key),
		Slot:      uint32(l.value["slot"].number(value)),
		OwnerKind: uint8(l.value["owner_kind"].number(value)),
		OwnerID:   l.value["owner_id"].number(value),
	}
	ranked, size := l.value["ranked"].of(value), l.backend[""].size
	for i := range min(int(l.value["n"].number(value)), len(ranked)/size) {
		e.Ranked = append(e.Ranked, addrPort(l.backend, ranked[i*size:][:size]))
	}
	return e
}

// addrPort reads an address and a port, both in network order.
func addrPort(s map[string]member, b []byte) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(s["addr"].of(b))
	return netip.AddrPortFrom(addr.Unmap(), binary.BigEndian.Uint16(s["port"].of(b)))
}
