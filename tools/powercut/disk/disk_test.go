package disk

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

func newDisk(t *testing.T, o Options) *Disk {
	t.Helper()
	testenv.Privileged(t)
	testenv.NoLeaks(t)
	d, err := New(o)
	must(t, err)
	t.Cleanup(func() {
		must(t, d.Close())
		if mounted(t, d.home) {
			t.Errorf("%s is still mounted", d.home)
		}
	})
	return d
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mounted(t *testing.T, home string) bool {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	must(t, err)
	return strings.Contains(string(mounts), home)
}

// write writes a file and syncs it, if it is to be.
func write(path string, size int, sync bool) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, size))
	if err == nil && sync {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func TestCutKeepsWhatWasSynced(t *testing.T) {
	d := newDisk(t, Options{})
	must(t, write(filepath.Join(d.Path, "synced"), 5000, true))
	must(t, write(filepath.Join(d.Path, "not"), 5000, false))
	must(t, d.Cut())
	if err := write(filepath.Join(d.Path, "late"), 1, true); !errors.Is(err, unix.EIO) {
		t.Errorf("write without power: %v", err)
	}
	must(t, d.Unmount())
	must(t, d.Mount())
	info, err := os.Stat(filepath.Join(d.Path, "synced"))
	must(t, err)
	if info.Size() != 5000 {
		t.Errorf("%d bytes are left", info.Size())
	}
	if info, err := os.Stat(filepath.Join(d.Path, "not")); err == nil && info.Size() > 0 {
		t.Error("what was not synced is there")
	}
}

func TestFull(t *testing.T) {
	d := newDisk(t, Options{})
	must(t, Fill(d.Path))
	path := filepath.Join(d.Path, "more")
	if err := write(path, 5000, true); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("write on a full disk: %v", err)
	}
	must(t, Empty(d.Path))
	must(t, write(path, 5000, true))
}

func TestReadOnly(t *testing.T) {
	d := newDisk(t, Options{Mount: "errors=remount-ro"})
	must(t, d.Fail())
	if err := write(filepath.Join(d.Path, "more"), 1, true); !errors.Is(err, unix.EROFS) {
		t.Errorf("write after the file system's error: %v", err)
	}
}

// A volume without memory behind it takes a write, and fails its sync.
func TestThin(t *testing.T) {
	d := newDisk(t, Options{Thin: 12 << 20})
	must(t, d.Exhaust())
	f, err := os.Create(filepath.Join(d.Path, "more"))
	must(t, err)
	if _, err := f.Write(make([]byte, 1<<20)); err != nil {
		t.Errorf("write: %v", err)
	}
	if err := f.Sync(); err == nil {
		t.Error("the sync succeeded")
	}
	_ = f.Close() // it has said what it had to
	must(t, d.Relieve())
}

func TestFreeze(t *testing.T) {
	d := newDisk(t, Options{})
	must(t, d.Freeze())
	done := make(chan error)
	go func() { done <- write(filepath.Join(d.Path, "more"), 1, true) }()
	select {
	case err := <-done:
		t.Errorf("it went through: %v", err)
		must(t, d.Thaw())
		return
	case <-time.After(200 * time.Millisecond):
	}
	must(t, d.Thaw())
	must(t, <-done)
}

// What a killed process leaves, frozen even, is gone when the next disk is made.
func TestSweep(t *testing.T) {
	testenv.Privileged(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestSweepChild$")
	cmd.Env = append(os.Environ(), "DISK_SWEEP_CHILD=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	must(t, err)
	must(t, cmd.Process.Kill())
	_ = cmd.Wait() // it was killed, and says so
	home := filepath.Dir(strings.TrimSpace(line))
	if !mounted(t, home) {
		t.Fatalf("%s is gone with its process; this test shows nothing", home)
	}
	newDisk(t, Options{})
	if _, err := os.Stat(home); !errors.Is(err, os.ErrNotExist) || mounted(t, home) {
		t.Errorf("%s is still there", home)
	}
}

// TestSweepChild is the process that TestSweep kills.
func TestSweepChild(t *testing.T) {
	if os.Getenv("DISK_SWEEP_CHILD") == "" {
		t.Skip("run by TestSweep")
	}
	d, err := New(Options{Thin: 8 << 20})
	must(t, err)
	must(t, d.Freeze())
	fmt.Println(d.Path)
	time.Sleep(time.Minute)
}
