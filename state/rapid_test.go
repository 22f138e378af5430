package state_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lictor-mesh/lictor/state"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// decider makes events as the daemon would: from the state, so that the
// invariants must hold after each.
type decider struct {
	s      state.State
	now    time.Time
	logins int // tokens issued
}

const poolSize, lastSlot, rest = 6, 4, 5 * time.Minute

func (d *decider) next(t *rapid.T) (state.Body, bool) {
	proxy := fmt.Sprintf("p%d", rapid.IntRange(0, 6).Draw(t, "proxy"))
	server := fmt.Sprintf("s%d", rapid.IntRange(0, 6).Draw(t, "server"))
	spec := state.ServerSpec{ID: server, Port: uint16(rapid.IntRange(1, 3).Draw(t, "port"))}
	listed := d.s.Servers[server]
	_, registered := d.s.Proxies[proxy]
	switch rapid.IntRange(0, 12).Draw(t, "kind") {
	case 0:
		var ok bool
		if spec.Slot, ok = d.s.NextSlot(server, lastSlot, nil); !ok || listed != nil {
			return nil, false
		}
		return state.ServerSeen{Server: spec, At: d.now}, true
	case 1:
		if listed == nil {
			return nil, false
		}
		spec.Slot = listed.Slot
		return state.ServerChanged{Server: spec}, true
	case 2:
		return state.ServerGone{ID: server, At: d.now}, true
	case 3:
		return state.ServerDrained{ID: server, By: "uid 0"}, true
	case 4:
		return state.ServerUndrained{ID: server, By: "uid 0"}, true
	case 5:
		index, ok := d.s.NextIndex(poolSize, rest, d.now, nil)
		if !ok || registered {
			return nil, false
		}
		return state.ProxyRegistered{Proxy: state.Registration{ID: proxy, Node: "n", Owner: state.Owner{Kind: state.OwnerAny}, Index: index, Envoy: settings(t), Credential: credential(t), Process: process(t)}}, true
	case 6:
		known := rapid.Bool().Draw(t, "known")
		return state.ProxyChanged{ID: proxy, Known: &known}, true
	case 7:
		return state.ProxyDeregistered{ID: proxy, Reason: state.LeaveOperator}, true
	case 8:
		return state.ProxyChanged{ID: proxy, Owner: owner(t), Envoy: settings(t), Credential: credential(t), Process: process(t)}, true
	case 9:
		d.logins++
		token := fmt.Sprintf("t%d", d.logins)
		return state.LoggedIn{ID: proxy, Accessor: token, AuthMethod: "m", Key: token}, true
	case 10:
		return state.LoggedOut{ID: proxy, Accessor: fmt.Sprintf("t%d", rapid.IntRange(0, 20).Draw(t, "token"))}, true
	case 11:
		return state.CredentialChanged{ID: proxy, State: rapid.SampledFrom(state.CredentialStates).Draw(t, "state"), Problem: "p"}, true
	}
	return state.Placed{ID: proxy, Ranked: slices.Sorted(maps.Keys(d.s.Servers)), Reason: state.PlaceRebalance, At: d.now}, true
}

// owner, settings, credential and process draw nil, a zero value or another one.
func owner(t *rapid.T) *state.Owner {
	return rapid.SampledFrom([]*state.Owner{nil, {}, {Kind: state.OwnerAny}, {Kind: state.OwnerNetns, ID: 7, BootID: "b"}}).Draw(t, "owner")
}

func settings(t *rapid.T) *state.EnvoySettings {
	return rapid.SampledFrom([]*state.EnvoySettings{
		nil, {}, {AdminBind: "127.0.0.1:19001"}, {Prometheus: &state.PrometheusSettings{MergePort: 1}},
	}).Draw(t, "settings")
}

func credential(t *rapid.T) *state.Credential {
	return rapid.SampledFrom([]*state.Credential{
		nil, {}, {Type: state.CredentialFile, TokenFile: "/t"},
		{Type: state.CredentialLogin, Login: &state.Login{AuthMethod: "m", Meta: map[string]string{"a": "b"}}},
	}).Draw(t, "credential")
}

func process(t *rapid.T) *state.Process {
	return rapid.SampledFrom([]*state.Process{nil, {}, {PID: 1, Start: 2}, {PID: 1, Start: 3}}).Draw(t, "process")
}

// events draws a journal.
func events(t *rapid.T) []state.Event {
	d := decider{s: state.New(), now: epoch}
	var all []state.Event
	for range rapid.IntRange(0, 150).Draw(t, "events") {
		d.now = d.now.Add(time.Duration(rapid.IntRange(0, 600).Draw(t, "seconds")) * time.Second)
		body, ok := d.next(t)
		if !ok {
			continue
		}
		e := state.Event{Seq: uint64(len(all)) + 1, Time: d.now, Body: body}
		if b, ok := body.(state.ProxyRegistered); ok {
			if left, resting := d.s.Resting[b.Proxy.Index]; resting && d.now.Sub(left) < rest {
				t.Fatalf("VIP index %d is used again after %s", b.Proxy.Index, d.now.Sub(left))
			}
		}
		d.s = state.Fold(d.s, e)
		all = append(all, e)
		if err := d.s.Check(); err != nil {
			t.Fatalf("after %T: %v", body, err)
		}
	}
	return all
}

func replay(s state.State, all []state.Event) state.State {
	for _, e := range all {
		s = state.Fold(s, e)
	}
	return s
}

// TestSnapshotAndTail: a snapshot and the events after it give what all events
// give, and so does a journal read back from its JSON.
func TestSnapshotAndTail(t *testing.T) {
	seen := map[state.Kind]bool{}
	rapid.Check(t, func(t *rapid.T) {
		all := events(t)
		cut := rapid.IntRange(0, len(all)).Draw(t, "cut")
		snapshot, tail := decoded(t, replay(state.New(), all[:cut])), decoded(t, all[cut:])
		full, s := replay(state.New(), all), replay(snapshot, tail)
		if !s.Equal(full) {
			t.Fatalf("snapshot at %d and tail:\n%+v\nall:\n%+v", cut, s, full)
		}
		if a, b := string(must(s.MarshalJSON())), string(must(full.MarshalJSON())); a != b {
			t.Fatalf("equal states are written as\n%s\nand as\n%s", a, b)
		}
		if err := s.Check(); err != nil {
			t.Fatal(err)
		}
		for _, e := range all {
			seen[e.Body.Kind()] = true
		}
	})
	wantAllKinds(t, seen)
}

func must(text []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return text
}

// TestServersAndProxiesCommute: any interleaving of the servers' events with the
// proxies', each in its own order, gives the same state.
func TestServersAndProxiesCommute(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := events(t)
		var servers, proxies, mixed []state.Event
		for _, e := range all {
			if e.Body.ProxyID() == "" {
				servers = append(servers, e)
			} else {
				proxies = append(proxies, e)
			}
		}
		for len(servers)+len(proxies) > 0 {
			from := &servers
			if len(servers) == 0 || len(proxies) > 0 && rapid.Bool().Draw(t, "proxy first") {
				from = &proxies
			}
			mixed, *from = append(mixed, (*from)[0]), (*from)[1:]
		}
		if a, b := replay(state.New(), all), replay(state.New(), mixed); !a.Equal(b) {
			t.Fatalf("in order:\n%+v\nmixed:\n%+v", a, b)
		}
	})
}

// TestEarlyPlacementsCommute: placements folded with Seq 0 before a batch of
// promises about other proxies, and stamped later, give what a replay gives.
func TestEarlyPlacementsCommute(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := events(t)
		live := state.New()
		var late []state.Event
		for _, e := range all {
			p, placed := e.Body.(state.Placed)
			if !placed {
				live = state.Fold(live, e)
				continue
			}
			early := e
			early.Seq, early.Time = 0, p.At
			live = state.Fold(live, early)
			late = append(late, state.Event{Seq: e.Seq, Time: e.Time})
		}
		live = replay(live, late)
		if full := replay(state.New(), all); !live.Equal(full) {
			t.Fatalf("live:\n%+v\nreplayed:\n%+v", live, full)
		}
	})
}

// TestCloneIsApart: folding the original leaves the clone as it was.
func TestCloneIsApart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := events(t)
		cut := rapid.IntRange(0, len(all)).Draw(t, "cut")
		s := replay(state.New(), all[:cut])
		clone := s.Clone()
		replay(s, all[cut:])
		if want := replay(state.New(), all[:cut]); !clone.Equal(want) {
			t.Fatalf("clone:\n%+v\nwant:\n%+v", clone, want)
		}
		if err := clone.Check(); err != nil {
			t.Fatal(err)
		}
	})
}
