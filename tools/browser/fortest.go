package browser

import (
	"errors"
	"testing"

	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// ForTest starts a browser for one test; where there is none it is
// [testenv.Lacks].
func ForTest(t testing.TB) *Browser {
	t.Helper()
	b, err := Start(t.Context())
	if errors.Is(err, ErrNone) {
		testenv.Lacks(t, err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close the browser: %v", err)
		}
	})
	return b
}
