package state

import "testing"

// Whoever starts Envoy and whoever ends it must agree on this.
func TestHoldsTerm(t *testing.T) {
	for name, tc := range map[string]struct {
		settings EnvoySettings
		want     bool
	}{
		"nothing":         {EnvoySettings{}, false},
		"a startup grace": {EnvoySettings{StartupGraceSeconds: 5, GracefulBind: "127.0.0.1:20300"}, false},
		"a grace":         {EnvoySettings{ShutdownGraceSeconds: 1}, true},
		"a drain":         {EnvoySettings{ShutdownDrain: true}, true},
		"a dump":          {EnvoySettings{DumpConfigOnExit: true}, true},
	} {
		if got := tc.settings.HoldsTerm(); got != tc.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
