package assign

import (
	"cmp"
	"slices"

	"github.com/lictor-mesh/lictor/state"
)

// targets says how many of total each server should have, given what it has.
// order says who is first to get a bigger share where nothing else decides.
//
// Servers to be avoided keep what they have and share in nothing else.
func (t *table) targets(order, load []int, total int) []int {
	want := make([]int, len(t.ids))
	sharing := make([]int, 0, len(order))
	for _, s := range order {
		if t.avoid[s] {
			want[s] = load[s]
			total -= load[s]
			continue
		}
		sharing = append(sharing, s)
	}
	if len(sharing) == 0 {
		return want
	}
	share, bigger := total/len(sharing), total%len(sharing)
	var rest []int
	for i, s := range sharing {
		want[s] = share
		if t.joining[s] != "" && i < bigger {
			want[s]++
			continue
		}
		rest = append(rest, s)
	}
	bigger -= len(sharing) - len(rest)
	// The others' bigger shares go to those that have most: the fewest moves.
	// The sort is stable, so order decides among equals.
	slices.SortStableFunc(rest, func(a, b int) int {
		return cmp.Or(cmp.Compare(load[b], load[a]), cmp.Compare(t.joining[a], t.joining[b]))
	})
	for _, s := range rest[:bigger] {
		want[s]++
	}
	return want
}

// pick chooses a server for one proxy, but not taken: the next of its old list,
// where the kernel has sent it meanwhile, or else the one of best score, among
// those with room; without room the least loaded. It returns -1 for none.
//
// It may pass a bigger share, which nobody has used yet, on in want.
func (t *table) pick(it *item, load, want []int, taken int) int {
	for _, s := range it.old {
		if s == taken || it.holds(t.ids[s]) {
			continue
		}
		if load[s] < want[s] || t.passShare(s, load, want) {
			return s
		}
	}
	best := -1
	var bestScore uint64
	for s := range t.ids {
		if s == taken || it.holds(t.ids[s]) {
			continue
		}
		sc := score(it.hash, t.hashes[s])
		if best < 0 || t.better(s, best, load, want, sc > bestScore) {
			best, bestScore = s, sc
		}
	}
	return best
}

// passShare gives server s the bigger share of another that has not filled it,
// and says whether it did. The loads get as even as they would have been.
func (t *table) passShare(s int, load, want []int) bool {
	if t.avoid[s] || load[s] != want[s] {
		return false
	}
	for _, other := range t.order {
		if want[other] == want[s]+1 && load[other] < want[other] && t.joining[other] == "" && !t.avoid[other] {
			want[other]--
			want[s]++
			return true
		}
	}
	return false
}

// better says whether server a is to be preferred to b; wanted, whether the
// proxy's own score prefers it.
func (t *table) better(a, b int, load, want []int, wanted bool) bool {
	roomA, roomB := load[a] < want[a], load[b] < want[b]
	switch {
	case roomA != roomB:
		return roomA
	case roomA:
		return wanted
	case t.avoid[a] != t.avoid[b]:
		return t.avoid[b]
	case load[a] != load[b]:
		return load[a] < load[b]
	}
	return wanted
}

// rank writes new lists for the proxies that need one. The second ranks of the
// proxies of one server are spread as evenly as first ranks are, for that is
// where they all go at once when it dies. Further ranks follow the score.
func (t *table) rank(items []*item) {
	groups := make([][]*item, len(t.ids))
	for _, it := range items {
		if it.first >= 0 {
			groups[it.first] = append(groups[it.first], it)
		}
	}
	for first, group := range groups {
		if !slices.ContainsFunc(group, (*item).renewed) {
			continue
		}
		second := make([]int, len(t.ids))
		for _, it := range group {
			if !it.renewed() && len(it.old) > 1 {
				second[it.old[1]]++
			}
		}
		want := t.seconds(first, second, len(group))
		for _, it := range group {
			if it.renewed() {
				t.write(it, second, want)
			}
		}
	}
}

func (it *item) renewed() bool { return it.reason != "" || it.stale }

// seconds is targets for the second ranks of one server's proxies.
func (t *table) seconds(first int, second []int, total int) []int {
	order := t.orderFor(t.seed ^ t.hashes[first])
	order = slices.DeleteFunc(order, func(s int) bool { return s == first })
	return t.targets(order, second, total)
}

// write makes the list of one proxy whose first server is decided.
func (t *table) write(it *item, second, want []int) {
	if it.reason == "" {
		it.reason = t.lost(it)
	}
	rest := make([]int, 0, len(t.ids))
	for s := range t.ids {
		if s != it.first {
			rest = append(rest, s)
		}
	}
	slices.SortFunc(rest, func(a, b int) int {
		if ha, hb := it.holds(t.ids[a]), it.holds(t.ids[b]); ha != hb {
			if hb {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(score(it.hash, t.hashes[b]), score(it.hash, t.hashes[a])), cmp.Compare(a, b))
	})
	it.ranked = append(make([]string, 0, min(MaxRanked, len(t.ids))), t.ids[it.first])
	next := t.pick(it, second, want, it.first)
	if next >= 0 {
		second[next]++
		it.ranked = append(it.ranked, t.ids[next])
	}
	for _, s := range rest {
		if s != next && len(it.ranked) < MaxRanked {
			it.ranked = append(it.ranked, t.ids[s])
		}
	}
}

// lost says why a list must be renewed whose first server stays.
func (t *table) lost(it *item) state.PlaceReason {
	for _, id := range it.Ranked {
		if t.drained[id] {
			return state.PlaceOperator
		}
		if _, ok := t.index[id]; !ok {
			return state.PlaceServerGone
		}
	}
	for s, why := range t.joining {
		if why != "" && !slices.Contains(it.old, s) {
			return why
		}
	}
	return state.PlaceRebalance
}
