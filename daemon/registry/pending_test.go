package registry

import (
	"slices"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/state"
)

func TestPendingKeepsWhatMatters(t *testing.T) {
	seen := func(id string, slot uint16) state.Body {
		return state.ServerSeen{Server: state.ServerSpec{ID: id, Slot: slot}}
	}
	changed := func(id string) state.Body { return state.ServerChanged{Server: state.ServerSpec{ID: id}} }
	gone := func(id string) state.Body { return state.ServerGone{ID: id} }
	kinds := func(bodies []state.Body) (out []string) {
		for _, b := range bodies {
			out = append(out, string(b.Kind()))
		}
		return out
	}
	for _, tc := range []struct {
		name  string
		moved bool // a slot passed to another server
		add   []state.Body
		want  []string
	}{
		{"one of each", false, []state.Body{gone("a"), seen("b", 2), changed("c")}, []string{"ServerGone", "ServerSeen", "ServerChanged"}},
		{"changed twice", false, []state.Body{changed("a"), changed("a")}, []string{"ServerChanged"}},
		{"seen and changed", false, []state.Body{seen("a", 1), changed("a"), changed("a")}, []string{"ServerSeen", "ServerChanged"}},
		{"changed and gone", false, []state.Body{changed("a"), gone("a")}, []string{"ServerGone"}},
		{"seen and gone", false, []state.Body{seen("a", 1), gone("a")}, []string{"ServerSeen", "ServerGone"}},
		{"there and back", false, []state.Body{gone("a"), seen("a", 1), changed("a"), gone("a")}, []string{"ServerGone"}},
		{"back again", false, []state.Body{seen("a", 1), gone("a"), seen("a", 1)}, []string{"ServerSeen"}},
		{"its slot given away meanwhile", true, []state.Body{gone("a"), seen("b", 1), seen("a", 2), gone("a")},
			[]string{"ServerGone", "ServerSeen", "ServerSeen", "ServerGone"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := pending{moved: tc.moved}
			for _, b := range tc.add {
				p.add(b, time.Time{})
			}
			if got := kinds(p.list()); !slices.Equal(got, tc.want) || p.len() != len(tc.want) {
				t.Errorf("pending %v, want %v", got, tc.want)
			}
			// Whatever part could not be journaled and is put back.
			for n := range tc.add {
				older, newer := pending{moved: tc.moved}, pending{moved: tc.moved}
				for _, b := range tc.add[:n] {
					older.add(b, time.Time{})
				}
				for _, b := range tc.add[n:] {
					newer.add(b, time.Time{})
				}
				newer.putBack(older)
				if got := kinds(newer.list()); !slices.Equal(got, tc.want) {
					t.Errorf("%d put back: %v, want %v", n, got, tc.want)
				}
			}
		})
	}
}
