package assign

import (
	"cmp"
	"slices"

	"github.com/lictor-mesh/lictor/state"
)

// table is the servers that may be given out, by index. Index order is id
// order, so that no result depends on the order of the input.
type table struct {
	seed    uint64
	ids     []string
	hashes  []uint64
	avoid   []bool // some proxy of this host holds it down, and nobody is sent there
	joining []state.PlaceReason
	index   map[string]int  // id → index
	drained map[string]bool // ids which are listed but not given out
	order   []int           // all indices; the first ones get the bigger shares on this host
}

func newTable(servers []Server, seed string) *table {
	t := &table{
		seed:    hash(0, seed),
		index:   make(map[string]int, len(servers)),
		drained: map[string]bool{},
	}
	servers = slices.SortedFunc(slices.Values(servers), func(a, b Server) int { return cmp.Compare(a.ID, b.ID) })
	for _, s := range servers {
		if s.Drained {
			t.drained[s.ID] = true
			continue
		}
		t.index[s.ID] = len(t.ids)
		t.ids = append(t.ids, s.ID)
		t.hashes = append(t.hashes, hash(0, s.ID))
		t.joining = append(t.joining, s.Joining)
	}
	t.avoid = make([]bool, len(t.ids))
	t.order = t.orderFor(t.seed)
	return t
}

// orderFor is the order in which servers get bigger shares, by a hash.
func (t *table) orderFor(h uint64) []int {
	order := make([]int, len(t.ids))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(score(h, t.hashes[b]), score(h, t.hashes[a])), cmp.Compare(a, b))
	})
	return order
}

// item is a proxy under decision.
type item struct {
	*Proxy
	hash   uint64
	old    []int // what of Ranked can be had, as indices
	first  int   // index of the server in use, -1 for none
	reason state.PlaceReason
	stale  bool     // Ranked must be renewed though its first stays
	ranked []string // the new list; nil: as before
}

// holds says whether the proxy passes a server over. Held is nil where it
// would leave the proxy nothing.
func (it *item) holds(id string) bool { return it.Held[id] != "" }

// items prepares the proxies in the order of their hashes, with the reason set
// for those that lose their first server.
func (t *table) items(proxies []Proxy) []*item {
	all := make([]item, len(proxies))
	items := make([]*item, len(proxies))
	for i := range proxies {
		all[i] = t.item(&proxies[i])
		items[i] = &all[i]
	}
	slices.SortFunc(items, func(a, b *item) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.ID, b.ID))
	})
	return items
}

func (t *table) item(p *Proxy) item {
	it := item{Proxy: p, hash: hash(t.seed, p.ID), first: -1}
	if len(p.Held) > 0 && t.allHeld(p) {
		open := *p
		open.Held = nil
		it.Proxy = &open
	}
	if len(p.Ranked) == 0 {
		it.reason = state.PlaceInitial
		return it
	}
	it.old = make([]int, 0, len(p.Ranked))
	lost := state.PlaceReason("")
	for _, id := range p.Ranked {
		switch s, ok := t.index[id]; {
		case ok:
			it.old = append(it.old, s)
		case t.drained[id]:
			lost = cmp.Or(lost, state.PlaceOperator)
		default:
			lost = cmp.Or(lost, state.PlaceServerGone)
		}
	}
	it.stale = lost != "" || len(it.old) != min(MaxRanked, len(t.ids))
	s, ok := t.index[p.Ranked[0]]
	switch {
	case !ok:
		it.reason = lost
	case it.holds(p.Ranked[0]):
		it.reason = it.Held[p.Ranked[0]]
	default:
		it.first = s
	}
	return it
}

// allHeld says whether a proxy holds every server. That tells more about the
// proxy (a token that is gone) or about all servers (full) than about one.
func (t *table) allHeld(p *Proxy) bool {
	for _, id := range t.ids {
		if p.Held[id] == "" {
			return false
		}
	}
	return true
}

// avoidHeld makes proxies learn from each other: what one of them holds down,
// the others are not sent to, unless nothing else is left.
func (t *table) avoidHeld(items []*item) {
	for _, it := range items {
		if it.Waiting {
			continue
		}
		for id := range it.Held {
			if s, ok := t.index[id]; ok {
				t.avoid[s] = true
			}
		}
	}
	if !slices.Contains(t.avoid, false) {
		clear(t.avoid)
	}
}
