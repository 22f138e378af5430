package stage

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// failed is a test whose failure is looked at.
type failed struct {
	testing.TB
	said string
}

func (f *failed) Fatalf(format string, args ...any) {
	f.said = fmt.Sprintf(format, args...)
	panic(f)
}

// wait is what Eventually says in the end; "" when it is content.
func wait(ctx context.Context, t *testing.T, within time.Duration, ok func() error) string {
	f := &failed{TB: t}
	func() {
		defer func() {
			if r := recover(); r != nil && r != any(f) {
				panic(r)
			}
		}()
		Eventually(ctx, f, within, ok)
	}()
	return f.said
}

func TestEventually(t *testing.T) {
	asked := 0
	complain := func(until int) func() error {
		asked = 0
		return func() error {
			if asked++; asked >= until {
				return nil
			}
			return errors.New("not yet")
		}
	}
	if said := wait(t.Context(), t, time.Minute, complain(3)); said != "" || asked != 3 {
		t.Errorf("asked %d times of 3: %s", asked, said)
	}
	if said := wait(t.Context(), t, 50*time.Millisecond, complain(1000)); !strings.Contains(said, "not yet") {
		t.Errorf("it says %q", said)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if said := wait(ended, t, time.Minute, complain(1000)); asked != 1 || !strings.Contains(said, "not yet") || !strings.Contains(said, "canceled") {
		t.Errorf("asked %d times of 1, it says %q", asked, said)
	}
}
