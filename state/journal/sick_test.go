package journal_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/state/journal"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// errFull is what bbolt returns on a full disk.
var errFull = &fs.PathError{Op: "write", Path: "journal.db", Err: syscall.ENOSPC}

// TestErrorsOfACommit injects what bbolt returns: a full disk is retried, and
// anything else ends writing for good.
func TestErrorsOfACommit(t *testing.T) {
	write := func(err error) error { return &fs.PathError{Op: "write", Path: "journal.db", Err: err} }
	for name, test := range map[string]struct{ fault, want error }{
		"full":              {errFull, journal.ErrFull},
		"quota":             {write(syscall.EDQUOT), journal.ErrFull},
		"write error":       {write(syscall.EIO), journal.ErrBroken},
		"sync error":        {syscall.EIO, journal.ErrBroken},
		"full at sync":      {syscall.ENOSPC, journal.ErrBroken},
		"full at File.Sync": {&fs.PathError{Op: "sync", Path: "journal.db", Err: syscall.ENOSPC}, journal.ErrBroken},
		"no growth":         {errors.New("file resize error: truncate journal.db: read-only file system"), journal.ErrBroken},
		"anything else":     {errors.New("file resize error"), journal.ErrBroken},
	} {
		t.Run(name, func(t *testing.T) {
			var fault error
			dir := t.TempDir()
			j, s := mustOpen(t, dir, journal.Options{Fault: func() error { return fault }})
			s = state.Fold(s, mustAppend(t, j, registered(1))[0])
			fault = test.fault
			if name == "no growth" { // bbolt says it in words only
				test.fault = syscall.EROFS
			}
			if _, err := j.Append(registered(2)); !errors.Is(err, test.want) || !errors.Is(err, test.fault) {
				t.Fatalf("append: %v", err)
			}
			if err := j.Snapshot(s); !errors.Is(err, test.want) {
				t.Errorf("snapshot: %v", err)
			}
			if err := j.Probe(); !errors.Is(err, test.want) {
				t.Errorf("probe: %v", err)
			}
			fault = nil
			if err := j.Probe(); (err == nil) != (test.want == journal.ErrFull) {
				t.Errorf("probe after it: %v", err)
			}
			events, err := j.Append(registered(3))
			broken := test.want == journal.ErrBroken
			if broken != errors.Is(err, journal.ErrBroken) {
				t.Fatalf("append after it: %v", err)
			}
			if !broken && events[0].Seq != 2 {
				t.Errorf("event %d follows 1", events[0].Seq)
			}
			if got, err := j.StateAtSeq(context.Background(), 1); err != nil || !got.Equal(s) {
				t.Errorf("reading goes on: %v", err)
			}
		})
	}
}

// smallDisk is a file system of a megabyte.
func smallDisk(t *testing.T) (dir string) {
	t.Helper()
	testenv.Privileged(t)
	dir = t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestFullDisk fills a real file system, then makes room.
func TestFullDisk(t *testing.T) {
	dir := smallDisk(t)
	j, s := mustOpen(t, dir, journal.Options{})
	ballast := filepath.Join(dir, "ballast")
	writeFile(t, ballast, make([]byte, 200<<10))
	var err error
	for n := uint32(1); n < 5000; n++ {
		var events []state.Event
		if events, err = j.Append(registered(n), placed(n, state.PlaceInitial)); err != nil {
			break
		}
		for _, e := range events {
			s = state.Fold(s, e)
		}
	}
	if !errors.Is(err, journal.ErrFull) || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("append on a full disk: %v", err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	for _, e := range mustAppend(t, j, registered(6000), placed(6000, state.PlaceInitial)) {
		s = state.Fold(s, e)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if _, again := mustOpen(t, dir, journal.Options{}); !again.Equal(s) {
		t.Errorf("replayed up to event %d, want %d, or another state", again.Seq, s.Seq)
	}
}

// TestProbeOfAFullDisk: a disk that has room for a small write and not for what
// it refused is still full; room that a probe found is there for the next append,
// whoever else fills the disk.
func TestProbeOfAFullDisk(t *testing.T) {
	dir := smallDisk(t)
	j, _ := mustOpen(t, dir, journal.Options{})
	ballast := filepath.Join(dir, "ballast")
	many := make([]state.Body, 100)
	for n := range many {
		many[n] = registered(uint32(n + 1))
	}
	fillDisk(t, ballast)
	if _, err := j.Append(many...); !errors.Is(err, journal.ErrFull) {
		t.Fatalf("append on a full disk: %v", err)
	}
	for range 3 {
		if err := j.Probe(); !errors.Is(err, journal.ErrFull) || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("probe of a full disk: %v", err)
		}
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := j.Probe(); err != nil {
		t.Fatalf("probe of a disk with room: %v", err)
	}
	fillDisk(t, ballast)
	mustAppend(t, j, many...)
	if err := j.Probe(); err != nil {
		t.Errorf("probe after what was refused is written: %v", err)
	}
}

// fillDisk takes all the room that a file system has left but a page, in a file.
func fillDisk(t *testing.T, path string) {
	t.Helper()
	var stat unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(path), &stat); err != nil {
		t.Fatal(err)
	}
	writeFile(t, path, make([]byte, (int64(stat.Bfree)-1)*stat.Bsize))
}

// TestSyncError puts a device that cannot be synced in the place of the file,
// behind bbolt's back.
func TestSyncError(t *testing.T) {
	dir := t.TempDir()
	j, s := mustOpen(t, dir, journal.Options{})
	for n := uint32(1); n <= 20; n++ {
		s = state.Fold(s, mustAppend(t, j, registered(n))[0])
	}
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	restore := swapFile(t, filepath.Join(dir, journal.FileName), null)
	_, err = j.Append(registered(21))
	restore()
	if !errors.Is(err, journal.ErrBroken) || !errors.Is(err, syscall.EINVAL) { // what fdatasync says of it
		t.Errorf("append: %v", err)
	}
	if _, err := j.Append(registered(22)); !errors.Is(err, journal.ErrBroken) {
		t.Errorf("append after it: %v", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if _, again := mustOpen(t, dir, journal.Options{}); !again.Equal(s) {
		t.Errorf("after a restart: event %d, want %d", again.Seq, s.Seq)
	}
}

// swapFile makes the descriptor by which this process has path open for writing
// refer to another file. The result undoes it.
func swapFile(t *testing.T, path string, other *os.File) (restore func()) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range fds {
		link, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil || link != path {
			continue
		}
		var fd int
		for _, c := range e.Name() {
			fd = fd*10 + int(c-'0')
		}
		saved, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err == nil {
			err = unix.Dup3(int(other.Fd()), fd, unix.O_CLOEXEC)
		}
		if err != nil {
			t.Fatal(err)
		}
		return func() {
			if err := errors.Join(unix.Dup3(saved, fd, unix.O_CLOEXEC), unix.Close(saved)); err != nil {
				t.Error(err)
			}
		}
	}
	t.Fatalf("%s is not open", path)
	return nil
}

// TestFileCutOffBeneath truncates the file of an open journal: its memory map
// then faults. That is damage and not a crash, also for one who appends.
func TestFileCutOffBeneath(t *testing.T) {
	dir := t.TempDir()
	j, s, err := journal.Open(context.Background(), dir, journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for n := uint32(1); n <= 200; n++ {
		s = state.Fold(s, mustAppend(t, j, registered(n))[0])
	}
	if err := os.Truncate(filepath.Join(dir, journal.FileName), 2*page); err != nil {
		t.Fatal(err)
	}
	if err := j.Read(0, func(state.Event) error { return nil }); !errors.Is(err, journal.ErrDamaged) {
		t.Errorf("read: %v", err)
	}
	if _, err := j.History(registered(1).Proxy.ID, 0); !errors.Is(err, journal.ErrDamaged) {
		t.Errorf("history: %v", err)
	}
	if _, err := j.Append(registered(201)); !errors.Is(err, journal.ErrBroken) {
		t.Errorf("append: %v", err)
	}
	if err := j.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// TestWhatCannotBeJournaled changes nothing.
func TestWhatCannotBeJournaled(t *testing.T) {
	j, _ := mustOpen(t, t.TempDir(), journal.Options{})
	huge := registered(1)
	huge.Proxy.Node = strings.Repeat("x", 2<<20)
	broken := registered(1)
	broken.Proxy.Node = "\xff"
	for name, body := range map[string]state.Body{"nothing": nil, "huge": huge, "no UTF-8": broken} {
		if _, err := j.Append(registered(2), body); !errors.Is(err, state.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if e := mustAppend(t, j, registered(1)); e[0].Seq != 1 {
		t.Errorf("the first event is %d", e[0].Seq)
	}
}
