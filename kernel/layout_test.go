package kernel

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

var update = flag.Bool("update", false, "write testdata/layouts.txt anew")

// What is pinned is read by the next version. Whoever changes what a map holds sees
// it here, and gives the map another number in enum layout of bpf/abi.h, unless he
// appended to an event or an enumeration, or took from the spare bytes of a socket's
// storage.
func TestLayoutsHaveNumbers(t *testing.T) {
	const golden = "testdata/layouts.txt"
	spec := must(loadLictor())
	var event *btf.Struct
	if err := spec.Types.TypeByName("event", &event); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(thisVersion.layouts)) {
		m := spec.Maps[name]
		fmt.Fprintf(&b, "%s_v%d: %v of %d\n", name, thisVersion.layouts[name], m.Type, m.MaxEntries)
		if m.Type == ebpf.RingBuf {
			members(&b, "value", event, 0)
			continue
		}
		members(&b, "key", m.Key, 0)
		members(&b, "value", m.Value, 0)
	}
	for _, name := range []string{"reason", "owner_kind", "hold_reason", "phase", "event_kind"} {
		var enum *btf.Enum
		if err := spec.Types.TypeByName(name, &enum); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "enum %s:\n", name)
		for _, v := range enum.Values {
			if v.Name != "REASON_MAX" {
				fmt.Fprintf(&b, "\t%d %s\n", v.Value, v.Name)
			}
		}
	}
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want := string(must(os.ReadFile(golden))); b.String() != want {
		t.Errorf("maps hold something else than %s says. Give each that changed another number, then go test ./kernel -run %s -update. Now:\n%s",
			golden, t.Name(), b.String())
	}
}

// members writes where each number of a value is, one in a line.
func members(b *strings.Builder, name string, of btf.Type, at uint32) {
	switch of := btf.UnderlyingType(of).(type) {
	case *btf.Struct:
		for _, m := range of.Members {
			members(b, name+"."+m.Name, m.Type, at+m.Offset.Bytes())
		}
	case *btf.Array:
		size := must(btf.Sizeof(of.Type))
		if _, number := btf.UnderlyingType(of.Type).(*btf.Int); number {
			fmt.Fprintf(b, "\t%s[%d] at %d, %d bytes each\n", name, of.Nelems, at, size)
			return
		}
		members(b, fmt.Sprintf("%s[0 to %d by %d]", name, of.Nelems-1, size), of.Type, at)
	default:
		fmt.Fprintf(b, "\t%s at %d, %d bytes\n", name, at, must(btf.Sizeof(of)))
	}
}

// Values of another size are cut, or filled with zeros, whatever the CPUs' stride.
func TestArraysOfAnotherSizeAreRead(t *testing.T) {
	testenv.Privileged(t)
	type value [3]uint64
	for _, typ := range []ebpf.MapType{ebpf.Array, ebpf.PerCPUArray} {
		for _, size := range []uint32{4, 12, 24, 28, 64} {
			t.Run(fmt.Sprintf("%v of %d bytes", typ, size), func(t *testing.T) {
				const entries = 3
				m := must(ebpf.NewMap(&ebpf.MapSpec{Type: typ, KeySize: 4, ValueSize: size, MaxEntries: entries}))
				defer m.Close()
				cpus := 1
				if typ == ebpf.PerCPUArray {
					cpus = must(ebpf.PossibleCPU())
				}
				var want []value
				for i := range uint32(entries) {
					var raw [][]byte
					for cpu := range cpus {
						b := make([]byte, max(size, 24))
						for at := range size {
							b[at] = byte(1 + 50*int(i) + 10*cpu + int(at))
						}
						raw = append(raw, b[:size])
						want = append(want, value{binary.NativeEndian.Uint64(b), binary.NativeEndian.Uint64(b[8:]), binary.NativeEndian.Uint64(b[16:])})
					}
					var err error
					if typ == ebpf.PerCPUArray {
						err = m.Put(i, raw)
					} else {
						err = m.Put(i, raw[0])
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				if got, err := readArray[value](m); err != nil || !slices.Equal(got, want) {
					t.Errorf("read %x, %v; want %x", got, err, want)
				}
			})
		}
	}
}

// A pinned map of this layout's number that is another is refused and left alone.
func TestAMapOfAnotherSizeIsRefused(t *testing.T) {
	r := newRig(t)
	r.forget()
	if err := os.Mkdir(r.cfg.BPFFS, 0o700); err != nil {
		t.Fatal(err)
	}
	spec := must(loadLictor()).Maps[lictorMapVipState]
	spec.Key, spec.Value = nil, nil
	spec.ValueSize += 8
	m := must(ebpf.NewMap(spec))
	path := (&pinDir{path: r.cfg.BPFFS}).mapPath(lictorMapVipState, thisVersion.layouts[lictorMapVipState])
	if err := errors.Join(m.Pin(path), m.Close()); err != nil {
		t.Fatal(err)
	}
	if k, err := Open(t.Context(), r.cfg); !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), path) {
		t.Errorf("opened %v: %v", k, err)
	}
	if pins := must(os.ReadDir(r.cfg.BPFFS)); len(pins) != 1 {
		t.Errorf("pinned %v beside it", pins)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	r.open()
}

// Sockets that live carry what the programs of their time put there.
func TestAFixedLayoutIsNotMigrated(t *testing.T) {
	r := newRig(t)
	r.forget()
	if err := os.Mkdir(r.cfg.BPFFS, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{lictorMapSocks, lictorMapInflight} {
		m := must(ebpf.NewMap(must(loadLictor()).Maps[name]))
		path := (&pinDir{path: r.cfg.BPFFS}).mapPath(name, thisVersion.layouts[name]-1)
		if err := errors.Join(m.Pin(path), m.Close()); err != nil {
			t.Fatal(err)
		}
		if k, err := Open(t.Context(), r.cfg); err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "lictor unload") {
			t.Errorf("%s of a former layout: opened %v: %v", name, k, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	r.open()
}
