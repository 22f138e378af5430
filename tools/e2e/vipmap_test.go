package e2e

import (
	"encoding/binary"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// vipMap is the pinned map of VIPs in the hands of somebody who is not lictord.
// What an entry looks like is read from the map's own type information.
type vipMap struct {
	*world
	*ebpf.Map
	key, value map[string]btf.Member
}

// openVIPs opens the pinned map, until the test's end.
func (w *world) openVIPs() vipMap {
	w.Helper()
	m, members := w.openPinned("vips_v*")
	return vipMap{w, m, members("vip_key"), members("vip")}
}

// openPinned opens the only map of a name, until the test's end, with what its own
// type information says of structs.
func (w *world) openPinned(pattern string) (*ebpf.Map, func(name string) map[string]btf.Member) {
	w.Helper()
	paths := w.pins(pattern)
	if len(paths) != 1 {
		w.Fatalf("pinned maps %s: %v, want one", pattern, paths)
	}
	m, err := ebpf.LoadPinnedMap(paths[0], nil)
	w.must(err)
	w.Cleanup(func() { _ = m.Close() })
	handle, err := m.Handle()
	w.must(err)
	defer handle.Close()
	spec, err := handle.Spec(nil)
	w.must(err)
	return m, func(name string) map[string]btf.Member {
		w.Helper()
		var t *btf.Struct
		w.must(spec.TypeByName(name, &t))
		byName := map[string]btf.Member{}
		for _, m := range t.Members {
			byName[m.Name] = m
		}
		return byName
	}
}

// miscount adds to how many connections the kernel has seen come up, on the only
// server that has had any.
func (w *world) miscount(more uint64) {
	w.Helper()
	m, members := w.openPinned("server_counters_v*")
	at := members("counters")["established"].Offset.Bytes()
	for slot := uint32(1); slot < m.MaxEntries(); slot++ { // 0 is the probe's
		var cpus [][]byte
		w.must(m.Lookup(slot, &cpus))
		for _, cpu := range cpus {
			if n := binary.NativeEndian.Uint64(cpu[at:]); n > 0 {
				binary.NativeEndian.PutUint64(cpu[at:], n+more)
				w.must(m.Put(slot, cpus))
				return
			}
		}
	}
	w.Fatal("no server has had a connection")
}

// keyOf makes the key of a VIP: its address as 16 bytes and its port in network
// order, its protocol in the host's.
func (m vipMap) keyOf(vip netip.AddrPort) []byte {
	key := make([]byte, m.KeySize())
	addr := vip.Addr().As16()
	copy(key[m.key["addr"].Offset.Bytes():], addr[:])
	binary.BigEndian.PutUint16(key[m.key["port"].Offset.Bytes():], vip.Port())
	binary.NativeEndian.PutUint16(key[m.key["proto"].Offset.Bytes():], unix.IPPROTO_TCP)
	return key
}

// entry is the value of a VIP's entry, nil when there is none.
func (m vipMap) entry(vip netip.AddrPort) []byte {
	m.Helper()
	value, err := m.LookupBytes(m.keyOf(vip))
	m.must(err) // nil when absent
	return value
}

// put writes an entry, as anybody with the right to can.
func (m vipMap) put(vip netip.AddrPort, value []byte) {
	m.Helper()
	m.must(m.Put(m.keyOf(vip), value))
}

// byte8 is where in a value a member of one byte is.
func (m vipMap) byte8(value []byte, member string) *byte {
	m.Helper()
	at, ok := m.value[member]
	if !ok {
		m.Fatalf("an entry of the map of VIPs has no %q", member)
	}
	return &value[at.Offset.Bytes()]
}

// entries are all, by VIP, without that of lictord's own probe, whose port is
// no proxy's.
func (m vipMap) entries() map[netip.AddrPort][]byte {
	m.Helper()
	all := map[netip.AddrPort][]byte{}
	var key, value []byte
	it := m.Iterate()
	for it.Next(&key, &value) {
		addr := netip.AddrFrom16([16]byte(key[m.key["addr"].Offset.Bytes():])).Unmap()
		port := binary.BigEndian.Uint16(key[m.key["port"].Offset.Bytes():])
		if port != probePort {
			all[netip.AddrPortFrom(addr, port)] = value
		}
		key, value = nil, nil
	}
	m.must(it.Err())
	return all
}

// probePort is the port of the VIP by which lictord verifies its hook.
const probePort = 1
