package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// lifeline is a process outside the run that waits for the run's process to
// end, however it ends, and then kills what is in the run's cgroup. Sweep would
// too, but only when the next run starts, and until then three Consul servers
// would go on electing leaders.
type lifeline struct {
	cmd   *exec.Cmd
	stdin io.Closer
}

// Lifeline makes sure that no process in the run's cgroup outlives this
// process. Calling it twice is success.
func (r *Run) Lifeline() error {
	dir, err := r.Cgroup()
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lifeline != nil || r.closed {
		return nil
	}
	// read returns at end of file, which comes when the last writer is gone.
	cmd := exec.Command("/bin/sh", "-c", `trap "" INT TERM HUP; read _; echo 1 >"$1"`, "lictor-lifeline", filepath.Join(dir, "cgroup.kill"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // Ctrl-C must not reach it
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("start lifeline: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("start lifeline: %w", err), stdin.Close())
	}
	r.lifeline = &lifeline{cmd: cmd, stdin: stdin}
	return nil
}

// close ends the lifeline after the cgroup is gone.
func (l *lifeline) close() error {
	if err := l.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end lifeline: %w", err)
	}
	_ = l.cmd.Wait() // it was killed, and says so
	if err := l.stdin.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("end lifeline: %w", err)
	}
	return nil
}
