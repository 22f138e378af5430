package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// Two rounds of what `make failover` repeats: a server is killed with lictord
// alive, and another cut off with lictord dead.
func TestFailover(t *testing.T) {
	testenv.Privileged(t)
	testenv.NoLeaks(t)
	results, err := measure(t.Context(), measurement{
		rounds: 1, say: t.Logf,
		scenarios: []scenario{
			{setup: lictor, fault: kill, room: true},
			{setup: lictor, fault: cut, room: true, dead: true},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if missed := table(&out, results); missed > 0 {
		t.Errorf("%d wanted figures were missed", missed)
	}
	t.Log(out.String())
	for _, r := range results {
		if len(r.changes) == 0 || len(r.pushes) == 0 {
			t.Errorf("%v: %d Envoys had the change through another server, %d others had it", r.scenario, len(r.changes), len(r.pushes))
		}
	}
}

// A figure is held, missed, or not wanted; one of nobody is missed.
func TestVerdict(t *testing.T) {
	short, long := []time.Duration{100 * time.Millisecond}, []time.Duration{5 * time.Second}
	killed, alive, dead := scenario{setup: lictor, fault: kill, room: true},
		scenario{setup: lictor, fault: cut, room: true}, scenario{setup: lictor, fault: cut, room: true, dead: true}
	for _, c := range []struct {
		name string
		result
		ok   bool
		says string
	}{
		{"in time", result{scenario: killed, streams: short, changes: long}, true, "held"},
		{"late", result{scenario: killed, streams: long, changes: long}, false, "MISSED"},
		{"cut, alive", result{scenario: alive, streams: long, changes: long}, false, "at most 4.00"},
		{"cut, dead", result{scenario: dead, streams: long, changes: long}, true, "at most 6.00"},
		{"one never", result{scenario: dead, streams: long, changes: long, never: 1}, false, "MISSED"},
		{"nobody", result{scenario: dead}, false, "MISSED"},
		{"not wanted", result{scenario: scenario{setup: list, fault: kill, room: true}, streams: long}, true, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if said, ok := c.verdict(); ok != c.ok || !strings.Contains(said, c.says) {
				t.Errorf("verdict %q, %v; want %q, %v", said, ok, c.says, c.ok)
			}
		})
	}
}

// lictord is dead in half of the rounds, when it is measured in both ways.
func TestHalfOfTheRounds(t *testing.T) {
	both := scenario{setup: lictor, fault: kill, room: true}
	m := measurement{rounds: 20, scenarios: scenarios(true)}
	if !m.both(both) {
		t.Error("lictord is not dead in any round")
	}
	if m.scenarios = []scenario{both}; m.both(both) {
		t.Error("there is no twin")
	}
}
