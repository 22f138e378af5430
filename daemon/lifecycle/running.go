package lifecycle

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/daemon/process"
	"github.com/lictor-mesh/lictor/kernel/netns"
	"github.com/lictor-mesh/lictor/state"
)

// errGone says that a process has ended, whoever has its pid now.
var errGone = errors.New("the process has ended")

// running is a process of this boot. The kernel's descriptor tells it from
// another with its pid.
type running struct {
	state.Process
	pidfd  *os.File
	status *os.File // /proc/PID/status, of that process for ever
}

// openProcess opens a process; the error is errGone when it has ended, also when
// another has its pid. The caller closes it.
func openProcess(p state.Process, bootID string) (*running, error) {
	if p.BootID != bootID {
		return nil, errGone
	}
	fd, err := unix.PidfdOpen(p.PID, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, errGone
	}
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", p.PID, err)
	}
	r := &running{Process: p, pidfd: os.NewFile(uintptr(fd), fmt.Sprintf("pidfd of %d", p.PID))}
	status, err := os.Open(fmt.Sprintf("/proc/%d/status", p.PID))
	if err == nil {
		r.status = status
	} else if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
		return nil, errors.Join(fmt.Errorf("open process %d: %w", p.PID, err), r.close())
	}
	// What was opened is of the process that is looked at now, or of one that
	// had ended by then and has another start.
	if err != nil || process.Gone(p, bootID) || r.exited() {
		return nil, errors.Join(errGone, r.close())
	}
	return r, nil
}

func (r *running) close() error {
	err := r.pidfd.Close()
	if r.status != nil {
		err = errors.Join(err, r.status.Close())
	}
	return err
}

// exited says whether all its threads have ended.
func (r *running) exited() bool {
	raw, err := r.pidfd.SyscallConn()
	if err != nil {
		return true
	}
	over := true
	_ = raw.Control(func(fd uintptr) { over = readable(fd) })
	return over
}

func readable(fd uintptr) bool {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(poll, 0)
	return err == nil && n > 0
}

// wait waits until the process has ended, or its descriptor is closed. It takes
// no thread.
func (r *running) wait() {
	raw, err := r.pidfd.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(readable)
}

// termPending says whether a SIGTERM for the process waits to be taken, as one
// that is blocked in all threads does.
func (r *running) termPending() bool {
	buf := make([]byte, 4096)
	n, err := r.status.ReadAt(buf, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return false // it has ended, which its descriptor says
	}
	return termIn(buf[:n])
}

// termIn looks for SIGTERM among the signals that are pending for a whole
// process, in the text of its status.
func termIn(status []byte) bool {
	_, rest, found := bytes.Cut(status, []byte("\nShdPnd:"))
	mask, _, _ := bytes.Cut(rest, []byte("\n"))
	set, err := strconv.ParseUint(string(bytes.TrimSpace(mask)), 16, 64)
	return found && err == nil && set&(1<<(unix.SIGTERM-1)) != 0
}

// errElsewhere says that a process is not where its proxy's owner is.
var errElsewhere = errors.New("the process is in another network namespace than the owner of its VIP; nothing is done for it there")

// netns opens the network namespace that the process is in, which must be the
// owner's where that is one. The caller closes it.
func (r *running) netns(owner state.Owner) (*os.File, error) {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", r.PID))
	if r.exited() {
		err = errors.Join(err, errGone)
	}
	if err == nil && owner.Kind == state.OwnerNetns && owner.BootID == r.BootID && owner.ID != 0 {
		var id netns.ID
		if id, err = netns.Of(ns); err == nil && id.Cookie != owner.ID {
			err = errElsewhere
		}
	}
	if err != nil && ns != nil {
		err = errors.Join(err, ns.Close())
		ns = nil
	}
	return ns, err
}
