package reconcile

import (
	"iter"
	"slices"

	"github.com/lictor-mesh/lictor/kernel"
)

// Drift is a kind of difference between the kernel's map and the state, and a
// label value of lictor_reconcile_drift_total.
type Drift string

// Kinds of drift.
const (
	DriftMissing Drift = "missing" // an entry that the state has is not in the map
	DriftChanged Drift = "changed" // an entry differs
	DriftUnknown Drift = "unknown" // the map has an entry that the state does not know

	// DriftConnections is one between the kernel's counts of live connections and
	// its sockets, looked for by the daemon at its start, and not repaired.
	DriftConnections Drift = "connections"
)

// Changes are the writes that make the map equal to the state.
type Changes struct {
	Put    []kernel.VIP
	Delete []kernel.VIPKey
	Drift  map[Drift]int
}

// Empty says that nothing differs.
func (c Changes) Empty() bool { return len(c.Put) == 0 && len(c.Delete) == 0 }

// Diff compares the map's entries with the desired ones, of which it keeps copies
// alone.
func Diff(desired iter.Seq[kernel.VIP], actual []kernel.VIP) Changes {
	have := make(map[kernel.VIPKey]int, len(actual)) // where in actual
	for i, v := range actual {
		have[v.Key] = i
	}
	c := Changes{Drift: map[Drift]int{}}
	for want := range desired {
		at, ok := have[want.Key]
		delete(have, want.Key)
		switch {
		case !ok:
			c.Drift[DriftMissing]++
		case !Same(actual[at], want):
			c.Drift[DriftChanged]++
		default:
			continue
		}
		want.Ranked = slices.Clone(want.Ranked)
		c.Put = append(c.Put, want)
	}
	for key := range have {
		c.Drift[DriftUnknown]++
		c.Delete = append(c.Delete, key)
	}
	return c
}

// Same says whether two entries of one key mean the same.
func Same(a, b kernel.VIP) bool {
	return a.Slot == b.Slot && a.Owner == b.Owner && a.Set == b.Set && slices.Equal(a.Ranked, b.Ranked)
}
