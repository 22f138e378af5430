package sandbox_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/lictor-mesh/lictor/tools/testbed/sandbox"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

func open(t *testing.T) *sandbox.Run {
	t.Helper()
	testenv.Privileged(t)
	testenv.NoLeaks(t)
	run, err := sandbox.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := run.Close(); err != nil { // twice, for tests that close
			t.Error(err)
		}
	})
	return run
}

func TestCloseEndsProcessesOfNestedCgroups(t *testing.T) {
	run := open(t)
	dir, err := run.Cgroup("a", "b", "c")
	if err != nil {
		t.Fatal(err)
	}
	if err := run.Lifeline(); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", "trap '' TERM INT; sleep 600 & wait")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd())}
	err = cmd.Start()
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if err := run.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Error("the process ended by itself, want it killed")
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("cgroup is still there: %v", err)
	}
}

func TestAClosedRunMakesNothing(t *testing.T) {
	run := open(t)
	if err := run.Close(); err != nil {
		t.Fatal(err)
	}
	if ns, err := run.Netns("late"); err == nil {
		t.Errorf("made %s after Close", ns.Path)
	}
	for what, make := range map[string]func(...string) (string, error){"directory": run.Dir, "cgroup": run.Cgroup, "pins": run.BPFFS} {
		if path, err := make("late"); err == nil {
			t.Errorf("made %s %s after Close", what, path)
		}
	}
}

func TestListShowsTheLivingAndSweepTakesTheDead(t *testing.T) {
	run := open(t)
	dead := "1-test" + run.ID() // registered, and nobody holds its lock
	if err := os.Mkdir(filepath.Join(sandbox.Registry, dead), 0o700); err != nil {
		t.Fatal(err)
	}
	runs, err := sandbox.List()
	if err != nil {
		t.Fatal(err)
	}
	has := func(id string) bool {
		return slices.ContainsFunc(runs, func(i sandbox.Info) bool { return i.ID == id })
	}
	if !has(run.ID()) || has(dead) {
		t.Errorf("runs = %v, want %s and not %s", runs, run.ID(), dead)
	}
	if _, err := sandbox.Sweep(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(sandbox.Registry, dead)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the dead run is still registered: %v", err)
	}
	if _, err := os.Stat(filepath.Join(sandbox.Registry, run.ID())); err != nil {
		t.Errorf("the living run was swept: %v", err)
	}
}

func TestDoReturnsWhenItsFunctionLeaves(t *testing.T) {
	run := open(t)
	ns, err := run.Netns("ns")
	if err != nil {
		t.Fatal(err)
	}
	boom := errors.New("boom")
	if err := ns.Do(func() error { return boom }); !errors.Is(err, boom) {
		t.Errorf("Do = %v, want %v", err, boom)
	}
}
