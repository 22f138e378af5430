package statuspage

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/state"
)

const (
	maxNews  = 60               // that are remembered
	maxNames = 12               // of proxies that are told with one of them
	together = 3 * time.Second  // within which the same for another proxy is the same news
	recently = 30 * time.Second // that is why a proxy connects anew
	tail     = 4096             // journaled events that are read at the start
)

// What a proxy does that was placed elsewhere.
const (
	moved    = "moved"
	willMove = "will move"
)

// news is something that happened: proxies that moved, a server that came or
// went. What happens to many proxies at once is one of them.
type news struct {
	ID    uint64   `json:"id"` // later ones have greater ones
	At    int64    `json:"at"`
	Level level    `json:"level"`
	Text  string   `json:"text"`
	Why   string   `json:"why,omitempty"`
	Names []string `json:"names,omitempty"` // of the proxies, the first of them, when there are several
}

// chronicle makes news of journaled events and of connections. The journal knows
// of a move that the kernel made once it has settled, which takes seconds; the
// connection tells at once. It is for one goroutine.
type chronicle struct {
	last    uint64             // the sequence number that was added last
	made    uint64             // news ever
	servers map[string]string  // by proxy: the one in use
	trouble map[string]trouble // by proxy: what its last connection ended with
	failed  map[string]trouble // by server: when it last failed one of them
	drained map[string]bool    // servers
	entries []*entry           // oldest first, at most maxNews
}

// trouble is why a proxy had to connect anew.
type trouble struct {
	why string
	at  time.Time
}

// entry is news that may still grow.
type entry struct {
	news
	key     string // what is the same news
	until   time.Time
	verb    string
	from    string
	to      []target // in the order of their first proxy
	proxies int
}

// target counts proxies that went to a server.
type target struct {
	server string
	n      int
}

func newChronicle() *chronicle {
	return &chronicle{servers: map[string]string{}, trouble: map[string]trouble{}, failed: map[string]trouble{}, drained: map[string]bool{}}
}

// seed says where proxies are of which no event was read.
func (c *chronicle) seed(proxies []proxy) {
	for _, p := range proxies {
		if _, known := c.servers[p.ID]; !known {
			c.servers[p.ID] = p.Server
		}
	}
}

// add gives the news that an event makes, or changes; nil for none. Events come
// in order; one that comes again is none.
func (c *chronicle) add(e v1.JournalEvent) *entry {
	if e.Seq <= c.last {
		return nil
	}
	c.last = e.Seq
	switch state.Kind(e.Kind) {
	case state.KindPlaced:
		if b, ok := body[state.Placed](e); ok {
			return c.placed(e, b)
		}
	case state.KindProxyDeregistered:
		if b, ok := body[state.ProxyDeregistered](e); ok {
			delete(c.servers, b.ID)
			delete(c.trouble, b.ID)
		}
	case state.KindCredentialChanged:
		if b, ok := body[state.CredentialChanged](e); ok {
			return c.credential(e, b)
		}
	default:
		return c.server(e)
	}
	return nil
}

// body decodes what happened. What cannot be decoded is no news.
func body[T any](e v1.JournalEvent) (b T, ok bool) {
	return b, json.Unmarshal(e.Data, &b) == nil
}

func (c *chronicle) placed(e v1.JournalEvent, b state.Placed) *entry {
	to := ""
	if len(b.Ranked) > 0 {
		to = b.Ranked[0]
	}
	from := c.servers[b.ID]
	c.servers[b.ID] = to
	if b.Reason == state.PlaceInitial || from == to {
		return nil
	}
	at := e.Time
	if !b.At.IsZero() {
		at = b.At
	}
	verb, why := moved, reasonWords(string(b.Reason))
	switch {
	case b.Reason == state.PlaceRebalance:
		verb = willMove // the stream that there is stays
	case b.Reason == state.PlaceOperator && c.drained[from]:
		why = "a drain"
	case b.Reason == state.PlaceOperator:
		verb, why = willMove, "the end of a drain, with the next connection"
	}
	return c.move(b.ID, verb, to, from, why, at)
}

// connected gives the news that a connection makes: that of a proxy on another
// server than before, wherever the daemon has placed it.
func (c *chronicle) connected(e v1.ConnectionEvent) *entry {
	from, known := c.servers[e.ProxyID]
	if !known || e.Server == "" {
		return nil
	}
	switch e.Kind {
	case "failed", "failed_local":
		t := trouble{reasonWords("connect-failed"), e.Time}
		c.trouble[e.ProxyID], c.failed[e.Server] = t, t
	case "bounced":
		c.trouble[e.ProxyID] = trouble{reasonWords("bounced"), e.Time}
	case "established":
		why := ""
		// The kernel passes over a server that has just failed another proxy.
		for _, t := range []trouble{c.failed[from], c.trouble[e.ProxyID]} {
			if e.Time.Sub(t.at) < recently {
				why = t.why
			}
		}
		delete(c.trouble, e.ProxyID)
		c.servers[e.ProxyID] = e.Server
		if from != e.Server && from != "" {
			return c.move(e.ProxyID, moved, e.Server, from, why, e.Time)
		}
	}
	return nil
}

func (c *chronicle) move(proxy, verb, to, from, why string, at time.Time) *entry {
	key := verb + "|" + from + "|" + why
	if verb != moved { // evenness comes back from all sides
		key = verb + "|" + why
	}
	n := c.entry(key, at)
	if n.proxies > 0 && n.from != from {
		from = ""
	}
	n.Level, n.from, n.verb, n.Why = note, from, verb, why
	if to == "" {
		n.Level = bad
	}
	n.count(proxy, to)
	n.Text = n.sentence()
	return n
}

func (c *chronicle) credential(e v1.JournalEvent, b state.CredentialChanged) *entry {
	n := c.entry("credential|"+string(b.State), e.Time)
	n.Level, n.Text = bad, "credential "+credentialWords(string(b.State))
	if b.State == state.CredentialOK {
		n.Level, n.Text = ok, "credential accepted"
	}
	n.count(b.ID, "")
	n.Text = n.who() + ": " + n.Text
	return n
}

// seedServers says which servers are drained of whose drain no event was read.
func (c *chronicle) seedServers(servers []server) {
	for _, s := range servers {
		if s.drained {
			c.drained[s.ID] = true
		}
	}
}

// server makes news of what happened to a server.
func (c *chronicle) server(e v1.JournalEvent) *entry {
	var b struct {
		ID     string           `json:"id"`
		Server state.ServerSpec `json:"server"`
	}
	if json.Unmarshal(e.Data, &b) != nil {
		return nil
	}
	var l level
	var what string
	switch state.Kind(e.Kind) {
	case state.KindServerSeen:
		l, what = ok, "is in the catalog"
	case state.KindServerChanged:
		l, what = note, "has another address or version"
	case state.KindServerGone:
		delete(c.failed, b.ID)
		l, what = bad, "left the catalog, or is critical there"
	case state.KindServerDrained:
		c.drained[b.ID] = true
		l, what = note, "is drained"
	case state.KindServerUndrained:
		delete(c.drained, b.ID)
		l, what = ok, "is no longer drained"
	default:
		return nil
	}
	id := b.ID
	if id == "" {
		id = b.Server.ID
	}
	n := c.entry("server|"+id+"|"+e.Kind, e.Time)
	n.Level, n.Text = l, id+" "+what
	return n
}

// entry finds the news that something belongs to, or begins it.
func (c *chronicle) entry(key string, at time.Time) *entry {
	for _, n := range slices.Backward(c.entries) {
		if n.key == key && !at.After(n.until) {
			n.until = at.Add(together)
			return n
		}
	}
	c.made++
	n := &entry{news: news{ID: c.made, At: millis(at)}, key: key, until: at.Add(together)}
	c.entries = append(c.entries, n)
	if len(c.entries) > maxNews {
		c.entries = slices.Delete(c.entries, 0, 1)
	}
	return n
}

// all gives what is remembered, oldest first.
func (c *chronicle) all() []news {
	out := make([]news, 0, len(c.entries))
	for _, n := range c.entries {
		out = append(out, n.told())
	}
	return out
}

// told is a copy that does not change any more.
func (n *entry) told() news {
	out := n.news
	if n.proxies < 2 {
		out.Names = nil // it is in the text
	} else {
		out.Names = slices.Clone(out.Names)
	}
	return out
}

func (n *entry) count(proxy, to string) {
	n.proxies++
	if len(n.Names) < maxNames {
		n.Names = append(n.Names, proxy)
	}
	i := slices.IndexFunc(n.to, func(t target) bool { return t.server == to })
	if i < 0 {
		i, n.to = len(n.to), append(n.to, target{server: to})
	}
	n.to[i].n++
}

func (n *entry) who() string {
	if n.proxies == 1 {
		return n.Names[0]
	}
	return grouped(uint64(n.proxies)) + " proxies"
}

// sentence says who moved where.
func (n *entry) sentence() string {
	said := n.who() + " " + n.verb
	if n.from != "" {
		said += " from " + n.from
	}
	var parts []string
	for _, t := range n.to {
		part := "to " + t.server
		if t.server == "" {
			part = "to no server"
		}
		if len(n.to) > 1 {
			part += fmt.Sprintf(" (%s)", grouped(uint64(t.n)))
		}
		parts = append(parts, part)
	}
	return said + " " + strings.Join(parts, ", ")
}
