package kernel

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"
	"unsafe"
)

// The kernel keeps every address as 16 bytes in network order, IPv4 as
// ::ffff:a.b.c.d, and every port as two bytes in network order. bpf2go makes
// integers of them, whose bytes are those of memory.

func addrWords(a netip.Addr) (w [4]uint32) {
	b := a.As16()
	for i := range w {
		w[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return w
}

func addrOf(w [4]uint32) netip.Addr {
	var b [16]byte
	for i := range w {
		binary.NativeEndian.PutUint32(b[4*i:], w[i])
	}
	return netip.AddrFrom16(b).Unmap()
}

// swapPort turns host order into network order and back.
func swapPort(p uint16) uint16 {
	return binary.NativeEndian.Uint16([]byte{byte(p >> 8), byte(p)})
}

func addrPortOf(w [4]uint32, port uint16) netip.AddrPort {
	if w == ([4]uint32{}) && port == 0 {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(addrOf(w), swapPort(port))
}

func keyWords(k VIPKey) lictorVipKey {
	return lictorVipKey{Addr: addrWords(k.Addr.Addr()), Port: swapPort(k.Addr.Port()), Proto: k.Proto}
}

func keyOf(k lictorVipKey) VIPKey {
	return VIPKey{Addr: netip.AddrPortFrom(addrOf(k.Addr), swapPort(k.Port)), Proto: k.Proto}
}

// vipWords makes an entry with the given generation; v has been checked.
func vipWords(v VIP, gen uint32) lictorVip {
	w := lictorVip{
		Gen: gen, GenLast: gen,
		Key:        keyWords(v.Key),
		Slot:       v.Slot,
		Set:        v.Set,
		OwnerId:    v.Owner.ID,
		OwnerLevel: v.Owner.Level,
		OwnerKind:  uint8(v.Owner.Kind),
		N:          uint8(len(v.Ranked)),
	}
	for i, b := range v.Ranked {
		w.Ranked[i] = lictorBackend{Addr: addrWords(b.Addr.Addr()), Port: swapPort(b.Addr.Port()), Slot: b.Slot}
	}
	w.Sum = vipSum(&w)
	return w
}

// vipOf is what the kernel makes of an entry: a damaged one denies everybody.
func vipOf(key lictorVipKey, w *lictorVip) VIP {
	v := VIP{Key: keyOf(key)}
	if w.Gen != w.GenLast || w.Key != key || w.Sum != vipSum(w) || int(w.N) > MaxRanked {
		return v
	}
	v.Slot, v.Set = w.Slot, w.Set
	v.Owner = Owner{Kind: OwnerKind(w.OwnerKind), ID: w.OwnerId, Level: w.OwnerLevel}
	v.Ranked = slices.Grow(v.Ranked, int(w.N))
	for _, b := range w.Ranked[:w.N] {
		v.Ranked = append(v.Ranked, Backend{Slot: b.Slot, Addr: netip.AddrPortFrom(addrOf(b.Addr), swapPort(b.Port))})
	}
	return v
}

// vipSum is vip_sum of bpf/owner.h.
func vipSum(w *lictorVip) uint32 {
	const words = unsafe.Offsetof(w.Sum) / 8
	var sum uint64
	for i, x := range (*[words]uint64)(unsafe.Pointer(w)) {
		sum += x * (0x9e3779b97f4a7c15 * uint64(2*i+1))
	}
	return uint32(sum ^ sum>>32)
}

func countersOf(c lictorCounters) Counters {
	return Counters{
		Redirected: c.Redirected, Attempted: c.Attempted, Established: c.Established, Failed: c.Failed,
		Closed: c.Closed, Bounced: c.Bounced, BytesIn: c.BytesIn, BytesOut: c.BytesOut,
	}
}

// add adds what another map or CPU counted.
func (c *Counters) add(o Counters) {
	c.Redirected += o.Redirected
	c.Attempted += o.Attempted
	c.Established += o.Established
	c.Failed += o.Failed
	c.Closed += o.Closed
	c.Bounced += o.Bounced
	c.BytesIn += o.BytesIn
	c.BytesOut += o.BytesOut
}

func vipStateOf(slot uint32, w *lictorVipWords) VIPState {
	s := VIPState{
		Slot:      slot,
		LastSlot:  w.LastSlot,
		LastAt:    time.Duration(w.LastAt),
		WaitUntil: time.Duration(w.WaitUntil),
		Counters:  countersOf(w.Count),
	}
	for _, h := range w.Holds {
		if h.At != 0 {
			s.Holds = append(s.Holds, Hold{Slot: h.Slot, Reason: HoldReason(h.Reason), At: time.Duration(h.At)})
		}
	}
	return s
}

// commOf reads a NUL-terminated name.
func commOf(c [16]int8) string {
	b := make([]byte, 0, len(c))
	for _, x := range c {
		if x == 0 {
			break
		}
		b = append(b, byte(x))
	}
	return string(b)
}
