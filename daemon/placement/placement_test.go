package placement

import (
	"slices"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/state"
)

const now = time.Hour // on the kernel's clock

var slots = map[uint16]string{1: "s1", 2: "s2", 3: "s3", 9: "gone"}

func ago(d time.Duration) time.Duration { return now - d }

// onS2 is what the kernel wrote when s1 refused a minute after the placement
// and the connection to s2 lasts.
func onS2() kernel.VIPState {
	return kernel.VIPState{
		LastSlot: 2, LastAt: ago(4 * time.Second),
		Holds:    []kernel.Hold{{Slot: 1, Reason: kernel.HoldBounced, At: ago(4 * time.Second)}},
		Counters: kernel.Counters{Attempted: 2, Established: 2, Closed: 1},
	}
}

func TestMoved(t *testing.T) {
	for _, tc := range []struct {
		name      string
		change    func(*kernel.VIPState)
		ranked    []string
		placed    time.Duration
		want      []string // nil: not moved
		why       state.PlaceReason
		unsettled bool
	}{
		{name: "after a bounce", want: []string{"s2", "s1", "s3"}, why: state.PlaceBounced, unsettled: true},
		{name: "after a failed connect", want: []string{"s2", "s1", "s3"}, why: state.PlaceConnectFailed, unsettled: true,
			change: func(vs *kernel.VIPState) { vs.Holds[0].Reason = kernel.HoldFailed }},
		{name: "held for another VIP", want: []string{"s2", "s1", "s3"}, why: state.PlaceConnectFailed, unsettled: true,
			change: func(vs *kernel.VIPState) { vs.Holds = nil }},
		{name: "to the last rank", want: []string{"s3", "s1", "s2"}, why: state.PlaceBounced, unsettled: true,
			change: func(vs *kernel.VIPState) { vs.LastSlot = 3 }},
		{name: "long ago", want: []string{"s2", "s1", "s3"}, why: state.PlaceBounced,
			change: func(vs *kernel.VIPState) { vs.LastAt = ago(30 * time.Second) }, placed: ago(time.Minute)},
		{name: "a moment ago", unsettled: true,
			change: func(vs *kernel.VIPState) { vs.LastAt = ago(Settled - 1) }},
		{name: "without a connection", unsettled: true,
			change: func(vs *kernel.VIPState) { vs.Counters.Closed = 2 }},
		{name: "refused there too",
			change: func(vs *kernel.VIPState) {
				vs.Holds = append(vs.Holds, kernel.Hold{Slot: 2, Reason: kernel.HoldFailed, At: vs.LastAt})
			}},
		{name: "refused there before", want: []string{"s2", "s1", "s3"}, why: state.PlaceBounced, unsettled: true,
			change: func(vs *kernel.VIPState) {
				vs.Holds = append(vs.Holds, kernel.Hold{Slot: 2, Reason: kernel.HoldFailed, At: vs.LastAt - 1})
			}},
		{name: "not", change: func(vs *kernel.VIPState) { vs.LastSlot = 1 }},
		{name: "before the placement", placed: ago(time.Second)},
		{name: "to a server that it is not placed on", change: func(vs *kernel.VIPState) { vs.LastSlot = 9 }},
		{name: "to a slot of nobody", change: func(vs *kernel.VIPState) { vs.LastSlot = 77 }},
		{name: "never connected", change: func(vs *kernel.VIPState) { *vs = kernel.VIPState{} }},
		{name: "not placed", ranked: []string{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := &state.Proxy{Ranked: []string{"s1", "s2", "s3"}}
			if tc.ranked != nil {
				p.Ranked = tc.ranked
			}
			before := slices.Clone(p.Ranked)
			vs := onS2()
			if tc.change != nil {
				tc.change(&vs)
			}
			placed := tc.placed
			if placed == 0 {
				placed = ago(time.Minute)
			}
			move, ok := Moved(p, vs, slots, now, placed)
			if ok != (tc.want != nil) || !slices.Equal(move.Ranked, tc.want) || move.Reason != tc.why {
				t.Errorf("Moved = %+v, %t; want %v, %s", move, ok, tc.want, tc.why)
			}
			if got := Unsettled(p, vs, slots, now, placed); got != tc.unsettled {
				t.Errorf("Unsettled = %t", got)
			}
			if !slices.Equal(p.Ranked, before) {
				t.Error("the state's own list was written")
			}
		})
	}
}

func TestHeld(t *testing.T) {
	hold := func(r kernel.HoldReason) time.Duration {
		return map[kernel.HoldReason]time.Duration{kernel.HoldFailed: 10 * time.Second, kernel.HoldBounced: 15 * time.Second}[r]
	}
	got := Held(kernel.VIPState{Holds: []kernel.Hold{
		{Slot: 1, Reason: kernel.HoldFailed, At: ago(9 * time.Second)},
		{Slot: 2, Reason: kernel.HoldFailed, At: ago(10 * time.Second)},
		{Slot: 3, Reason: kernel.HoldBounced, At: ago(14 * time.Second)},
		{Slot: 77, Reason: kernel.HoldBounced, At: now},
		{Slot: 9, Reason: kernel.HoldNone, At: now},
	}}, slots, hold, now)
	if len(got) != 2 || got["s1"] != state.PlaceConnectFailed || got["s3"] != state.PlaceBounced {
		t.Errorf("Held = %v", got)
	}
}

func TestWaiting(t *testing.T) {
	for _, tc := range []struct {
		name string
		vs   kernel.VIPState
		want bool
	}{
		{"never", kernel.VIPState{}, false},
		{"now", kernel.VIPState{WaitUntil: now + time.Second}, true},
		{"between two waits", kernel.VIPState{WaitUntil: ago(waitMemory - 1)}, true},
		{"long ago", kernel.VIPState{WaitUntil: ago(waitMemory)}, false},
		{"connected since", kernel.VIPState{WaitUntil: now + 1, Counters: kernel.Counters{Established: 1}}, false},
	} {
		if got := Waiting(tc.vs, now); got != tc.want {
			t.Errorf("%s: %t", tc.name, got)
		}
	}
}
