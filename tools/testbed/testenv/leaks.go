package testenv

import (
	"errors"
	"fmt"
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
const settle = 3 * time.Second

// NoLeaks fails the test when at its end there are goroutines, file
// descriptors, child processes, or runs of this process with their network
// namespaces, cgroups, bpffs directories and files which were not there when NoLeaks was called.
// Call it before anything that registers a clean-up. Tests that use it cannot
// run in parallel with others.
func NoLeaks(t testing.TB) {
	t.Helper()
	goroutines := goleak.IgnoreCurrent()
	before := inventory()
	t.Cleanup(func() {
		if err := goleak.Find(goroutines); err != nil { // retries by itself
			t.Errorf("goroutines left behind: %v", err)
		}
		var left []string
		for end := time.Now().Add(settle); ; time.Sleep(10 * time.Millisecond) {
			if left = newIn(inventory(), before); len(left) == 0 || time.Now().After(end) {
				break
			}
		}
		for _, what := range left {
			t.Errorf("left behind: %s", what)
		}
	})
}

// inventory counts what this process holds or has made, by what it is.
func inventory() map[string]int {
	have := map[string]int{}
	for _, what := range slices.Concat(descriptors(), children(), made()) {
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
