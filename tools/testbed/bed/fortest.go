package bed

import (
	"strings"
	"testing"

	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// ForTest opens a bed for one test, which it skips where [testenv.Privileged]
// does. At the test's end the bed is closed; when the test failed, the ends of
// all logs are shown first.
func ForTest(t testing.TB) *Bed {
	t.Helper()
	testenv.Privileged(t)
	b, err := Open(Options{Progress: progress{t}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for name, text := range b.Logs(3000) {
				t.Logf("log of %s:\n%s", name, text)
			}
		}
		if err := b.Close(); err != nil {
			t.Errorf("close testbed: %v", err)
		}
	})
	return b
}

// progress writes to a test's log.
type progress struct{ t testing.TB }

func (p progress) Write(text []byte) (int, error) {
	p.t.Helper()
	p.t.Log(strings.TrimSpace(string(text)))
	return len(text), nil
}
