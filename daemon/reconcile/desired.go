// Package reconcile makes the kernel's map of VIPs equal to what the state
// says. It holds no state of its own: Desired derives the entries, Diff finds
// what differs, and the registry, which owns the state, writes.
package reconcile

import (
	"hash/crc32"
	"iter"
	"net/netip"
	"slices"

	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/state"
)

// Deriver turns assignments into entries of the kernel's map.
type Deriver struct {
	Port   uint16 // of every VIP
	BootID string // owners resolved in another boot deny
}

// Set identifies the servers that placements are made from: it changes when
// one comes, goes, is drained, or changes its address, and then the kernel
// ends its waits.
func Set(s state.State) uint32 {
	ids := make([]string, 0, len(s.Servers))
	for id := range s.Servers {
		if Usable(s, id) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	sum := crc32.NewIEEE()
	for _, id := range ids {
		srv := s.Servers[id]
		for _, part := range []string{id, srv.Addr4.String(), srv.Addr6.String()} {
			_, _ = sum.Write(append([]byte(part), 0)) // never fails, says hash.Hash
		}
		_, _ = sum.Write([]byte{byte(srv.Port >> 8), byte(srv.Port)})
	}
	return sum.Sum32()
}

// Usable says whether proxies may be placed on a server: it is listed and not
// drained.
func Usable(s state.State, id string) bool {
	_, drained := s.Drained[id]
	return s.Servers[id] != nil && !drained
}

// Desired gives the entries of one proxy, one per family that has a VIP.
func (d Deriver) Desired(s state.State, p *state.Proxy, set uint32) []kernel.VIP {
	vips := make([]kernel.VIP, 0, 2)
	for _, addr := range []netip.Addr{p.VIP, p.VIP6} {
		if addr.IsValid() {
			vips = append(vips, d.entry(s, p, addr, set, nil))
		}
	}
	return vips
}

// All gives the entries of all proxies. The memory of an entry's Ranked is used
// again for the next one: thousands are looked at every few seconds, and hardly
// ever is one of them written.
func (d Deriver) All(s state.State, set uint32) iter.Seq[kernel.VIP] {
	return func(yield func(kernel.VIP) bool) {
		ranked := make([]kernel.Backend, 0, kernel.MaxRanked)
		for _, p := range s.Proxies {
			if p.VIP.IsValid() && !yield(d.entry(s, p, p.VIP, set, ranked)) ||
				p.VIP6.IsValid() && !yield(d.entry(s, p, p.VIP6, set, ranked)) {
				return
			}
		}
	}
}

// entry is that of one VIP of a proxy. Its Ranked begins where ranked does.
func (d Deriver) entry(s state.State, p *state.Proxy, addr netip.Addr, set uint32, ranked []kernel.Backend) kernel.VIP {
	return kernel.VIP{
		Key:    d.Key(addr),
		Slot:   p.Index,
		Owner:  d.owner(p.Owner),
		Set:    set,
		Ranked: backends(s, p, addr.Is4(), ranked),
	}
}

// Key is the key of a VIP's entry.
func (d Deriver) Key(addr netip.Addr) kernel.VIPKey {
	return kernel.VIPKey{Addr: netip.AddrPortFrom(addr, d.Port), Proto: kernel.ProtoTCP}
}

// backends are what a proxy can be sent to now: of its ranked servers those that
// can be used, and after them the others. So one that is gone or drained drops out
// at once, and one that has come is there at once, before proxies have been placed
// anew.
func backends(s state.State, p *state.Proxy, v4 bool, out []kernel.Backend) []kernel.Backend {
	out = usable(s, p.Ranked, v4, slices.Grow(out[:0], min(len(s.Servers), kernel.MaxRanked)))
	if len(out) == kernel.MaxRanked {
		return out
	}
	var others []string
	for id := range s.Servers {
		if !slices.Contains(p.Ranked, id) {
			others = append(others, id)
		}
	}
	if len(others) == 0 {
		return out
	}
	slices.Sort(others)
	first := int(p.Index) % len(others) // or all would go to the same one
	return usable(s, slices.Concat(others[first:], others[:first]), v4, out)
}

// usable adds to out those of the servers that can be used and have an address of
// the family, up to as many as an entry holds.
func usable(s state.State, ids []string, v4 bool, out []kernel.Backend) []kernel.Backend {
	for _, id := range ids {
		if !Usable(s, id) || len(out) == kernel.MaxRanked {
			continue
		}
		srv := s.Servers[id]
		addr := srv.Addr6
		if v4 {
			addr = srv.Addr4
		}
		if addr.IsValid() {
			out = append(out, kernel.Backend{Slot: srv.Slot, Addr: netip.AddrPortFrom(addr, srv.Port)})
		}
	}
	return out
}

// owner gives what the kernel compares. What was resolved in another boot, or
// not at all, denies: its numbers may mean somebody else by now.
func (d Deriver) owner(o state.Owner) kernel.Owner {
	if o.Kind == state.OwnerAny {
		return kernel.Owner{Kind: kernel.OwnerAny}
	}
	if !Resolved(o, d.BootID) {
		return kernel.Owner{Kind: kernel.OwnerUnresolved}
	}
	if o.Kind == state.OwnerCgroup {
		return kernel.Owner{Kind: kernel.OwnerCgroup, ID: o.ID, Level: o.Level}
	}
	return kernel.Owner{Kind: kernel.OwnerNetns, ID: o.ID}
}

// Resolved says whether an owner means somebody in the boot of the given id.
func Resolved(o state.Owner, bootID string) bool {
	return o.Kind == state.OwnerAny || (o.ID != 0 && o.BootID == bootID)
}
