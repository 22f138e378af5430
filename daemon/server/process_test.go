package server

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/daemon/process"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

func TestTheCallingProcess(t *testing.T) {
	testenv.Privileged(t) // the kernel tells the caller's network namespace to CAP_NET_ADMIN alone
	backend := newFake()
	c := start(t, backend).client()
	for _, ask := range []bool{true, false} {
		if _, err := c.Register(t.Context(), "web", v1.RegisterRequest{Process: ask}); err != nil {
			t.Fatal(err)
		}
	}
	mine, err := process.Start(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if asked := backend.callers[0]; asked.Start != mine || int(asked.PID) != os.Getpid() {
		t.Errorf("caller = %+v, want pid %d that began at %d", asked, os.Getpid(), mine)
	}
	if backend.callers[1].Start != 0 {
		t.Error("a caller that did not ask for it is watched")
	}
}

// TestACallerThatHasEnded: its pid means nobody, or another process.
func TestACallerThatHasEnded(t *testing.T) {
	if path := os.Getenv("CONNECT"); path != "" { // the other process
		if _, err := net.Dial("unix", path); err != nil {
			t.Fatal(err)
		}
		return
	}
	path := filepath.Join(socketDir(t), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// Another process connects and leaves; the test keeps what it accepted.
	child := exec.Command("/proc/self/exe", "-test.run=^TestACallerThatHasEnded$")
	child.Env = append(os.Environ(), "CONNECT="+path)
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	conn, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	caller, err := callerOf(conn)
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := startOf(conn, int(caller.PID)); !errors.Is(err, ErrInvalid) {
		t.Errorf("startOf() of a caller that ended = %v", err)
	}
	// Another process has its pid now: this one.
	if _, err := startOf(conn, os.Getpid()); !errors.Is(err, ErrInvalid) {
		t.Errorf("startOf() of another with its pid = %v", err)
	}
	if _, err := startOf(conn, 0); !errors.Is(err, ErrInvalid) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("startOf() of a pid in no namespace of ours = %v", err)
	}
}

// Before Linux 6.5 the caller's process is known by its pid and user alone: one
// that is not its user's, in every way, is not taken for it.
func TestTheCallersUser(t *testing.T) {
	const nobody = 65534
	if path := os.Getenv("CONNECT_UNSEEN"); path != "" { // the other process
		conn, err := net.Dial("unix", path)
		if err == nil {
			// Its directory below /proc is root's now, as after many an exec.
			err = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
		}
		if err == nil {
			_, err = conn.Write([]byte{1})
		}
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Read(make([]byte, 1)) // until the test ends
		return
	}
	testenv.Privileged(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: "@" + t.Name() + rand.Text(), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	child := exec.Command("/proc/self/exe", "-test.run=^TestTheCallersUser$")
	child.Env = append(os.Environ(), "CONNECT_UNSEEN="+l.Addr().String())
	child.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = child.Wait() }()
	conn, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	file, err := conn.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	want, err := process.Start(child.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := askStartByPid(int(file.Fd()), child.Process.Pid); got != want || err != nil {
		t.Errorf("the caller itself: %d, %v; want %d", got, err, want)
	}
	// Not this process: its first thread may have become a test's user.
	roots, became := exec.Command("sleep", "60"), exec.Command(setUserID(t, "sleep"), "60")
	became.SysProcAttr = child.SysProcAttr
	for name, other := range map[string]*exec.Cmd{"root's process": roots, "one that may use root's rights": became} {
		if err := other.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := askStartByPid(int(file.Fd()), other.Process.Pid); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s that has its pid: %v", name, err)
		}
		_, _ = other.Process.Kill(), other.Wait()
	}
}

// setUserID copies a program, for anybody to run as root.
func setUserID(t *testing.T, name string) (path string) {
	t.Helper()
	from, err := exec.LookPath(name)
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(socketDir(t), name)
	if err := errors.Join(os.WriteFile(path, program, 0o755), os.Chmod(path, 0o755|os.ModeSetuid)); err != nil {
		t.Fatal(err)
	}
	return path
}
