package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
)

// statesAtOnce is how many states one system call reads: some 240 kB.
const statesAtOnce = 1024

// VIPStates returns what the kernel wrote about several, in the order asked.
func (k *Kernel) VIPStates(slots []uint32) ([]VIPState, error) {
	if k.worthAWalk(slots) {
		states, err := k.walkStates(slots)
		if !errors.Is(err, ebpf.ErrNotSupported) {
			return states, wrap(err, "read states of %d VIPs", len(slots))
		}
	}
	states := make([]VIPState, len(slots))
	for i, slot := range slots {
		var err error
		if states[i], err = k.VIPState(slot); err != nil {
			return nil, err
		}
	}
	return states, nil
}

// worthAWalk says whether it is cheaper to read the array up to the last of the
// slots than one after the other: a system call costs as much as many states.
// Counters of a former layout are read one by one.
func (k *Kernel) worthAWalk(slots []uint32) bool {
	return len(slots) > 16 && len(k.former[lictorMapVipState]) == 0 && int(slices.Max(slots)) < 16*len(slots)
}

// walkStates reads the array from its beginning in large pieces.
func (k *Kernel) walkStates(slots []uint32) ([]VIPState, error) {
	order := make([]int, len(slots))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(slots[a], slots[b]) })
	states := make([]VIPState, len(slots))
	keys, words := make([]uint32, statesAtOnce), make([]lictorVipWords, statesAtOnce)
	var cursor ebpf.MapBatchCursor
	for first := uint32(0); len(order) > 0; {
		n, err := k.objs.VipState.BatchLookup(&cursor, keys, words, nil)
		end := errors.Is(err, ebpf.ErrKeyNotExist)
		if err != nil && !end {
			return nil, err
		}
		for len(order) > 0 && slots[order[0]] < first+uint32(n) {
			slot := slots[order[0]]
			states[order[0]] = vipStateOf(slot, &words[slot-first])
			order = order[1:]
		}
		if first += uint32(n); end && len(order) > 0 {
			return nil, fmt.Errorf("slot %d is beyond the last, %d", slots[order[0]], first-1)
		}
	}
	return states, nil
}
