package statuspage

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

// The types below are what the page is told, as JSON: everything that is shown,
// and nothing that is not. Times are milliseconds since 1970, 0 for none.

// level says how good or bad something is.
type level string

const (
	ok   level = "ok"
	note level = "note" // worth a look, or passing by itself
	bad  level = "bad"
)

// summary is how the daemon is.
type summary struct {
	Node     string   `json:"node"`
	Version  string   `json:"version"`
	Started  int64    `json:"started"`
	Ready    bool     `json:"ready"`
	Problems []string `json:"problems"` // sentences
	Checks   []check  `json:"checks"`
	Pools    []string `json:"pools"`
}

// check is the state of one part of the daemon.
type check struct {
	Name  string `json:"name"`
	Level level  `json:"level"`
	Text  string `json:"text"`
	At    int64  `json:"at,omitempty"` // of what Since says
	Since string `json:"since,omitempty"`
}

// server is a row of the servers' table.
type server struct {
	serverRow
	Past    []uint64 `json:"past"` // Active at each sample, oldest first
	drained bool
}

// serverRow is what is one value for each server.
type serverRow struct {
	ID          string `json:"id"`
	Address     string `json:"address"`
	Level       level  `json:"level"`
	State       string `json:"state"`
	Proxies     int    `json:"proxies"`
	Active      uint64 `json:"active"`
	Established uint64 `json:"established"`
	Failed      uint64 `json:"failed"`
	Bounced     uint64 `json:"bounced"`
}

// proxy is a row of the proxies' table. It is comparable: a row is told again
// when it differs.
type proxy struct {
	ID     string `json:"id"`
	Where  string `json:"where"` // Consul's node, with partition and namespace where there are
	VIP    string `json:"vip"`
	Server string `json:"server"` // "" without one
	Level  level  `json:"level"`
	State  string `json:"state"`
	Why    string `json:"why"` // of the placement
	Placed int64  `json:"placed"`
	Active uint64 `json:"active"`
}

// update is one message to a page. With All, what the page knew is void; nil
// otherwise means as before.
type update struct {
	Now     int64    `json:"now"`
	Build   string   `json:"build,omitempty"` // of the page's files, with All
	All     bool     `json:"all,omitempty"`
	Stale   string   `json:"stale,omitempty"` // why the rest is as of earlier; "" when it is not
	Summary *summary `json:"summary,omitempty"`
	Servers []server `json:"servers,omitzero"`  // all of them
	Proxies []proxy  `json:"proxies,omitempty"` // those that differ
	Gone    []string `json:"gone,omitempty"`    // ids of proxies
	News    []news   `json:"news,omitempty"`    // those that differ, oldest first
}

func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func summaryOf(st v1.Status) summary {
	return summary{
		Node: st.Node, Version: st.Version, Started: millis(st.Started), Ready: st.Ready,
		Problems: problems(st), Checks: checks(st), Pools: append([]string{}, st.Pools...),
	}
}

// problems says what is wrong in sentences of its own. Those of the status hold
// texts of errors, and so paths.
func problems(st v1.Status) []string {
	told := []string{}
	if !st.Attachment.InEffect {
		told = append(told, "The hook is not in effect: new connections to VIPs fail on this host. `lictor status`, run there, says what to do.")
	}
	if st.Servers == 0 {
		told = append(told, "No Consul server is known: connections to VIPs are refused. `lictor status`, run there, says why.")
	} else if !st.Consul.NoContact.IsZero() {
		told = append(told, "There is no contact with Consul: the last known servers stay in force.")
	}
	if !st.Journal.Writable {
		told = append(told, "The journal cannot be written: registrations and drains are refused; redirects and failover go on.")
	}
	if n := troubled(st); n > 0 {
		told = append(told, fmt.Sprintf("%s in trouble with credentials or TLS; the table of proxies says how.", are(n, "proxy is", "proxies are")))
	}
	if len(st.Problems) > len(told) {
		told = append(told, fmt.Sprintf("`lictor status`, run on this host, tells %s.", are(len(st.Problems), "problem", "problems")))
	}
	return told
}

// troubled counts proxies whose credential is not accepted.
func troubled(st v1.Status) (n int) {
	for state, count := range st.Proxies.Credentials {
		if state != "" && state != "ok" {
			n += count
		}
	}
	return n
}

func checks(st v1.Status) []check {
	return []check{hookCheck(st.Attachment), consulCheck(st.Consul), journalCheck(st.Journal), proxiesCheck(st), dropsCheck(st.Ring), deniedCheck(st.Reasons), driftCheck(st.Drift)}
}

func hookCheck(a v1.Attachment) check {
	c := check{Name: "Hook", Level: ok, Text: "in effect", At: millis(a.Verified), Since: "verified"}
	if !a.InEffect {
		c.Level, c.Text = bad, "not in effect"
	}
	return c
}

func consulCheck(c v1.Consul) check {
	switch {
	case !c.NoContact.IsZero():
		return check{Name: "Consul", Level: bad, Text: "no contact", At: millis(c.NoContact), Since: "since"}
	case c.LastContact.IsZero():
		return check{Name: "Consul", Level: note, Text: "no contact yet"}
	default:
		return check{Name: "Consul", Level: ok, Text: "in contact", At: millis(c.LastContact), Since: "last answer"}
	}
}

func journalCheck(j v1.Journal) check {
	c := check{Name: "Journal", Level: ok, Text: fmt.Sprintf("event %s, %s", grouped(j.Seq), size(j.Bytes))}
	if j.Pending > 0 {
		c.Text += fmt.Sprintf(", %d to be written", j.Pending)
	}
	if !j.Writable {
		c.Level, c.Text = bad, "not writable, at event "+grouped(j.Seq)
	}
	return c
}

func proxiesCheck(st v1.Status) check {
	c := check{Name: "Proxies", Level: ok, Text: grouped(uint64(st.Proxies.Total))}
	if n := st.Proxies.Waiting; n > 0 {
		c.Level, c.Text = note, c.Text+fmt.Sprintf(", %d waiting for capacity", n)
	}
	if n := st.Proxies.NoOwner; n > 0 {
		c.Level, c.Text = note, c.Text+fmt.Sprintf(", %d waiting for their owner", n)
	}
	if n := troubled(st); n > 0 {
		c.Level, c.Text = bad, c.Text+fmt.Sprintf(", %d in trouble with credentials", n)
	}
	return c
}

func dropsCheck(r v1.Ring) check {
	c := check{Name: "Events dropped", Level: ok, Text: "none"}
	if r.Dropped > 0 {
		c.Level, c.Text = note, grouped(r.Dropped)+"; no counter misses them"
	}
	return c
}

// denials are the words of the reasons for which a connect to a VIP ends on the
// host, as the metric's label has them, and for people.
var denials = []struct{ reason, words string }{
	{"stranger", "not the owner"},
	{"owner-unresolved", "owner not resolved"},
	{"no-entry", "no such VIP"},
	{"no-server", "no server"},
	{"waiting", "all servers full"},
	{"torn", "damaged entry"},
	{"udp-send", "UDP"},
}

func deniedCheck(reasons map[string]uint64) check {
	var parts []string
	for _, d := range denials {
		if n := reasons[d.reason]; n > 0 {
			parts = append(parts, grouped(n)+" "+d.words)
		}
	}
	if parts == nil {
		return check{Name: "Connects denied", Level: ok, Text: "none"}
	}
	return check{Name: "Connects denied", Level: note, Text: strings.Join(parts, ", ")}
}

func driftCheck(drift map[string]uint64) check {
	var n uint64
	for v := range maps.Values(drift) {
		n += v
	}
	if n == 0 {
		return check{Name: "Drift repaired", Level: ok, Text: "none"}
	}
	return check{Name: "Drift repaired", Level: note, Text: are(int(n), "entry", "entries")}
}

func serverOf(s v1.Server, past []uint64) server {
	out := server{serverRow{
		ID: s.ID, Address: strings.Join(s.Addresses, ", "), Level: ok, State: "in use",
		Proxies: s.Proxies, Active: s.Active, Established: s.Established,
		Failed: s.Failed + s.FailedLocal, Bounced: s.Bounced,
	}, append([]uint64{}, past...), s.Drained}
	switch {
	case s.Drained && s.Active > 0:
		out.Level, out.State = note, "draining"
	case s.Drained:
		out.Level, out.State = note, "drained"
	case !s.Listed:
		out.Level, out.State = bad, "gone from the catalog"
	}
	return out
}

func proxyOf(p v1.Proxy) proxy {
	out := proxy{
		ID: p.ProxyID, Where: p.NodeName, VIP: p.VIP, Level: ok, State: string(p.State),
		Why: reasonWords(p.Reason), Placed: millis(p.PlacedAt), Active: p.Active,
	}
	for _, part := range []string{p.Partition, p.Namespace} {
		if part != "" {
			out.Where += ", " + part
		}
	}
	if out.VIP == "" {
		out.VIP = p.VIP6
	}
	for _, s := range p.Servers { // the kernel passes over those that are held down
		if out.Server == "" || slices.Contains(p.HeldDown, out.Server) && !slices.Contains(p.HeldDown, s.ID) {
			out.Server = s.ID
		}
	}
	switch p.State {
	case v1.ProxyConnected:
	case v1.ProxyIdle:
		out.Level = note
	default:
		out.Level = bad
	}
	if s := p.CredentialState; s != "" && s != "ok" {
		out.Level, out.State = bad, out.State+", credential "+credentialWords(string(s))
	}
	return out
}

func credentialWords(state string) string { return strings.ReplaceAll(state, "-", " ") }

// reasonWords says in words why a proxy was placed.
func reasonWords(reason string) string {
	switch reason {
	case "initial":
		return "first placement"
	case "server-gone":
		return "the server left the catalog"
	case "rebalance":
		return "for an even load, with the next connection"
	case "connect-failed":
		return "a connection failed"
	case "bounced":
		return "the server refused"
	case "operator":
		return "a drain, or its end"
	default:
		return reason
	}
}
