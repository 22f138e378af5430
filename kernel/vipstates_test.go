package kernel

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// Many states read in pieces are those that each slot has, in the order asked.
func TestManyVIPStates(t *testing.T) {
	r := newRigDetached(t)
	const n = 3*statesAtOnce + 7
	for slot := uint32(1); slot < n; slot++ {
		w := lictorVipWords{LastAt: uint64(slot) * 1000, LastSlot: 3}
		if err := r.k.objs.VipState.Update(slot, w, ebpf.UpdateExist); err != nil {
			t.Fatal(err)
		}
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, c := range []struct {
		name  string
		slots func() []uint32
	}{
		{"all", func() []uint32 {
			all := make([]uint32, n-1)
			for i, slot := range rnd.Perm(n - 1) {
				all[i] = uint32(slot) + 1
			}
			return all
		}},
		{"at the borders", func() []uint32 {
			var at []uint32
			for i := range uint32(40) {
				at = append(at, i%3*statesAtOnce+i/3, (i%3+1)*statesAtOnce-1)
			}
			return at
		}},
		{"one many times", func() []uint32 { return make([]uint32, 100) }},
		{"few", func() []uint32 { return []uint32{n - 1, 1} }},
		{"far apart", func() []uint32 { return append(make([]uint32, 20), n-1) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			slots := c.slots()
			states := must(r.k.VIPStates(slots))
			if len(states) != len(slots) {
				t.Fatalf("%d states of %d", len(states), len(slots))
			}
			for i, st := range states {
				if st.Slot != slots[i] || st.LastAt != time.Duration(slots[i])*1000 {
					t.Fatalf("asked for slot %d: %+v", slots[i], st)
				}
			}
		})
	}
	if _, err := r.k.VIPStates([]uint32{1, uint32(MaxVIPs)}); err == nil {
		t.Error("a slot beyond the last has a state")
	}
	many := make([]uint32, MaxVIPs/8)
	many[0] = uint32(MaxVIPs)
	if _, err := r.k.VIPStates(many); err == nil {
		t.Error("a slot beyond the last has a state among many")
	}
}

// BenchmarkVIPStates reads the states of 10,000 VIPs: in pieces, and each alone.
func BenchmarkVIPStates(b *testing.B) {
	r := newRigDetached(b)
	slots := make([]uint32, 10_000)
	for i := range slots {
		slots[i] = uint32(i) + 1
	}
	b.Run("together", func(b *testing.B) {
		for b.Loop() {
			must(r.k.VIPStates(slots))
		}
	})
	b.Run("alone", func(b *testing.B) {
		for b.Loop() {
			for _, slot := range slots {
				must(r.k.VIPState(slot))
			}
		}
	})
}
