// Package assign decides which Consul server each proxy of a host uses.
//
// It is rendezvous hashing with bounded load. Every proxy scores every server
// by a hash of both names and of the host's, and takes the best one which has
// not had its share of this host's proxies. A share is n/s rounded down or up;
// who has the bigger ones is a hash of the host, so that over many hosts the
// servers' totals are even although no host talks to another.
//
// What is placed stays. A proxy is moved when its server is gone, drained or
// held down for it, or when the servers' loads differ by more than one, and
// then no more proxies are moved than evenness needs.
//
// The package is pure: no clock, no randomness, no I/O. The same input gives
// the same result, in whatever order it comes, on every machine.
package assign

import (
	"cmp"
	"slices"

	"github.com/lictor-mesh/lictor/state"
)

// MaxRanked is the greatest number of servers in a ranked list, as many as the
// kernel's maps hold.
const MaxRanked = 8

// Server is one that the catalog lists. IDs are unique.
type Server struct {
	ID string
	// Drained servers are given to nobody; their proxies leave them with the
	// reason state.PlaceOperator, and not state.PlaceServerGone.
	Drained bool
	// Joining is not empty for a server which was listed or undrained and has
	// not had its share yet. It is then filled to the share which the hash of
	// this host gives it, a big or a small one, with this reason. Otherwise a
	// server is filled no further than to a load of one less than the others',
	// and hosts with few proxies would never give it any. The caller keeps it
	// set until Assign leaves nothing.
	Joining state.PlaceReason
}

// Proxy is one registered on this host. IDs are unique.
type Proxy struct {
	ID     string
	Ranked []string // server ids as placed now, the first in use; empty: to be placed
	// Held are the servers that this proxy must pass over for now, with the
	// reason why. When all of them are held, none is passed over.
	Held map[string]state.PlaceReason
	// Waiting for capacity: refused by every server, it holds no stream. It is
	// no load, and it is not moved for evenness.
	Waiting bool
}

// Change is a new ranked list for one proxy.
type Change struct {
	ID     string
	Ranked []string          // the first in use; empty when no server can be had
	Reason state.PlaceReason // why the first changed, or else why the rest did
}

// Result is what Assign decided.
type Result struct {
	Changes []Change // sorted by ID
	// Moved is how many of the changes take a working server away from a proxy
	// to make the loads even. Each costs its stream when it is enforced.
	Moved int
	// Left is how many more such moves evenness wants, and those that a server
	// which is Joining is kept from by a hold-down: call again when moves are
	// to be had, or the hold has ended.
	Left int
}

// Assign ranks servers for every proxy which needs it. seed names the host.
//
// A proxy whose first server is not to be had is placed at once. Proxies which
// have a working server are moved for evenness only, at most moves of them
// (negative: as many as needed), and never to a server that some proxy of this
// host holds down. A list is renewed too when a server in it is gone, or a
// server is missing in it.
//
// Assign reads its arguments only.
func Assign(proxies []Proxy, servers []Server, seed string, moves int) Result {
	t := newTable(servers, seed)
	items := t.items(proxies)
	t.avoidHeld(items)

	load := make([]int, len(t.ids))
	var homeless []*item
	placed := 0 // those that will count
	for _, it := range items {
		if !it.Waiting {
			placed++
		}
		switch {
		case it.first < 0:
			homeless = append(homeless, it)
		case !it.Waiting:
			load[it.first]++
		}
	}
	want := t.targets(t.order, load, placed)
	for _, it := range homeless {
		it.first = t.pick(it, load, want, -1)
		if it.first >= 0 && !it.Waiting {
			load[it.first]++
		}
	}
	var res Result
	res.Moved, res.Left = t.rebalance(items, load, want, moves)
	for s := range t.ids {
		if t.joining[s] != "" && t.avoid[s] {
			res.Left += max(0, placed/len(t.ids)-load[s])
		}
	}
	t.rank(items)
	for _, it := range items {
		if it.ranked != nil || it.first < 0 && len(it.Ranked) > 0 {
			res.Changes = append(res.Changes, Change{ID: it.ID, Ranked: it.ranked, Reason: it.reason})
		}
	}
	slices.SortFunc(res.Changes, func(a, b Change) int { return cmp.Compare(a.ID, b.ID) })
	return res
}

// rebalance moves proxies from servers above their target to servers below it,
// those first which want their new server most. It returns how many it moved,
// and how many more it would have.
func (t *table) rebalance(items []*item, load, want []int, moves int) (moved, left int) {
	over := false
	for _, s := range t.order {
		over = over || load[s] > want[s]
	}
	if !over {
		return 0, 0
	}
	type option struct {
		it    *item
		to    int
		score uint64
	}
	var options []option
	for _, it := range items {
		if it.first < 0 || it.Waiting || it.reason != "" || load[it.first] <= want[it.first] {
			continue
		}
		for _, s := range t.order {
			if load[s] < want[s] && !t.avoid[s] && !it.holds(t.ids[s]) {
				options = append(options, option{it, s, score(it.hash, t.hashes[s])})
			}
		}
	}
	slices.SortFunc(options, func(a, b option) int {
		return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(a.it.ID, b.it.ID), cmp.Compare(a.to, b.to))
	})
	for _, o := range options {
		from := o.it.first
		if o.it.reason != "" || load[from] <= want[from] || load[o.to] >= want[o.to] {
			continue
		}
		load[from]--
		load[o.to]++
		if moves >= 0 && moved >= moves {
			left++
			// Its own proxy, so that it is not counted again for another server.
			o.it.reason = noMove
			continue
		}
		moved++
		o.it.first = o.to
		o.it.reason = cmp.Or(t.joining[o.to], state.PlaceRebalance)
	}
	for _, it := range items {
		if it.reason == noMove {
			it.reason = ""
		}
	}
	return moved, left
}

// noMove marks an item which would be moved if there were a move left.
const noMove state.PlaceReason = "-"
