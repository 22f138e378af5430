// Package testenv gives tests what they need from the kernel, each for one test
// and removed at its end: a cgroup, a bpffs directory, a network namespace; and
// fails tests which leave something behind.
//
//	func TestConnect(t *testing.T) {
//		testenv.Privileged(t)
//		testenv.NoLeaks(t) // first, so that it looks last
//		cgroup := testenv.Cgroup(t)
//		pins := testenv.BPFFS(t)
//		ns := testenv.Netns(t)
//		ns.Do(func() error { … })
//	}
package testenv

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/rlimit"

	"github.com/lictor-mesh/lictor/tools/testbed/sandbox"
)

// Required says that no test may be left out for what the machine lacks:
// REQUIRE_PRIVILEGED=1 is in the environment, as `make test` has it.
func Required() bool { return os.Getenv("REQUIRE_PRIVILEGED") == "1" }

// Lacks skips the test for what the machine lacks; where nothing may be left out
// it fails it.
func Lacks(t testing.TB, what any) {
	t.Helper()
	if Required() {
		t.Fatalf("REQUIRE_PRIVILEGED=1, but: %v", what)
	}
	t.Skip(what)
}

// Privileged is [Lacks] unless the test runs as root on a kernel where socket
// programs can be loaded and cgroup v2 is mounted.
func Privileged(t testing.TB) {
	t.Helper()
	if err := privileged(); err != nil {
		Lacks(t, fmt.Errorf("needs root and BPF: %w", err))
	}
}

// Files is for tests that open files with the rights of whom they belong to. A
// user may do so for itself, and root for everybody, but not root without its
// capabilities, as in `make test-unit`: then it is as [Privileged].
func Files(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		Privileged(t)
	}
}

// privileged asks the kernel once per process.
var privileged = sync.OnceValue(func() error {
	if os.Geteuid() != 0 {
		return errors.New("not root")
	}
	if _, err := sandbox.CgroupRoot(); err != nil {
		return err
	}
	if err := rlimit.RemoveMemlock(); err != nil { // counts against BPF maps before 5.11
		return fmt.Errorf("raise memlock limit: %w", err)
	}
	if err := features.HaveProgramType(ebpf.CGroupSockAddr); err != nil {
		return fmt.Errorf("probe cgroup/connect programs: %w", err)
	}
	return nil
})

// runs holds one sandbox per test that asked for something from it.
var runs struct {
	sync.Mutex
	of map[testing.TB]*sandbox.Run
}

// Run is the test's sandbox, made at its first use and closed at the test's
// end. The functions of this package take from it; a test needs it for more
// than one of something.
func Run(t testing.TB) *sandbox.Run {
	t.Helper()
	runs.Lock()
	defer runs.Unlock()
	if run := runs.of[t]; run != nil {
		return run
	}
	run, err := sandbox.Open()
	if err != nil {
		t.Fatal(err)
	}
	if runs.of == nil {
		runs.of = map[testing.TB]*sandbox.Run{}
	}
	runs.of[t] = run
	t.Cleanup(func() {
		runs.Lock()
		delete(runs.of, t)
		runs.Unlock()
		if err := run.Close(); err != nil {
			t.Errorf("clean up after test: %v", err)
		}
	})
	return run
}

// CgroupRoot is the mount point of the cgroup-v2 hierarchy. It is shared with
// everything on the machine: attach to a [Cgroup] instead.
func CgroupRoot(t testing.TB) string {
	t.Helper()
	return must[string](t)(sandbox.CgroupRoot())
}

// Cgroup is a new cgroup below the root of the hierarchy. At the test's end
// what runs in it is killed and it is removed.
func Cgroup(t testing.TB) string {
	t.Helper()
	return must[string](t)(Run(t).Cgroup(unique("test")))
}

// BPFFS is a new directory on a bpffs, which is mounted when the machine has
// none. Pins left in it fail the test, and are removed.
func BPFFS(t testing.TB) string {
	t.Helper()
	dir := must[string](t)(Run(t).BPFFS(unique("pins")))
	t.Cleanup(func() {
		for _, pin := range leftPins(dir) {
			t.Errorf("pin left behind: %s", pin)
		}
	})
	return dir
}

// Netns is a new network namespace with its loopback up.
func Netns(t testing.TB) *sandbox.Netns {
	t.Helper()
	return must[*sandbox.Netns](t)(Run(t).Netns(unique("ns")))
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

var counter struct {
	sync.Mutex
	n int
}

func unique(name string) string {
	counter.Lock()
	defer counter.Unlock()
	counter.n++
	return fmt.Sprintf("%s%d", name, counter.n)
}

// Join moves a process into a cgroup.
func Join(dir string, pid int) error {
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Appendf(nil, "%d", pid), 0)
}
