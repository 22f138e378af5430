package catalog

import (
	"cmp"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
)

// targets are the HTTP addresses to go to: those that the operator gave, and
// those of the servers that the catalog listed last. Safe for concurrent use;
// the zero value has none.
type targets struct {
	mu       sync.Mutex
	operator []string
	catalog  []string
	attempts uint64
	last     map[string]uint64 // address → number of its last attempt; absent: none
}

// next is the address that was not attempted for the longest time, those never
// attempted first, the operator's before the catalog's; and how many there are.
// It never goes back to the server it has just left while there is another.
//
// Of those never attempted it is one by chance: hosts have the same list, and
// would all follow its first server, and all leave it for the second.
func (t *targets) next() (addr string, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := t.all()
	if len(all) == 0 {
		return "", 0
	}
	attempted := func(a string) bool { return t.last[a] > 0 }
	fresh := slices.DeleteFunc(slices.Clone(t.operator), attempted)
	if len(fresh) == 0 {
		fresh = slices.DeleteFunc(slices.Clone(all), attempted)
	}
	if len(fresh) > 0 {
		addr = fresh[rand.IntN(len(fresh))]
	} else {
		addr = slices.MinFunc(all, func(a, b string) int { return cmp.Compare(t.last[a], t.last[b]) })
	}
	t.attempts++
	if t.last == nil {
		t.last = map[string]uint64{}
	}
	t.last[addr] = t.attempts
	return addr, len(all)
}

// postpone lets the others go first twice more, as is due to a server that took
// its time and answered nothing: while there is no leader to be found, all are
// asked in turns, and each turn of a stopped server is lost.
func (t *targets) postpone(addr string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if at, ok := t.last[addr]; ok {
		t.last[addr] = at + 2*uint64(len(t.all()))
	}
}

func (t *targets) all() []string {
	all := slices.Clone(t.operator)
	for _, a := range t.catalog {
		if !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	return all
}

// given says whether an address is one of the operator's. So is "", for what
// goes wrong before there is an address.
func (t *targets) given(addr string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return addr == "" || slices.Contains(t.operator, addr)
}

// setOperator replaces what the operator's addresses resolve to.
func (t *targets) setOperator(addrs []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.operator = addrs
	t.forget()
}

// setCatalog replaces the catalog's servers.
func (t *targets) setCatalog(servers []Server, port uint16) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.catalog = t.catalog[:0]
	for _, s := range servers {
		for _, a := range []netip.Addr{s.Addr4, s.Addr6} {
			if a.IsValid() {
				t.catalog = append(t.catalog, hostPort(a.String(), port))
				break
			}
		}
	}
	t.forget()
}

// forget drops the attempts at addresses which are no more.
func (t *targets) forget() {
	all := t.all()
	for a := range t.last {
		if !slices.Contains(all, a) {
			delete(t.last, a)
		}
	}
}

func hostPort(host string, port uint16) string {
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}
