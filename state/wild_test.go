package state_test

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lictor-mesh/lictor/state"
)

// wild draws an event about one of a few things, in no order that makes sense:
// twice, too early, too late, about what is not there, with times and numbers
// that go back.
func wild(t *rapid.T) state.Event {
	when := func(what string) time.Time {
		return epoch.Add(time.Duration(rapid.IntRange(-20, 20).Draw(t, what)) * time.Minute)
	}
	at := rapid.SampledFrom([]time.Time{{}, when("at")}).Draw(t, "in force")
	proxy := rapid.SampledFrom([]string{"p1", "p2", "p3"}).Draw(t, "proxy")
	server := rapid.SampledFrom([]string{"s1", "s2", "s3"}).Draw(t, "server")
	token := rapid.SampledFrom([]string{"t1", "t2"}).Draw(t, "token")
	spec := state.ServerSpec{ID: server, Slot: rapid.Uint16Range(0, 2).Draw(t, "slot"), Port: 1}
	known := rapid.Bool().Draw(t, "known")
	ranked := rapid.SampledFrom([][]string{nil, {}, {"s1"}, {"s2", "s9"}}).Draw(t, "ranked")
	return state.Event{
		Seq: rapid.Uint64Range(0, 30).Draw(t, "seq"), Time: when("time"),
		Body: rapid.SampledFrom([]state.Body{
			state.ServerSeen{Server: spec, At: at}, state.ServerChanged{Server: spec}, state.ServerGone{ID: server, At: at},
			state.ServerDrained{ID: server, By: token}, state.ServerUndrained{ID: server},
			state.ProxyRegistered{Proxy: state.Registration{
				ID: proxy, Index: rapid.Uint32Range(0, 3).Draw(t, "index"),
				Envoy: settings(t), Credential: credential(t), Process: process(t),
			}},
			state.ProxyChanged{ID: proxy, Known: &known, Owner: owner(t), Envoy: settings(t), Credential: credential(t), Process: process(t)},
			state.ProxyDeregistered{ID: proxy}, state.Placed{ID: proxy, Ranked: ranked, At: at},
			state.LoggedIn{ID: proxy, Accessor: token, Key: token}, state.LoggedOut{ID: proxy, Accessor: token},
			state.CredentialChanged{ID: proxy, State: state.CredentialRefused, Problem: token},
		}).Draw(t, "body"),
	}
}

// decoded is what JSON makes of something.
func decoded[T any](t *rapid.T, v T) (out T) {
	text, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(text, &out)
	}
	if err != nil {
		t.Fatalf("%+v: %v", v, err)
	}
	return out
}

// Whatever the events are, they give a state, the same one each time; a snapshot
// of it goes on as the state itself does, and a clone stays what it was.
func TestFoldIsTotal(t *testing.T) {
	seen := map[state.Kind]bool{}
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(rapid.Custom(wild), 0, 60).Draw(t, "events")
		cut := rapid.IntRange(0, len(all)).Draw(t, "cut")
		before, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		full, first := replay(state.New(), all), replay(state.New(), all[:cut])
		clone, was := first.Clone(), decoded(t, first)
		if again := replay(first, all[cut:]); !again.Equal(full) {
			t.Fatalf("the same events give\n%+v\nand\n%+v", full, again)
		}
		if !clone.Equal(was) {
			t.Fatalf("folding on made of the clone\n%+v\nwhich was\n%+v", clone, was)
		}
		if after, err := json.Marshal(all); err != nil || string(after) != string(before) {
			t.Fatalf("folding changed the events from\n%s\nto\n%s: %v", before, after, err)
		}
		if s := replay(was, decoded(t, all[cut:])); !s.Equal(full) {
			t.Fatalf("snapshot after %d events and tail:\n%+v\nall:\n%+v", cut, s, full)
		}
		_ = full.Check() // says what it likes
		for _, e := range all {
			seen[e.Body.Kind()] = true
		}
	})
	wantAllKinds(t, seen)
}

// wantAllKinds fails unless these are all the kinds that there are.
func wantAllKinds(t *testing.T, seen map[state.Kind]bool) {
	t.Helper()
	for _, kind := range state.Kinds {
		if !seen[kind] {
			t.Errorf("no event of kind %s was drawn", kind)
		}
	}
	if len(seen) != len(state.Kinds) {
		t.Errorf("events of the kinds %v were drawn, of which state.Kinds lists %v", slices.Sorted(maps.Keys(seen)), state.Kinds)
	}
}

// An event about what is not there changes nothing but the position, as one
// without a body does.
func TestWhatIsNotThereChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := replay(state.New(), rapid.SliceOfN(rapid.Custom(wild), 0, 30).Draw(t, "events"))
		e := wild(t)
		switch b := e.Body.(type) {
		case state.ServerSeen, state.ServerDrained, state.ProxyRegistered, state.LoggedIn:
			t.Skip("it makes something be there")
		case state.ServerUndrained:
			delete(s.Drained, b.ID)
		case state.LoggedOut:
			delete(s.Logins, b.Accessor)
		default:
			v := reflect.New(reflect.TypeOf(b)).Elem()
			v.Set(reflect.ValueOf(b))
			if id := v.FieldByName("ID"); id.IsValid() {
				id.SetString("nobody")
			} else {
				v.FieldByName("Server").FieldByName("ID").SetString("nobody")
			}
			e.Body = v.Interface().(state.Body)
		}
		want := state.Fold(s.Clone(), state.Event{Seq: e.Seq, Time: e.Time})
		if got := state.Fold(s.Clone(), e); !got.Equal(want) {
			t.Fatalf("%T about what is not there made\n%+v\nof\n%+v", e.Body, got, want)
		}
	})
}
