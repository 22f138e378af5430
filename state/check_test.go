package state_test

import (
	"strings"
	"testing"

	"github.com/lictor-mesh/lictor/state"
)

// What no events give can be read from a damaged snapshot: Check says so.
func TestCheckOfWhatNoEventsGive(t *testing.T) {
	for name, test := range map[string]struct{ in, want string }{
		"a VIP that rests and is used": {
			`{"proxies":[{"id":"a","index":1}],"resting":{"1":"2026-01-02T03:04:05Z"}}`,
			`proxy "a" holds VIP index 1, which rests since 2026-01-02 03:04:05 +0000 UTC`,
		},
		"a listed server without a slot": {
			`{"servers":[{"id":"a","slot":1}]}`, `server "a" has slot 1 without a tenure of it`,
		},
		"a listed server with another's slot": {
			`{"servers":[{"id":"a","slot":1}],"slots":{"a":{"slot":2}}}`, `server "a" has slot 1 without a tenure of it`,
		},
		"a tenure that goes on without its server": {
			`{"slots":{"a":{"slot":1}}}`, `server "a": listed is false, its tenure ended is false`,
		},
		"a tenure that ended, of a listed server": {
			`{"servers":[{"id":"a","slot":1}],"slots":{"a":{"slot":1,"gone":"2026-01-02T03:04:05Z"}}}`,
			`server "a": listed is true, its tenure ended is true`,
		},
		"a token under another's name": {
			`{"logins":{"b":{"accessor":"a","key":"k"}}}`, `token "a" is kept as "b"`,
		},
		"an IPv6 VIP given twice": {
			`{"proxies":[{"id":"a","index":1,"vip6":"ff05::1"},{"id":"b","index":2,"vip6":"ff05::1"}]}`,
			`proxies "a" and "b" both hold VIP ff05::1`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := state.ReadState(strings.NewReader(test.in))
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Check(); err == nil || err.Error() != test.want {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}
