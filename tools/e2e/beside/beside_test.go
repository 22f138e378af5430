package beside

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// fixtures is the directory in which the fixtures below note when they run. They
// do nothing where it is not given.
const fixtures = "TEST_BESIDE_FIXTURES"

func fixture(t *testing.T) {
	dir := os.Getenv(fixtures)
	if dir == "" {
		return
	}
	path := filepath.Join(dir, t.Name())
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	beside := func() []string {
		names, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	most := 0
	for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		most = max(most, len(beside()))
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	fmt.Printf("%s saw %d\n", t.Name(), most)
}

func TestFixtureA(t *testing.T) { fixture(t) }
func TestFixtureB(t *testing.T) { fixture(t) }
func TestFixtureC(t *testing.T) { fixture(t) }
func TestFixtureD(t *testing.T) { fixture(t) }

func TestFixtureFails(t *testing.T) {
	fixture(t)
	if os.Getenv(fixtures) != "" {
		t.Error("as it should")
	}
}

func TestFixtureExits(t *testing.T) {
	if os.Getenv(fixtures) != "" {
		os.Exit(7)
	}
}

func run(t *testing.T, o Options, names ...string) (said string, err error) {
	t.Helper()
	t.Setenv(fixtures, t.TempDir())
	var out bytes.Buffer
	r := runner{out: &out, until: time.Now().Add(time.Minute)}
	err = r.run(names, o)
	return out.String(), err
}

// Tests run beside each other, as many as there are workers, and those that are
// to be alone are.
func TestBesideAndAlone(t *testing.T) {
	said, err := run(t, Options{Workers: 2, First: []string{"TestFixtureB"}, Alone: []string{"TestFixtureC", "TestFixtureD"}},
		"TestFixtureA", "TestFixtureB", "TestFixtureC", "TestFixtureD")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(said), "\n")
	slices.Sort(lines[:2])
	want := []string{"TestFixtureA saw 2", "TestFixtureB saw 2", "TestFixtureC saw 1", "TestFixtureD saw 1"}
	if !slices.Equal(lines, want) {
		t.Errorf("said %q, want %q", lines, want)
	}
}

// A test that fails, or whose process ends in another way, is named, with what
// it said; the others run all the same.
func TestFailuresAreNamed(t *testing.T) {
	said, err := run(t, Options{Workers: 1}, "TestFixtureExits", "TestFixtureFails", "TestFixtureA")
	if err == nil || err.Error() != "failed: TestFixtureExits TestFixtureFails" {
		t.Errorf("error %v", err)
	}
	for _, want := range []string{"TestFixtureExits: exit status 7", "--- FAIL: TestFixtureFails", "as it should", "TestFixtureA saw 1"} {
		if !strings.Contains(said, want) {
			t.Errorf("it does not say %q:\n%s", want, said)
		}
	}
	if strings.Contains(said, "PASS") || strings.Contains(said, "\nFAIL") {
		t.Errorf("a verdict on one process is in it:\n%s", said)
	}
}

// A name that no test has is an error, so that lists are kept in order.
func TestNamesOfNobodyAreRefused(t *testing.T) {
	if _, err := run(t, Options{Alone: []string{"TestGone"}}, "TestFixtureA"); err == nil || !strings.Contains(err.Error(), "TestGone") {
		t.Errorf("error %v", err)
	}
}

// The tests of this binary are found.
func TestList(t *testing.T) {
	names, err := list()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(names, "TestList") || !slices.Contains(names, "TestFixtureExits") {
		t.Errorf("names %v", names)
	}
}
