// Package stage is what the worlds of all end-to-end tests begin with: a bed that
// is checked to be gone at the end, a time that a test may take, and patience.
package stage

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// New opens a bed for one test, which it skips where [testenv.Privileged] does,
// and fails when something is left of it. The context ends with the test, or
// within that time.
func New(t testing.TB, within time.Duration) (context.Context, *bed.Bed) {
	t.Helper()
	testenv.Privileged(t)
	testenv.NoLeaks(t) // before ForTest, so that it looks after everything is gone
	ctx, cancel := context.WithTimeout(t.Context(), within)
	t.Cleanup(cancel)
	return ctx, bed.ForTest(t)
}

// Eventually waits until ok says nil, and fails the test with its last complaint
// when the time is up or ctx has ended.
func Eventually(ctx context.Context, t testing.TB, within time.Duration, ok func() error) {
	t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(20 * time.Millisecond) {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			t.Fatalf("not within %v: %v", within, errors.Join(err, ctx.Err()))
		}
	}
}
