package server

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/daemon/process"
)

// startOf says when the calling process began, so that it is told from another
// that gets its pid later. The pid is the one at the time of connect; that it
// still means the same process is known from the kernel's descriptor of the
// peer, Linux 6.5. Before, a caller that hands its connection to another process
// and ends could have that of another taken for its own, of the same user only.
func startOf(conn *net.UnixConn, pid int) (uint64, error) {
	if pid <= 0 {
		return 0, fmt.Errorf("%w: the caller's process is not in lictord's pid namespace, so its end cannot be watched for; run lictord in the host's (hostPID)", ErrInvalid)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("reach the caller's socket: %w", err)
	}
	var start uint64
	var asked error
	err = raw.Control(func(fd uintptr) { start, asked = askStart(int(fd), pid) })
	if err := errors.Join(err, asked); errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("%w: process %d, which called, has ended", ErrInvalid, pid)
	} else if err != nil {
		return 0, err
	}
	return start, nil
}

func askStart(fd, pid int) (uint64, error) {
	pidfd, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	switch {
	case errors.Is(err, unix.ENOPROTOOPT): // before Linux 6.5
		return askStartByPid(fd, pid)
	case errors.Is(err, unix.ESRCH), errors.Is(err, unix.EINVAL): // it was waited for already
		return 0, fs.ErrNotExist
	case err != nil:
		return 0, os.NewSyscallError("getsockopt SO_PEERPIDFD", err)
	}
	defer unix.Close(pidfd)
	start, err := process.Start(pid)
	if err != nil {
		return 0, err
	}
	// As long as it can be signalled, nobody else has its pid.
	switch err := unix.PidfdSendSignal(pidfd, 0, nil, 0); {
	case errors.Is(err, unix.ESRCH):
		return 0, fs.ErrNotExist
	case err != nil && !errors.Is(err, unix.EPERM):
		return 0, os.NewSyscallError("pidfd_send_signal", err)
	}
	return start, nil
}

// askStartByPid at least does not take the process of another user, nor one that
// may use another's rights. Whose directory its own is would not tell: root's is
// that of anybody whose process cannot be looked into.
func askStartByPid(fd, pid int) (uint64, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, os.NewSyscallError("getsockopt SO_PEERCRED", err)
	}
	start, err := process.Start(pid)
	if err != nil {
		return 0, err
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, errors.Join(fs.ErrNotExist, err)
	}
	users, err := process.Users(string(status))
	if err != nil {
		return 0, err
	}
	if users != [4]uint32{cred.Uid, cred.Uid, cred.Uid, cred.Uid} {
		return 0, fs.ErrNotExist
	}
	return start, nil
}
