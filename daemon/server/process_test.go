package server

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

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
