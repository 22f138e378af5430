package testenv

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lictor-mesh/lictor/tools/testbed/sandbox"
)

// settle is how long goroutines and descriptors that are being closed may take.
var settle = 3 * time.Second

// NoLeaks fails the test when at its end there are goroutines, file
// descriptors, child processes, threads in other network namespaces, or runs of
// this process with their network namespaces, cgroups, bpffs directories and
// files which were not there when NoLeaks was called. Call it before anything
// that registers a clean-up. Tests that use it cannot run in parallel with others.
func NoLeaks(t testing.TB) {
	t.Helper()
	before := look()
	t.Cleanup(func() {
		for _, what := range before.left() {
			t.Errorf("left behind: %s", what)
		}
	})
}

// Main is the TestMain of every package here: it runs the tests, and fails the
// package when they leave anything behind of what [NoLeaks] looks for. It does
// not return.
func Main(m Tests) { os.Exit(Checked(m).Run()) }

// Tests are a package's, as [testing.M] is.
type Tests interface{ Run() int }

// Checked are tests which also fail as those of [Main] do, for a TestMain that
// has more to do.
func Checked(m Tests) Tests { return checked{m, os.Stdout} }

type checked struct {
	Tests
	out io.Writer
}

func (c checked) Run() int {
	before := look()
	status := c.Tests.Run()
	if status != 0 || fuzzing() { // what was cut short leaves its traces, and so do fuzzing's workers
		return status
	}
	for _, what := range before.left() {
		fmt.Fprintln(c.out, "FAIL: the tests have left behind:", what)
		status = 1
	}
	return status
}

func fuzzing() bool {
	f := flag.Lookup("test.fuzz")
	return f != nil && f.Value.String() != ""
}

// moment is what there was at one time.
type moment struct {
	goroutines goleak.Option
	inventory  map[string]int
}

func look() moment { return moment{goleak.IgnoreCurrent(), inventory()} }

// left says what is there now and was not then, once it has had time to go.
func (m moment) left() (left []string) {
	if err := goleak.Find(m.goroutines); err != nil { // retries by itself
		left = append(left, err.Error())
	}
	for end := time.Now().Add(settle); ; time.Sleep(10 * time.Millisecond) {
		more := newIn(inventory(), m.inventory)
		if len(more) == 0 || time.Now().After(end) {
			return append(left, more...)
		}
	}
}

// inventory counts what this process holds or has made, by what it is.
func inventory() map[string]int {
	have := map[string]int{}
	for _, what := range slices.Concat(descriptors(), children(), strayThreads(), made()) {
		have[what]++
	}
	return have
}

func newIn(now, before map[string]int) (left []string) {
	for what, n := range now {
		if extra := n - before[what]; extra > 0 {
			left = append(left, fmt.Sprintf("%s (%d more than before)", what, extra))
		}
	}
	slices.Sort(left)
	return left
}

// descriptors names open files by kind and path, without the numbers that
// differ between two sockets: a count per kind is enough to find a leak.
func descriptors() (out []string) {
	fds, _ := os.ReadDir("/proc/self/fd")
	for _, fd := range fds {
		target, err := os.Readlink(filepath.Join("/proc/self/fd", fd.Name()))
		if err != nil {
			continue // the descriptor of this very listing
		}
		kind, _, isKind := strings.Cut(target, ":[")
		switch {
		case strings.HasPrefix(target, "/proc/"): // this listing, of here and of others
			continue
		case isKind:
			out = append(out, "descriptor of a "+kind)
		case strings.HasPrefix(target, "anon_inode:[eventpoll]"), strings.HasPrefix(target, "anon_inode:[eventfd]"):
			continue // the runtime's poller, made at the first use of the network
		default:
			out = append(out, "descriptor of "+target)
		}
	}
	return out
}

// children lists child processes, zombies included.
func children() (out []string) {
	tasks, _ := filepath.Glob("/proc/self/task/*/children")
	for _, path := range tasks {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for pid := range strings.FieldsSeq(string(text)) {
			comm, _ := os.ReadFile("/proc/" + pid + "/comm")
			out = append(out, "process "+pid+" "+strings.TrimSpace(string(comm)))
		}
	}
	return out
}

// home is the network namespace that this process began in.
var home, _ = os.Readlink("/proc/self/ns/net")

// strayThreads lists threads in other network namespaces than the process's own:
// a goroutine that has nothing to do with it may run on one at any time.
func strayThreads() (out []string) {
	tasks, _ := filepath.Glob("/proc/self/task/*/ns/net")
	for _, path := range tasks {
		if ns, err := os.Readlink(path); err == nil && ns != home {
			out = append(out, "thread in another network namespace")
		}
	}
	return out
}

// made lists what bears the name of a run of this process.
func made() (out []string) {
	dirs := []string{"/sys/fs/bpf", os.TempDir(), sandbox.Registry}
	if root, err := sandbox.CgroupRoot(); err == nil {
		dirs = append(dirs, root)
	}
	for _, dir := range dirs {
		prefix := fmt.Sprintf("lictor-%d-", os.Getpid())
		if dir == sandbox.Registry {
			prefix = fmt.Sprintf("%d-", os.Getpid())
		}
		paths, _ := filepath.Glob(filepath.Join(dir, prefix+"*"))
		out = append(out, paths...)
	}
	return out
}

// leftPins lists the pinned objects in a bpffs directory.
func leftPins(dir string) (pins []string) {
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			pins = append(pins, fmt.Sprintf("%s: %v", path, err))
		case !d.IsDir():
			pins = append(pins, path)
		}
		return nil
	})
	return pins
}
