package browser

import (
	"errors"
	"os"
	"testing"
)

// ForTest starts a browser for one test, which it skips when there is none;
// with REQUIRE_PRIVILEGED=1, as in CI, it fails then.
func ForTest(t testing.TB) *Browser {
	t.Helper()
	b, err := Start(t.Context())
	if errors.Is(err, ErrNone) && os.Getenv("REQUIRE_PRIVILEGED") != "1" {
		t.Skip(err)
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
