package command_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
	"github.com/lictor-mesh/lictor/tools/testbed/command"
	"github.com/lictor-mesh/lictor/tools/testbed/reexec"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// init makes this binary the command itself: exec replaces its process, and
// down ends another one.
func init() {
	reexec.Handle("command", func() error {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		root := command.New()
		root.SetArgs(os.Args[1:])
		return root.ExecuteContext(ctx)
	})
}

func testbed(t *testing.T, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), reexec.Path, args...)
	cmd.Args[0] = reexec.Argv0("command")
	return cmd
}

// output runs the command and returns what it printed, errors included.
func output(t *testing.T, args ...string) (string, error) {
	out, err := testbed(t, args...).CombinedOutput()
	return string(out), err
}

func TestUpExecStatusDown(t *testing.T) {
	testenv.Privileged(t)
	testenv.NoLeaks(t)
	up := testbed(t, "up", "--servers=1", "--pods=1")
	var printed bytes.Buffer
	up.Stdout, up.Stderr = &printed, &printed
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- up.Wait() }()
	t.Cleanup(func() { _ = up.Process.Kill() })

	deadline := time.Now().Add(60 * time.Second)
	id := ""
	for ; id == ""; time.Sleep(100 * time.Millisecond) {
		select {
		case err := <-ended:
			t.Fatalf("up has ended: %v: %s", err, printed.String())
		default:
		}
		out, err := output(t, "status")
		check(t, err)
		if run, nodes := statusOf(out, up.Process.Pid); strings.Contains(nodes, "  web-1  ") {
			id = "--id=" + run
		} else if time.Now().After(deadline) {
			t.Fatalf("status = %s, want the node web-1 of process %d", out, up.Process.Pid)
		}
	}

	out, err := output(t, "exec", id, "web-1", "--", "cat", "/proc/self/cgroup", "/proc/self/net/dev")
	if err != nil || !strings.Contains(out, "/hosts/host-1/pods/web-1\n") || !strings.Contains(out, "eth0:") {
		t.Errorf("exec = %s, %v, want the pod's cgroup and link", out, err)
	}
	if out, err = output(t, "exec", id, "web-9"); err == nil || !strings.Contains(out, "web-1") {
		t.Errorf("exec in an unknown node = %s, %v, want an error that names the nodes", out, err)
	}
	if out, err = output(t, "exec", "--id=no-such", "web-1"); err == nil || !strings.Contains(out, "no-such") {
		t.Errorf("exec in an unknown testbed = %s, want an error that names it", out)
	}
	other := bed.ForTest(t)
	_, err = other.NewHost("web-1")
	check(t, errors.Join(err, other.Describe()))
	out, err = output(t, "exec", "web-1")
	if err == nil || !strings.Contains(out, id) || !strings.Contains(out, "--id="+other.ID()) {
		t.Errorf("exec in a node of two testbeds = %s, want an error that names both", out)
	}
	if out, err = output(t, "down", strings.TrimPrefix(id, "--id=")); err != nil {
		t.Fatalf("down = %s, %v", out, err)
	}
	if err := <-ended; err != nil {
		t.Errorf("up = %v: %s", err, printed.String())
	}
	if out, err = output(t, "down", "no-such"); err == nil {
		t.Errorf("down of an unknown testbed = %s, want an error", out)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// statusOf is what status says of the testbed that the process has up: others
// may be there.
func statusOf(status string, pid int) (id, nodes string) {
	ours := false
	for line := range strings.Lines(status) {
		run, rest, begins := strings.Cut(line, ": pid ")
		if begins {
			ours = strings.HasPrefix(rest, strconv.Itoa(pid)+",")
		}
		switch {
		case ours && begins:
			id = run
		case ours:
			nodes += line
		}
	}
	return id, nodes
}
