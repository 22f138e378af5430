package sandbox

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/lictor-mesh/lictor/tools/testbed/reexec"
)

// lifeline is a process outside the run that waits for the run's process to
// end, however it ends, kills what is in the run's cgroup, and takes away the
// rest. The next run would do so as well, but until then three Consul servers
// would go on electing leaders, and programs would stay pinned.
type lifeline struct {
	cmd   *exec.Cmd
	stdin io.Closer
}

// waiting is the lifeline's script, in a shell because it is small: of most
// runs it sees nothing but the end that their Close makes of it. read returns at
// end of file, which comes when the last writer is gone. Descriptor 3 is this
// program, which may have no name any more by then.
const waiting = `trap "" INT TERM HUP; read _; echo 1 >"$1"; exec -a "$2" /proc/self/fd/3 "$3"`

func init() { reexec.Handle("sweep", func() error { return sweepAfter(os.Args[1]) }) }

// Lifeline makes sure that nothing of the run outlives this process. Calling it
// twice is success.
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
	self, err := os.Open(reexec.Path)
	if err != nil {
		return fmt.Errorf("start lifeline: %w", err)
	}
	defer self.Close() // the lifeline has its own
	cmd := exec.Command("/bin/bash", "-c", waiting, "lictor-lifeline", filepath.Join(dir, "cgroup.kill"), reexec.Argv0("sweep"), r.info.ID)
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{self}
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

// sweepAfter sweeps until a run is gone whose process is ending: it may hold the
// run's lock for a moment yet.
func sweepAfter(id string) error {
	for end := time.Now().Add(removeWait); ; time.Sleep(10 * time.Millisecond) {
		_, err := Sweep()
		if _, gone := os.Stat(filepath.Join(Registry, id)); errors.Is(gone, fs.ErrNotExist) {
			return nil
		}
		if time.Now().After(end) {
			return errors.Join(fmt.Errorf("run %s is there still", id), err)
		}
	}
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
