package kernel

import "testing"

// Counters are read while several CPUs count: one may be ahead of another that
// it is part of.
func TestCountersReadInBetween(t *testing.T) {
	for _, c := range []struct {
		name          string
		counters      Counters
		active, local uint64
	}{
		{"at rest", Counters{Redirected: 9, Attempted: 7, Established: 5, Closed: 2}, 3, 2},
		{"in between", Counters{Redirected: 6, Attempted: 7, Established: 5, Closed: 6}, 0, 0},
		{"none", Counters{}, 0, 0},
	} {
		if a, l := c.counters.Active(), c.counters.FailedLocal(); a != c.active || l != c.local {
			t.Errorf("%s: %d active, %d failed locally, want %d and %d", c.name, a, l, c.active, c.local)
		}
	}
}
