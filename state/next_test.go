package state_test

import (
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/state"
)

func register(s state.State, id string, index uint32, at time.Time) state.State {
	return state.Fold(s, state.Event{Time: at, Body: state.ProxyRegistered{Proxy: state.Registration{ID: id, Index: index}}})
}

func deregister(s state.State, id string, at time.Time) state.State {
	return state.Fold(s, state.Event{Time: at, Body: state.ProxyDeregistered{ID: id}})
}

func TestNextIndex(t *testing.T) {
	now := epoch
	three := func() state.State { // 1, 2 and 3 of a pool of 5 (1 to 4) are used
		s := register(state.New(), "a", 1, now)
		return register(register(s, "b", 2, now), "c", 3, now)
	}
	for name, test := range map[string]struct {
		s     state.State
		limit uint32
		busy  func(uint32) bool
		want  uint32 // 0: none
	}{
		"the first is 1":                  {s: state.New(), limit: 5, want: 1},
		"the next after the last":         {s: three(), limit: 5, want: 4},
		"round the pool":                  {s: deregister(register(three(), "d", 4, now), "b", now.Add(-time.Hour)), limit: 5, want: 2},
		"none is free":                    {s: register(three(), "d", 4, now), limit: 5},
		"of two of a clock set back":      {s: deregister(deregister(register(three(), "d", 4, now), "c", now.Add(time.Minute)), "b", now.Add(2*time.Minute)), limit: 5, want: 3},
		"rested for long enough":          {s: deregister(register(three(), "d", 4, now), "b", now.Add(-time.Minute)), limit: 5, want: 2},
		"resting is passed over":          {s: deregister(register(three(), "d", 4, now), "b", now.Add(-time.Second)), limit: 5},
		"left before the clock went back": {s: deregister(register(three(), "d", 4, now), "b", now.Add(time.Hour)), limit: 5, want: 2},
		"busy is passed over":             {s: state.New(), limit: 5, busy: func(i uint32) bool { return i < 3 }, want: 3},
		"all busy":                        {s: state.New(), limit: 5, busy: func(uint32) bool { return true }},
		"an empty pool":                   {s: state.New(), limit: 0},
		"a pool of index 0 only":          {s: state.New(), limit: 1},
		"a pool that was larger":          {s: register(state.New(), "z", 100, now), limit: 5, want: 1},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := test.s.NextIndex(test.limit, time.Minute, now, test.busy)
			if got != test.want || ok != (test.want != 0) {
				t.Errorf("got %d, %t, want %d", got, ok, test.want)
			}
		})
	}
}

// What left MaxRest ago is forgotten, so no longer rest can be asked for.
func TestNextIndexRestsAtMostMaxRest(t *testing.T) {
	s := deregister(register(state.New(), "a", 1, epoch), "a", epoch)
	if index, ok := s.NextIndex(2, 24*time.Hour, epoch.Add(state.MaxRest), nil); !ok || index != 1 {
		t.Errorf("got %d, %t, want the only one, which has rested for %s", index, ok, state.MaxRest)
	}
}

func TestNextSlot(t *testing.T) {
	fold := func(bodies ...state.Body) state.State {
		s := state.New()
		for i, b := range bodies {
			s = state.Fold(s, state.Event{Time: epoch.Add(time.Duration(i) * time.Second), Body: b})
		}
		return s
	}
	at := func(bodies ...state.Body) state.State { // all at one moment
		s := state.New()
		for _, b := range bodies {
			s = state.Fold(s, state.Event{Time: epoch, Body: b})
		}
		return s
	}
	seen := func(id string, slot uint16) state.Body {
		return state.ServerSeen{Server: state.ServerSpec{ID: id, Slot: slot}}
	}
	gone := func(id string) state.Body { return state.ServerGone{ID: id} }
	two := []state.Body{seen("a", 1), seen("b", 2)}
	for name, test := range map[string]struct {
		s    state.State
		last uint16
		busy func(uint16) bool
		want uint16 // 0: none
	}{
		"the first is 1":                    {s: fold(), last: 2, want: 1},
		"its own, also when busy":           {s: fold(seen("new", 2), gone("new")), last: 2, busy: func(uint16) bool { return true }, want: 2},
		"one that nobody had, first":        {s: fold(seen("a", 1), gone("a")), last: 2, want: 2},
		"else that of the one gone longest": {s: fold(append(two, gone("b"), gone("a"))...), last: 2, want: 2},
		"not one that is busy":              {s: fold(append(two, gone("b"), gone("a"))...), last: 2, busy: func(n uint16) bool { return n == 2 }, want: 1},
		"of two that left at once":          {s: at(seen("a", 2), seen("b", 1), gone("a"), gone("b")), last: 2, want: 1},
		"not one beyond the last":           {s: fold(seen("a", 1), seen("b", 9), gone("b")), last: 1},
		"all are listed":                    {s: fold(two...), last: 2},
		"up to the last":                    {s: fold(), last: 65535, want: 1},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := test.s.NextSlot("new", test.last, test.busy)
			if got != test.want || ok != (test.want != 0) {
				t.Errorf("got %d, %t, want %d", got, ok, test.want)
			}
		})
	}
}

// BenchmarkReplay folds 100,000 events over 10,000 proxies.
func BenchmarkReplay(b *testing.B) {
	const proxies, total = 10_000, 100_000
	ids := make([]string, proxies)
	all := make([]state.Event, 0, total)
	for n := range total {
		i := n % proxies
		e := state.Event{Seq: uint64(n) + 1, Time: epoch.Add(time.Duration(n) * time.Millisecond)}
		if n < proxies {
			ids[i] = "web-" + time.Duration(n).String() + "-sidecar-proxy"
			e.Body = state.ProxyRegistered{Proxy: state.Registration{ID: ids[i], Node: "n", Index: uint32(i) + 1}}
		} else {
			e.Body = state.Placed{ID: ids[i], Ranked: []string{"s1", "s2", "s3"}, Reason: state.PlaceRebalance}
		}
		all = append(all, e)
	}
	b.ReportAllocs()
	for b.Loop() {
		s := state.New()
		for _, e := range all {
			s = state.Fold(s, e)
		}
		if len(s.Proxies) != proxies {
			b.Fatal(len(s.Proxies))
		}
	}
}
