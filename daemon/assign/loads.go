package assign

// Loads counts the proxies of a host by their ranked lists, so that one more
// can be placed without a look at all of them. The zero value is empty. It is
// not safe for concurrent use.
type Loads struct {
	first  map[string]int
	second map[[2]string]int
}

// Add counts a proxy's list. Lists of proxies that wait are not to be added.
func (l *Loads) Add(ranked []string) { l.count(ranked, 1) }

// Remove takes back an Add of the same list.
func (l *Loads) Remove(ranked []string) { l.count(ranked, -1) }

// First is how many of the lists begin with a server.
func (l *Loads) First(id string) int { return l.first[id] }

func (l *Loads) count(ranked []string, n int) {
	if len(ranked) == 0 {
		return
	}
	if l.first == nil {
		l.first, l.second = map[string]int{}, map[[2]string]int{}
	}
	add(l.first, ranked[0], n)
	if len(ranked) > 1 {
		add(l.second, [2]string{ranked[0], ranked[1]}, n)
	}
}

// add forgets what falls to nothing, so that servers gone for good leave no
// entry behind.
func add[K comparable](m map[K]int, key K, n int) {
	if m[key] += n; m[key] == 0 {
		delete(m, key)
	}
}

// Rank is the list for one more proxy, beside those in loads. It is empty when
// no server is to be had. Its cost does not depend on the number of proxies.
func Rank(id string, servers []Server, seed string, loads *Loads) []string {
	t := newTable(servers, seed)
	it := t.item(&Proxy{ID: id})
	load := make([]int, len(t.ids))
	total := 1
	for s, id := range t.ids {
		load[s] = loads.first[id]
		total += load[s]
	}
	if it.first = t.pick(&it, load, t.targets(t.order, load, total), -1); it.first < 0 {
		return nil
	}
	second := make([]int, len(t.ids))
	total = 1
	for s, id := range t.ids {
		second[s] = loads.second[[2]string{t.ids[it.first], id}]
		total += second[s]
	}
	t.write(&it, second, t.seconds(it.first, second, total))
	return it.ranked
}
