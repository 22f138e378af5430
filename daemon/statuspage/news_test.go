package statuspage

import (
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/state"
)

// told makes a chronicle of events, one a second, and gives its sentences.
func told(bodies ...state.Body) []string {
	c := newChronicle()
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i, b := range bodies {
		if b == nil { // time passes
			at = at.Add(time.Minute)
			continue
		}
		e := journaled(uint64(i+1), b)
		e.Time = at
		at = at.Add(100 * time.Millisecond)
		c.add(e)
	}
	var out []string
	for _, n := range c.all() {
		line := n.Text
		if n.Why != "" {
			line += ": " + n.Why
		}
		out = append(out, line)
	}
	return out
}

func placed(id, server string, why state.PlaceReason) state.Placed {
	p := state.Placed{ID: id, Reason: why}
	if server != "" {
		p.Ranked = []string{server, "other"}
	}
	return p
}

func TestNews(t *testing.T) {
	const failed, gone = state.PlaceConnectFailed, state.PlaceServerGone
	for name, tc := range map[string]struct {
		events []state.Body
		want   []string
	}{
		"first placements": {[]state.Body{placed("a", "s1", state.PlaceInitial)}, nil},
		"one moves": {
			[]state.Body{placed("a", "s1", state.PlaceInitial), placed("a", "s2", failed)},
			[]string{"a moved from s1 to s2: a connection failed"},
		},
		"the rest of a ranking": {
			[]state.Body{placed("a", "s1", state.PlaceInitial), placed("a", "s1", state.PlaceRebalance)}, nil,
		},
		"many at once": {
			[]state.Body{
				placed("a", "s1", state.PlaceInitial), placed("b", "s1", state.PlaceInitial), placed("c", "s1", state.PlaceInitial),
				placed("a", "s2", gone), placed("b", "s3", gone), placed("c", "s2", gone),
			},
			[]string{"3 proxies moved from s1 to s2 (2), to s3 (1): the server left the catalog"},
		},
		"a minute apart": {
			[]state.Body{
				placed("a", "s1", state.PlaceInitial), placed("b", "s1", state.PlaceInitial),
				placed("a", "s2", gone), nil, placed("b", "s2", gone),
			},
			[]string{"a moved from s1 to s2: the server left the catalog", "b moved from s1 to s2: the server left the catalog"},
		},
		"from nobody knows where": {[]state.Body{placed("a", "s2", failed)}, []string{"a moved to s2: a connection failed"}},
		"to no server": {
			[]state.Body{placed("a", "s1", state.PlaceInitial), placed("a", "", gone)},
			[]string{"a moved from s1 to no server: the server left the catalog"},
		},
		"a proxy that left and came back": {
			[]state.Body{placed("a", "s1", state.PlaceInitial), state.ProxyDeregistered{ID: "a"}, placed("a", "s2", failed)},
			[]string{"a moved to s2: a connection failed"},
		},
		"servers": {
			[]state.Body{
				state.ServerSeen{Server: state.ServerSpec{ID: "s1"}}, state.ServerDrained{ID: "s1", By: "uid 0"},
				state.ServerUndrained{ID: "s1", By: "uid 0"}, state.ServerGone{ID: "s1"}, state.ServerChanged{Server: state.ServerSpec{ID: "s2"}},
			},
			[]string{
				"s1 is in the catalog", "s1 is drained", "s1 is no longer drained",
				"s1 left the catalog, or is critical there", "s2 has another address or version",
			},
		},
		"a drain and its end": {
			[]state.Body{
				placed("a", "s1", state.PlaceInitial), state.ServerDrained{ID: "s1"}, placed("a", "s2", state.PlaceOperator),
				state.ServerUndrained{ID: "s1"}, placed("a", "s1", state.PlaceOperator),
			},
			[]string{
				"s1 is drained", "a moved from s1 to s2: a drain", "s1 is no longer drained",
				"a will move from s2 to s1: the end of a drain, with the next connection",
			},
		},
		"evenness from all sides": {
			[]state.Body{
				placed("a", "s1", state.PlaceInitial), placed("b", "s2", state.PlaceInitial),
				placed("a", "s3", state.PlaceRebalance), placed("b", "s3", state.PlaceRebalance),
			},
			[]string{"2 proxies will move to s3: for an even load, with the next connection"},
		},
		"credentials": {
			[]state.Body{
				state.CredentialChanged{ID: "a", State: state.CredentialLoginFailed, Problem: "a secret"},
				state.CredentialChanged{ID: "b", State: state.CredentialLoginFailed}, state.CredentialChanged{ID: "a", State: state.CredentialOK},
			},
			[]string{"2 proxies: credential login failed", "a: credential accepted"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := told(tc.events...); strings.Join(got, "\n") != strings.Join(tc.want, "\n") {
				t.Errorf("told\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tc.want, "\n"))
			}
		})
	}
}

// The kernel moves on within milliseconds, and the journal has it when it has
// settled: it is one piece of news.
func TestAConnectionElsewhereIsNewsAtOnce(t *testing.T) {
	c := newChronicle()
	c.seed([]proxy{{ID: "a", Server: "s1"}, {ID: "b", Server: "s1"}, {ID: "c", Server: ""}})
	at := time.Now()
	connection := func(kind, proxy, server string) *entry {
		at = at.Add(time.Millisecond)
		return c.connected(v1.ConnectionEvent{Kind: kind, ProxyID: proxy, Server: server, Time: at})
	}
	for _, e := range []*entry{
		connection("established", "a", "s1"), connection("failed", "a", "s1"), connection("established", "nobody", "s2"),
		connection("established", "c", "s2"), connection("bounced", "b", "s1"), connection("established", "b", ""),
	} {
		if e != nil {
			t.Errorf("told %q", e.Text)
		}
	}
	if e := connection("established", "a", "s2"); e == nil || e.Text != "a moved from s1 to s2" || e.Why != "a connection failed" {
		t.Errorf("told %+v", e)
	}
	if e := connection("established", "b", "s2"); e == nil || e.Text != "b moved from s1 to s2" || e.Why != "the server refused" {
		t.Errorf("told %+v", e)
	}
	c.seed([]proxy{{ID: "d", Server: "s1"}})
	if e := connection("established", "d", "s3"); e == nil || e.Text != "2 proxies moved from s1 to s2 (1), to s3 (1)" || e.Why != "a connection failed" {
		t.Errorf("told of one who passed over what failed another %+v", e)
	}
	if e := c.add(journaled(1, placed("a", "s2", state.PlaceConnectFailed))); e != nil {
		t.Errorf("told again: %q", e.Text)
	}
	if e := c.add(journaled(2, placed("a", "s1", state.PlaceRebalance))); e == nil || e.Text != "a will move from s2 to s1" {
		t.Errorf("told %+v", e)
	}
	if e := connection("established", "a", "s1"); e != nil {
		t.Errorf("told when it did as told: %q", e.Text)
	}
}

func TestNewsIsBounded(t *testing.T) {
	c := newChronicle()
	for i := range 10_000 {
		e := journaled(uint64(i+1), placed(fmt.Sprint("p", i%500), fmt.Sprint("s", i%7), state.PlaceConnectFailed))
		e.Time = time.Unix(int64(i*10), 0)
		c.add(e)
	}
	if n := len(c.all()); n != maxNews {
		t.Errorf("%d remembered", n)
	}
	for i := range 500 {
		c.add(journaled(uint64(20_000+i), placed(fmt.Sprint("p", i), "s9", state.PlaceServerGone)))
	}
	last := c.all()[maxNews-1]
	if len(last.Names) > maxNames {
		t.Errorf("%d names", len(last.Names))
	}
}

func TestAnEventThatComesAgainIsNoNews(t *testing.T) {
	c := newChronicle()
	e := journaled(5, state.ServerGone{ID: "s1"})
	if c.add(e) == nil || c.add(e) != nil {
		t.Error("told twice, or never")
	}
	for _, odd := range []v1.JournalEvent{{Seq: 6, Kind: "Placed", Data: []byte("{")}, {Seq: 7, Kind: "Unknown", Data: []byte("{}")}} {
		if c.add(odd) != nil {
			t.Errorf("%s is news", odd.Kind)
		}
	}
}
