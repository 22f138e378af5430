package storm

import (
	"testing"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

// A ledger that overlooks a broken promise proves nothing, and one that does not
// know what may be either way cries wolf.
func TestSettle(t *testing.T) {
	told := func(vip string) v1.Registered { return v1.Registered{VIP: vip, Port: 8702} }
	lists := func(vip string) []v1.Proxy { return []v1.Proxy{{ProxyID: "a", VIP: vip, Port: 8702}} }
	for name, tc := range map[string]struct {
		happened func(l *Ledger)
		listed   []v1.Proxy
		broken   bool
	}{
		"kept":                             {func(l *Ledger) { _ = l.Registered("a", told("v1")) }, lists("v1"), false},
		"lost":                             {func(l *Ledger) { _ = l.Registered("a", told("v1")) }, nil, true},
		"another VIP":                      {func(l *Ledger) { _ = l.Registered("a", told("v1")) }, lists("v2"), true},
		"never registered":                 {func(*Ledger) {}, lists("v1"), true},
		"deregistered, and there":          {func(l *Ledger) { _ = l.Registered("a", told("v1")); l.Deregistered("a") }, lists("v1"), true},
		"perhaps registered, is":           {func(l *Ledger) { l.Unanswered("a", true) }, lists("v1"), false},
		"perhaps registered, is not":       {func(l *Ledger) { l.Unanswered("a", true) }, nil, false},
		"perhaps deregistered, is there":   {func(l *Ledger) { _ = l.Registered("a", told("v1")); l.Unanswered("a", false) }, lists("v1"), false},
		"perhaps deregistered, is gone":    {func(l *Ledger) { _ = l.Registered("a", told("v1")); l.Unanswered("a", false) }, nil, false},
		"perhaps deregistered, has moved":  {func(l *Ledger) { _ = l.Registered("a", told("v1")); l.Unanswered("a", false) }, lists("v2"), true},
		"perhaps both":                     {func(l *Ledger) { _ = l.Registered("a", told("v1")); l.Unanswered("a", false); l.Unanswered("a", true) }, lists("v2"), false},
		"repeated without an answer, lost": {func(l *Ledger) { _ = l.Registered("a", told("v1")); l.Unanswered("a", true) }, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			l := &Ledger{}
			tc.happened(l)
			if broken := l.Settle(tc.listed); (len(broken) > 0) != tc.broken {
				t.Errorf("broken: %v, want %v", broken, tc.broken)
			}
			if broken := l.Settle(tc.listed); len(broken) > 0 && !tc.broken {
				t.Errorf("settled, and still: %v", broken)
			}
			if n := l.Len(); !tc.broken && n != len(tc.listed) {
				t.Errorf("%d promises after settling, listed are %d", n, len(tc.listed))
			}
		})
	}
	l := &Ledger{}
	_ = l.Registered("a", told("v1"))
	if err := l.Registered("a", told("v2")); err == nil {
		t.Error("another VIP at the second answer is taken")
	}
}
