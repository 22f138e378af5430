package assign

import (
	"fmt"
	"slices"
	"testing"

	"github.com/lictor-mesh/lictor/state"
)

// host is a host's assignments as a daemon would keep them.
type host struct {
	seed    string
	proxies map[string][]string
}

func newHost(seed string, n int) *host {
	h := &host{seed: seed, proxies: map[string][]string{}}
	for i := range n {
		h.proxies[fmt.Sprintf("web-%d-sidecar-proxy", i)] = nil
	}
	return h
}

func (h *host) input() []Proxy {
	var in []Proxy
	for id, ranked := range h.proxies { // in random order, on purpose
		in = append(in, Proxy{ID: id, Ranked: ranked})
	}
	return in
}

// apply runs Assign and takes its result over.
func (h *host) apply(servers []Server, moves int) Result {
	res := Assign(h.input(), servers, h.seed, moves)
	for _, c := range res.Changes {
		h.proxies[c.ID] = c.Ranked
	}
	return res
}

// loads counts the proxies by the server at one rank.
func (h *host) loads(rank int) map[string]int {
	n := map[string]int{}
	for _, ranked := range h.proxies {
		n[ranked[rank]]++
	}
	return n
}

// firstMoved counts the proxies whose first server differs from before.
func (h *host) firstMoved(before map[string][]string) (moved int) {
	for id, ranked := range h.proxies {
		if ranked[0] != before[id][0] {
			moved++
		}
	}
	return moved
}

func (h *host) copy() map[string][]string {
	c := map[string][]string{}
	for id, ranked := range h.proxies {
		c[id] = slices.Clone(ranked)
	}
	return c
}

func servers(ids ...string) (s []Server) {
	for _, id := range ids {
		s = append(s, Server{ID: id})
	}
	return s
}

// spreadOf is the greatest load less the smallest, over the servers named.
func spreadOf(loads map[string]int, s []Server) int {
	lo, hi := 1<<62, 0
	for _, server := range s {
		lo, hi = min(lo, loads[server.ID]), max(hi, loads[server.ID])
	}
	return hi - lo
}

func TestEven(t *testing.T) {
	abc := servers("a", "b", "c")
	for _, n := range []int{1, 2, 3, 7, 50, 110, 299, 300} {
		h := newHost("host", n)
		res := h.apply(abc, 0)
		if len(res.Changes) != n || res.Moved != 0 || res.Left != 0 {
			t.Fatalf("%d proxies: %d changes, moved %d, left %d", n, len(res.Changes), res.Moved, res.Left)
		}
		if d := spreadOf(h.loads(0), abc); d > 1 {
			t.Errorf("%d proxies: loads %v", n, h.loads(0))
		}
		for id, ranked := range h.proxies {
			if sorted := slices.Sorted(slices.Values(ranked)); !slices.Equal(sorted, []string{"a", "b", "c"}) {
				t.Errorf("%s: ranked %v", id, ranked)
			}
		}
		if again := h.apply(abc, -1); len(again.Changes) != 0 {
			t.Errorf("%d proxies: a second call changes %v", n, again.Changes)
		}
	}
}

func TestServerLeaves(t *testing.T) {
	for _, n := range []int{7, 50, 300} {
		h := newHost("host", n)
		h.apply(servers("a", "b", "c", "d"), 0)
		before := h.copy()
		rest := servers("a", "b", "d")
		res := h.apply(rest, -1)
		if d := spreadOf(h.loads(0), rest); d > 1 {
			t.Errorf("%d proxies: loads %v", n, h.loads(0))
		}
		if res.Moved != 0 {
			t.Errorf("%d proxies: moved %d that had a server", n, res.Moved)
		}
		followed := 0
		for id, old := range before {
			now := h.proxies[id]
			if old[0] != "c" && now[0] != old[0] {
				t.Errorf("%s was on %s and went to %s", id, old[0], now[0])
			}
			if old[0] == "c" && now[0] == old[1] {
				followed++
			}
		}
		// The kernel has sent them to their second choice already; to confirm
		// that costs nobody a stream.
		if c := n / 4; followed < c-2 {
			t.Errorf("%d proxies: %d of %d stayed where the kernel took them", n, followed, c)
		}
		for _, c := range res.Changes {
			if c.Reason != state.PlaceServerGone {
				t.Errorf("%s: reason %s", c.ID, c.Reason)
			}
		}
	}
}

func TestServerJoins(t *testing.T) {
	for _, n := range []int{1, 7, 50, 300} {
		for _, joining := range []state.PlaceReason{"", state.PlaceRebalance, state.PlaceOperator} {
			h := newHost("host", n)
			h.apply(servers("a", "b", "c"), 0)
			before := h.copy()
			four := append(servers("a", "b", "c"), Server{ID: "d", Joining: joining})
			res := h.apply(four, -1)
			if d := spreadOf(h.loads(0), four); d > 1 {
				t.Errorf("%d proxies: loads %v", n, h.loads(0))
			}
			most := n / 4
			if joining != "" {
				most = (n + 3) / 4
			}
			if moved := h.firstMoved(before); moved > most || moved != res.Moved {
				t.Errorf("%d proxies: %d moved, result says %d, evenness needs %d", n, moved, res.Moved, most)
			}
			for _, c := range res.Changes {
				if want := joining; want != "" && c.Reason != want {
					t.Errorf("reason %s, want %s", c.Reason, want)
				}
				if c.Ranked[0] != before[c.ID][0] && c.Ranked[0] != "d" {
					t.Errorf("%s moved to %s, which did not join", c.ID, c.Ranked[0])
				}
			}
		}
	}
}

func TestMovesAreLimited(t *testing.T) {
	h := newHost("host", 40)
	h.apply(servers("a", "b", "c"), 0)
	four := append(servers("a", "b", "c"), Server{ID: "d", Joining: state.PlaceRebalance})
	for left := 10; left > 0; {
		before := h.copy()
		step := min(3, left)
		res := h.apply(four, 3)
		if res.Moved != step || res.Left != left-step || h.firstMoved(before) != step {
			t.Fatalf("moved %d (seen %d), left %d; want %d, %d", res.Moved, h.firstMoved(before), res.Left, step, left-step)
		}
		for id, ranked := range h.proxies {
			if !slices.Contains(ranked, "d") {
				t.Fatalf("%s does not know d: %v", id, ranked)
			}
		}
		left -= step
	}
	if d := spreadOf(h.loads(0), four); d != 0 {
		t.Errorf("loads %v", h.loads(0))
	}
}

func TestDrain(t *testing.T) {
	h := newHost("host", 30)
	h.apply(servers("a", "b", "c"), 0)
	res := h.apply([]Server{{ID: "a"}, {ID: "b", Drained: true}, {ID: "c"}}, 0)
	if n := h.loads(0); n["a"] != 15 || n["c"] != 15 {
		t.Errorf("loads %v", n)
	}
	for _, c := range res.Changes {
		if c.Reason != state.PlaceOperator {
			t.Errorf("%s: reason %s", c.ID, c.Reason)
		}
	}
	res = h.apply([]Server{{ID: "a", Drained: true}, {ID: "b", Drained: true}, {ID: "c", Drained: true}}, 0)
	if len(res.Changes) != 30 || len(res.Changes[0].Ranked) != 0 || res.Changes[0].Reason != state.PlaceOperator {
		t.Errorf("with all drained: %v", res.Changes)
	}
	if res = h.apply(nil, 0); len(res.Changes) != 0 {
		t.Errorf("without servers, a second time: %v", res.Changes)
	}
	if res = h.apply(servers("a"), 0); len(res.Changes) != 30 || res.Changes[0].Reason != state.PlaceInitial {
		t.Errorf("a server again: %v", res.Changes)
	}
}

func TestHeld(t *testing.T) {
	bounced := map[string]state.PlaceReason{"a": state.PlaceBounced}
	h := newHost("host", 30)
	abc := servers("a", "b", "c")
	h.apply(abc, 0)

	in := h.input()
	var who *Proxy
	for i := range in {
		if in[i].Ranked[0] == "a" {
			who = &in[i]
		}
	}
	who.Held = bounced
	res := Assign(in, abc, h.seed, -1)
	if len(res.Changes) != 1 || res.Moved != 0 {
		t.Fatalf("others were moved to the server that refuses: %+v", res)
	}
	c := res.Changes[0]
	if c.ID != who.ID || c.Ranked[0] != who.Ranked[1] || c.Reason != state.PlaceBounced || c.Ranked[2] != "a" {
		t.Errorf("%v became %+v", who.Ranked, c)
	}

	// A newcomer is not sent where a neighbour was refused, not even when the
	// server has fewer.
	in = append(in, Proxy{ID: "new-1"}, Proxy{ID: "new-2"}, Proxy{ID: "new-3"})
	for _, c := range Assign(in, abc, h.seed, -1).Changes {
		if c.Ranked[0] == "a" {
			t.Errorf("%s placed on the server that refuses", c.ID)
		}
	}

	// One that is refused everywhere stays, and says nothing about the servers.
	who.Held = map[string]state.PlaceReason{"a": state.PlaceBounced, "b": state.PlaceBounced, "c": state.PlaceConnectFailed}
	res = Assign(in, abc, h.seed, -1)
	n := map[string]int{}
	for _, c := range res.Changes {
		n[c.Ranked[0]]++
	}
	if len(res.Changes) != 3 || n["a"] != 1 || n["b"] != 1 || n["c"] != 1 {
		t.Errorf("with one proxy refused everywhere, three new ones: %+v", res.Changes)
	}
}

func TestWaitingIsNoLoad(t *testing.T) {
	var in []Proxy
	for i := range 6 {
		in = append(in, Proxy{ID: fmt.Sprint("waiting-", i), Ranked: []string{"a", "b"}, Waiting: true})
	}
	in = append(in, Proxy{ID: "1", Ranked: []string{"a", "b"}}, Proxy{ID: "2", Ranked: []string{"b", "a"}})
	if res := Assign(in, servers("a", "b"), "host", -1); len(res.Changes) != 0 || res.Left != 0 {
		t.Errorf("waiting proxies were moved: %+v", res)
	}
	res := Assign(in, servers("b", "c"), "host", -1)
	if len(res.Changes) != 8 {
		t.Errorf("%d changes after a server left", len(res.Changes))
	}
	in = append(in[:6], Proxy{ID: "1", Ranked: []string{"b", "a"}}, Proxy{ID: "2", Ranked: []string{"b", "a"}}, Proxy{ID: "new"})
	res = Assign(in, servers("a", "b"), "host", 0)
	if len(res.Changes) != 1 || res.Changes[0].Ranked[0] != "a" {
		t.Errorf("a has six that wait and nobody else, and a new one is placed so: %+v", res.Changes)
	}
}

func TestSecondRanksAreEven(t *testing.T) {
	five := servers("a", "b", "c", "d", "e")
	check := func(t *testing.T, h *host, all []Server) {
		t.Helper()
		for _, dead := range all {
			second := map[string]int{}
			for _, ranked := range h.proxies {
				if ranked[0] == dead.ID {
					second[ranked[1]]++
				}
			}
			rest := slices.DeleteFunc(slices.Clone(all), func(s Server) bool { return s.ID == dead.ID })
			if d := spreadOf(second, rest); d > 1 {
				t.Errorf("proxies of %s go to %v", dead.ID, second)
			}
		}
	}
	h := newHost("host", 100)
	h.apply(five, 0)
	check(t, h, five)
	four := servers("a", "b", "c", "d")
	h.apply(four, 0)
	check(t, h, four)
	five[4].Joining = state.PlaceRebalance
	h.apply(five, -1)
	check(t, h, five)
}

func TestMoreServersThanRanks(t *testing.T) {
	var twelve []Server
	for i := range 12 {
		twelve = append(twelve, Server{ID: fmt.Sprintf("server-%d", i)})
	}
	h := newHost("host", 100)
	h.apply(twelve, 0)
	for _, ranked := range h.proxies {
		sorted := slices.Sorted(slices.Values(ranked))
		if len(ranked) != MaxRanked || len(slices.Compact(sorted)) != MaxRanked {
			t.Fatalf("ranked %v", ranked)
		}
	}
	if d := spreadOf(h.loads(0), twelve); d > 1 {
		t.Errorf("loads %v", h.loads(0))
	}
	h.apply(twelve[:11], 0)
	if d := spreadOf(h.loads(0), twelve[:11]); d > 1 {
		t.Errorf("loads %v", h.loads(0))
	}
}

func TestRankOneByOne(t *testing.T) {
	abc := servers("a", "b", "c")
	h := newHost("host", 0)
	var loads Loads
	for i := range 110 {
		id := fmt.Sprintf("web-%d", i)
		h.proxies[id] = Rank(id, abc, h.seed, &loads)
		loads.Add(h.proxies[id])
		if d := spreadOf(h.loads(0), abc); d > 1 {
			t.Fatalf("after %d: loads %v", i+1, h.loads(0))
		}
	}
	if res := h.apply(abc, -1); len(res.Changes) != 0 {
		t.Errorf("Assign changes what Rank placed: %v", res.Changes)
	}
	if loads.First("a") != h.loads(0)["a"] {
		t.Errorf("First says %d", loads.First("a"))
	}
	for _, ranked := range h.proxies {
		loads.Remove(ranked)
	}
	if len(loads.first)+len(loads.second) != 0 {
		t.Errorf("left in loads: %v", loads)
	}
	if got := Rank("x", nil, "host", &loads); len(got) != 0 {
		t.Errorf("without servers: %v", got)
	}
}

func BenchmarkAssign(b *testing.B) {
	five := servers("a", "b", "c", "d", "e")
	h := newHost("host", 10_000)
	fresh := h.input()
	h.apply(five, 0)
	placed := h.input()
	six := append(servers("a", "b", "c", "d", "e"), Server{ID: "f", Joining: state.PlaceRebalance})
	for _, bb := range []struct {
		name    string
		proxies []Proxy
		servers []Server
	}{
		{"initial", fresh, five}, {"unchanged", placed, five}, {"leave", placed, five[:4]}, {"join", placed, six},
	} {
		b.Run(bb.name, func(b *testing.B) {
			for b.Loop() {
				Assign(bb.proxies, bb.servers, "host", -1)
			}
		})
	}
	b.Run("rank", func(b *testing.B) {
		var loads Loads
		for _, p := range placed {
			loads.Add(p.Ranked)
		}
		for b.Loop() {
			Rank("one-more", five, "host", &loads)
		}
	})
}
