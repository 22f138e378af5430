package state_test

import (
	"fmt"
	"testing"
	"unsafe"

	"github.com/lictor-mesh/lictor/state"
)

// Two proxies that were decoded, from a snapshot or as events, have the words that
// they have in common in memory once.
func TestDecodedProxiesShareTheirWords(t *testing.T) {
	s := state.New()
	for i := range 2 {
		id := fmt.Sprintf("p%d", i)
		for _, b := range []state.Body{
			state.ProxyRegistered{Proxy: state.Registration{
				ID: id, Node: "node-1", Index: uint32(i + 1), Owner: state.Owner{Kind: state.OwnerNetns, ID: 1, BootID: "boot-1"},
				Process: &state.Process{PID: 1, BootID: "boot-1"},
			}},
			state.Placed{ID: id, Ranked: []string{"server-1", "server-2"}, Reason: state.PlaceInitial},
		} {
			data, err := state.EncodeBody(b)
			if err != nil {
				t.Fatal(err)
			}
			if b, err = state.DecodeBody(b.Kind(), data); err != nil {
				t.Fatal(err)
			}
			s = state.Fold(s, state.Event{Body: b})
		}
	}
	data, err := s.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	var back state.State
	if err := back.UnmarshalJSON(data); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]state.State{"events": s, "snapshot": back} {
		a, b := s.Proxies["p0"], s.Proxies["p1"]
		for _, words := range [][2]string{
			{a.Node, b.Node}, {a.Owner.BootID, b.Owner.BootID}, {a.Process.BootID, a.Owner.BootID},
			{a.Ranked[0], b.Ranked[0]}, {a.Ranked[1], b.Ranked[1]},
		} {
			if words[0] == "" || unsafe.StringData(words[0]) != unsafe.StringData(words[1]) {
				t.Errorf("%s: %q is there twice", name, words)
			}
		}
	}
}
