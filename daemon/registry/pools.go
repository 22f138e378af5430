package registry

import (
	"net/netip"

	"github.com/lictor-mesh/lictor/kernel"
)

// Pools are the addresses that VIPs come from. Index i of both belongs to one
// proxy; index 0 is the hook's own probe's. A zero prefix is a family not used.
type Pools struct{ V4, V6 netip.Prefix }

// Limit is one more than the greatest index that both pools have.
func (p Pools) Limit() uint32 {
	limit := uint32(kernel.MaxVIPs)
	for _, pool := range []netip.Prefix{p.V4, p.V6} {
		if !pool.IsValid() {
			continue
		}
		if bits := pool.Addr().BitLen() - pool.Bits(); bits < 32 {
			limit = min(limit, 1<<bits)
		}
	}
	return limit
}

// At gives the VIPs of an index; a family without a pool has the zero address.
func (p Pools) At(index uint32) (v4, v6 netip.Addr) {
	return at(p.V4, index), at(p.V6, index)
}

func at(pool netip.Prefix, index uint32) netip.Addr {
	if !pool.IsValid() {
		return netip.Addr{}
	}
	b := pool.Masked().Addr().AsSlice()
	for i, carry := len(b)-1, index; i >= 0 && carry > 0; i-- {
		b[i] |= byte(carry) // host bits are zero
		carry >>= 8
	}
	addr, _ := netip.AddrFromSlice(b)
	return addr
}
