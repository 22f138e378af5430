package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

// pictured is a demo in the middle of its script.
func pictured(pic picture) *demo {
	ui := &screen{size: func() (int, int) { return 80, 24 }}
	d := &demo{ui: ui, feed: &feed{ui: ui, started: time.Now()}, mesh: &mesh{members: newMembers()}}
	d.mesh.pairs = []*pair{
		{from: d.mesh.members[0], to: d.mesh.members[1], counts: counts{ok: 1234567, failed: 2}},
		{from: d.mesh.members[2], to: d.mesh.members[3]},
	}
	d.report, d.watch = &report{ui: ui, now: strings.Repeat("t", titleWidth), since: time.Now()}, &watch{pic: pic}
	for range 30 {
		d.feed.say("something happened")
	}
	return d
}

func TestViewFitsItsTerminal(t *testing.T) {
	d := pictured(picture{
		streams:  map[string]map[string]int{"web": {"consul-1": 1}, "api": {"consul-1": 2}},
		assigned: map[string]string{"web": "consul-1", "api": "consul-2", "late": "consul-3"},
		servers:  []serverPicture{{"consul-1", true, true}, {"consul-2", false, true}, {"consul-3", true, false}},
		lictor:   lictorPicture{alive: true, answers: true, ready: true, pid: 4194304, seq: 123456, active: 3},
	})
	v := &view{demo: d, started: time.Now().Add(-75 * time.Minute)}
	for _, rows := range []int{24, 40, 100} {
		lines := v.draw(80, rows)
		if len(lines) > rows-6 {
			t.Errorf("%d lines of %d rows: nothing is left for what was checked", len(lines), rows)
		}
		for _, line := range lines {
			if n := utf8.RuneCountInString(line); n > viewWidth {
				t.Errorf("%d columns: %s", n, line)
			}
		}
	}
	text := strings.Join(v.draw(80, 24), "\n")
	for _, want := range []string{
		" consul-1 up        ●     ●2    ·     ·     ·     ·     ·     ·     ·         3",
		" consul-2 killed    ·     ○     ·     ·     ·     ·     ·     ·     ·         0",
		" consul-3 starting  ·     ·     ·     ·     ·     ·     ·     ·     ○         0",
		" lictord  up      pid 4194304 · journal at event 123456 · counts 3 connections",
		"web → api       1,234,567 ok · 2 failed",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the view lacks %q:\n%s", want, text)
		}
	}
}

func TestViewOfALictordThatIsNotThere(t *testing.T) {
	for want, l := range map[string]lictorPicture{
		"killed":   {pid: 7},
		"starting": {pid: 7, alive: true},
		"unready":  {pid: 7, alive: true, answers: true},
	} {
		d := pictured(picture{lictor: l})
		if got := (&view{demo: d}).lictor(l); !strings.Contains(got, want) {
			t.Errorf("%+v is shown as %q, want %s", l, got, want)
		}
	}
}

func TestFeedTellsMovesOfConnections(t *testing.T) {
	servers := []serverPicture{{name: "consul-1"}, {name: "consul-2"}}
	for _, test := range []struct {
		name    string
		was, is map[string]int
		want    string // "": nothing
	}{
		{"nothing", map[string]int{"consul-1": 1}, map[string]int{"consul-1": 1}, ""},
		{"first", nil, map[string]int{"consul-1": 1}, "web      is connected to consul-1"},
		{"lost", map[string]int{"consul-2": 1}, nil, "web      has left consul-2"},
		{"moved", map[string]int{"consul-2": 1}, map[string]int{"consul-1": 1}, "web      went from consul-2 to consul-1"},
		{"one more", map[string]int{"consul-2": 1}, map[string]int{"consul-1": 1, "consul-2": 1}, "web      is connected to consul-1"},
	} {
		d := pictured(picture{})
		d.feed.last = nil
		w := &watch{mesh: d.mesh, feed: d.feed}
		w.tell(picture{streams: map[string]map[string]int{"web": test.was}},
			picture{streams: map[string]map[string]int{"web": test.is}, servers: servers})
		got := strings.Join(d.feed.tail(9), "\n")
		if _, what, _ := strings.Cut(got, "  "); what != test.want {
			t.Errorf("%s: %q, want %q", test.name, what, test.want)
		}
	}
}

func TestDecisionsInWords(t *testing.T) {
	first := map[string]string{}
	for _, test := range []struct{ kind, data, want string }{
		{"ServerSeen", `{"server":{"id":"consul-1"}}`, "consul-1 is in the catalog"},
		{"ServerGone", `{"id":"consul-1"}`, "consul-1 is no longer in the catalog"},
		{"Placed", `{"id":"web-sidecar-proxy","ranked":["consul-2","consul-3"],"reason":"initial"}`, ""},
		{"Placed", `{"id":"web-sidecar-proxy","ranked":["consul-3"],"reason":"bounced"}`, "web placed on consul-3: bounced"},
		{"Placed", `{"id":"web-sidecar-proxy","ranked":["consul-3","consul-2"],"reason":"rebalance"}`, ""},
		{"Placed", `{"id":"web-sidecar-proxy","ranked":[],"reason":"server-gone"}`, ""},
		{"ProxyRegistered", `{"proxy":{"id":"web-sidecar-proxy"}}`, ""},
		{"SomethingNew", `[]`, ""},
	} {
		if got := decision(v1.JournalEvent{Kind: test.kind, Data: json.RawMessage(test.data)}, first); got != test.want {
			t.Errorf("%s %s: %q, want %q", test.kind, test.data, got, test.want)
		}
	}
}
