package assign

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/lictor-mesh/lictor/state"
)

// model is a host whose proxies and servers come and go as rapid wants.
type model struct {
	*host
	listed  map[string]Server
	nextID  int
	settled bool // the last call left nothing to do, and nobody left since
}

func (m *model) servers() (all []Server) {
	for _, s := range m.listed {
		all = append(all, s)
	}
	return all
}

func (m *model) eligible() (all []Server) {
	for _, s := range m.listed {
		if !s.Drained {
			all = append(all, s)
		}
	}
	return all
}

func (m *model) anyServer(t *rapid.T) string {
	ids := make([]string, 0, len(m.listed))
	for id := range m.listed {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return rapid.SampledFrom(ids).Draw(t, "server")
}

// assign applies a call and checks what must hold after any of them.
func (m *model) assign(t *rapid.T, moves int) Result {
	before := m.copy()
	in, all := m.input(), m.servers()
	res := Assign(in, all, m.seed, moves)

	// The order of the input means nothing.
	rand.Shuffle(len(in), func(i, j int) { in[i], in[j] = in[j], in[i] })
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	if again := Assign(in, all, m.seed, moves); !reflect.DeepEqual(res, again) {
		t.Fatalf("another order, another result:\n%+v\n%+v", res, again)
	}
	if moves >= 0 && res.Moved > moves {
		t.Fatalf("moved %d of %d", res.Moved, moves)
	}
	ok := map[string]bool{}
	for _, s := range m.eligible() {
		ok[s.ID] = true
	}
	moved := 0
	for _, c := range res.Changes {
		m.proxies[c.ID] = c.Ranked
		if old := before[c.ID]; len(old) > 0 && ok[old[0]] && old[0] != c.Ranked[0] {
			moved++
		}
		if c.Reason == "" || c.Reason == noMove {
			t.Fatalf("%s has no reason", c.ID)
		}
	}
	if moved != res.Moved {
		t.Fatalf("%d lost a working server, the result says %d", moved, res.Moved)
	}
	for id, ranked := range m.proxies {
		if len(ranked) != min(MaxRanked, len(ok)) {
			t.Fatalf("%s: %v of %d servers", id, ranked, len(ok))
		}
		if len(slices.Compact(slices.Sorted(slices.Values(ranked)))) != len(ranked) {
			t.Fatalf("%s: twice the same in %v", id, ranked)
		}
		for _, s := range ranked {
			if !ok[s] {
				t.Fatalf("%s: %s is not to be had", id, s)
			}
		}
	}
	m.settled = res.Left == 0
	if m.settled {
		if len(ok) > 0 && len(m.proxies) > 0 && spreadOf(m.loads(0), m.eligible()) > 1 {
			t.Fatalf("nothing left to move, loads %v", m.loads(0))
		}
		for id, s := range m.listed {
			s.Joining = ""
			m.listed[id] = s
		}
	}
	return res
}

func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{host: newHost(rapid.StringN(0, 8, -1).Draw(t, "seed"), 0), listed: map[string]Server{}}
		t.Repeat(map[string]func(*rapid.T){
			"register": func(t *rapid.T) {
				for range rapid.IntRange(1, 12).Draw(t, "n") {
					m.nextID++
					m.proxies[fmt.Sprint("p", m.nextID)] = nil
				}
				if res := m.assign(t, 0); res.Moved != 0 {
					t.Fatal("a registration moved others")
				}
			},
			"rank": func(t *rapid.T) {
				var loads Loads
				for _, ranked := range m.proxies {
					loads.Add(ranked)
				}
				m.nextID++
				id := fmt.Sprint("p", m.nextID)
				m.proxies[id] = Rank(id, m.servers(), m.seed, &loads)
				even := m.settled
				if m.assign(t, 0); even && !m.settled {
					t.Fatalf("Rank made loads uneven: %v", m.loads(0))
				}
			},
			"deregister": func(t *rapid.T) {
				m.settled = false
				n := rapid.IntRange(0, len(m.proxies)).Draw(t, "n")
				ids := make([]string, 0, len(m.proxies))
				for id := range m.proxies {
					ids = append(ids, id)
				}
				slices.Sort(ids)
				for _, id := range ids[:n] {
					delete(m.proxies, id)
				}
			},
			"join": func(t *rapid.T) {
				id := fmt.Sprint("s", rapid.IntRange(0, 11).Draw(t, "id"))
				if _, listed := m.listed[id]; !listed {
					m.listed[id] = Server{ID: id, Joining: state.PlaceRebalance}
				}
				if len(m.eligible()) > 0 {
					m.assign(t, rapid.IntRange(-1, 5).Draw(t, "moves"))
				}
			},
			"leave": func(t *rapid.T) {
				if len(m.listed) == 0 {
					t.Skip("none listed")
				}
				even := m.settled
				id := m.anyServer(t)
				drained := m.listed[id].Drained
				delete(m.listed, id)
				if res := m.assign(t, -1); even && !drained && res.Moved != 0 {
					t.Fatalf("%s left an even host, and %d others were moved", id, res.Moved)
				}
			},
			"drain": func(t *rapid.T) {
				if len(m.listed) == 0 {
					t.Skip("none listed")
				}
				s := m.listed[m.anyServer(t)]
				if s.Drained = !s.Drained; !s.Drained {
					s.Joining = state.PlaceOperator
				}
				m.listed[s.ID] = s
				m.assign(t, rapid.IntRange(-1, 5).Draw(t, "moves"))
			},
			"rebalance": func(t *rapid.T) {
				m.assign(t, -1)
				if res := m.assign(t, -1); len(res.Changes) != 0 || res.Left != 0 {
					t.Fatalf("a second call is not quiet: %+v", res)
				}
			},
		})
	})
}

// Whatever is held down, nobody is put where it may not go while it may go
// elsewhere, and calls with the same holds come to rest.
func TestHeldModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := servers("a", "b", "c", "d", "e")[:rapid.IntRange(1, 5).Draw(t, "servers")]
		h := newHost("host", rapid.IntRange(1, 40).Draw(t, "proxies"))
		h.apply(all, 0)
		held := map[string]map[string]state.PlaceReason{}
		for id := range h.proxies {
			held[id] = map[string]state.PlaceReason{}
		}
		ids := make([]string, 0, len(held))
		for id := range held {
			ids = append(ids, id)
		}
		slices.Sort(ids)
		for range rapid.IntRange(0, 20).Draw(t, "holds") {
			held[rapid.SampledFrom(ids).Draw(t, "proxy")][rapid.SampledFrom(all).Draw(t, "held").ID] = state.PlaceBounced
		}
		call := func() Result {
			in := h.input()
			for i := range in {
				in[i].Held = held[in[i].ID]
			}
			res := Assign(in, all, h.seed, -1)
			for _, c := range res.Changes {
				h.proxies[c.ID] = c.Ranked
			}
			return res
		}
		call()
		for id, ranked := range h.proxies {
			if held[id][ranked[0]] != "" && len(held[id]) < len(all) {
				t.Fatalf("%s holds %v and was put on %s", id, held[id], ranked[0])
			}
		}
		// Holds can make the first choice a poor one; every call after it makes
		// the loads more even, or is quiet.
		for n := 0; len(call().Changes) != 0; n++ {
			if n == len(h.proxies) {
				t.Fatalf("never quiet")
			}
		}
	})
}
