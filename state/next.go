package state

import "time"

// NextIndex returns the VIP index that the next registration gets: the first
// free one after LastIndex, round the pool, from 1 up to and without limit. It
// passes over indexes in use, over those whose proxy left less than rest ago
// (at most MaxRest), and over those that busy reports (a socket still holds the
// index's slot); a nil busy reports none. ok is false when there is none left.
//
// An index that left after now did so before the clock was set back. It is used
// when there is no other, the one that left first before the rest.
func (s State) NextIndex(limit uint32, rest time.Duration, now time.Time, busy func(index uint32) bool) (index uint32, ok bool) {
	rest = min(rest, MaxRest)
	var spare uint32
	var spareLeft time.Time
	for i := uint32(1); i < limit; i++ {
		at := uint32((uint64(s.LastIndex)+uint64(i)-1)%uint64(limit-1)) + 1
		if s.used[at] > 0 || busy != nil && busy(at) {
			continue
		}
		left, resting := s.Resting[at]
		if !resting || now.Sub(left) >= rest {
			return at, true
		}
		if left.After(now) && (spare == 0 || left.Before(spareLeft)) {
			spare, spareLeft = at, left
		}
	}
	return spare, spare != 0
}

// NextSlot returns the slot of the kernel's counters that a server gets when it
// is listed, from 1 to last: the one it had before, else the lowest that nobody
// had, else that of the server which has been gone longest. It passes over slots
// that busy reports (sockets still count on them), unless it is the server's
// own; a nil busy reports none. ok is false when every slot is taken.
func (s State) NextSlot(id string, last uint16, busy func(slot uint16) bool) (slot uint16, ok bool) {
	if t, had := s.Slots[id]; had {
		return t.Slot, true
	}
	held := make(map[uint16]bool, len(s.Slots))
	for _, t := range s.Slots {
		held[t.Slot] = true
	}
	for n := 1; n <= int(last); n++ {
		if at := uint16(n); !held[at] && (busy == nil || !busy(at)) {
			return at, true
		}
	}
	var oldest SlotTenure
	for _, t := range s.Slots {
		if t.Gone.IsZero() || t.Slot > last || busy != nil && busy(t.Slot) {
			continue
		}
		// Equal times are settled by slot, so the choice does not depend on
		// the order of a map.
		if oldest.Slot == 0 || t.Gone.Before(oldest.Gone) || t.Gone.Equal(oldest.Gone) && t.Slot < oldest.Slot {
			oldest = t
		}
	}
	return oldest.Slot, oldest.Slot != 0
}
