package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"golang.org/x/sys/unix"
)

const (
	dumpTimeout = 5 * time.Second
	maxDump     = 64 << 20 // bytes
)

// dumps bounds those that are being written in this process: a pipe that is
// filled by another writer after it was found to have room would hold one up.
var dumps = make(chan struct{}, 4)

// dump writes Envoy's configuration to its stdout, where its own log is, if
// that is a pipe. Anything else stays untouched: what a pod's process hands out
// as its stdout may be a socket to a service that trusts root, or a file of the
// kernel's that looks at who writes.
func (l *life) dump(ctx context.Context, r *running) {
	if err := l.writeDump(ctx, r); err != nil && ctx.Err() == nil {
		l.log.Warn("configuration of an Envoy that shuts down not dumped", "err", err)
	}
}

func (l *life) writeDump(ctx context.Context, r *running) (err error) {
	if !take(dumps) {
		return errors.New("too many are being dumped")
	}
	defer func() { <-dumps }()
	at, err := l.adminAddress()
	if err != nil {
		return err
	}
	out, err := r.stdout()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(out)) }()
	ctx, cancel := context.WithTimeout(ctx, dumpTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at.String()+"/config_dump?include_eds", nil)
	if err != nil {
		return fmt.Errorf("make a request to Envoy's admin interface: %w", err)
	}
	answer, err := l.client(r).Do(req)
	if err != nil {
		return explain(at, err)
	}
	defer answer.Body.Close()
	end := time.Now().Add(dumpTimeout)
	_, err = io.CopyBuffer(pipe{out, end}, io.LimitReader(answer.Body, maxDump), make([]byte, pipeRoom))
	return err
}

// stdout is the process's standard output, a pipe. The caller closes it.
func (r *running) stdout() (fd int, err error) {
	raw, err := r.pidfd.SyscallConn()
	if err != nil {
		return 0, err
	}
	var taken error
	if err := raw.Control(func(pidfd uintptr) { fd, taken = unix.PidfdGetfd(int(pidfd), 1, 0) }); err != nil {
		return 0, err
	}
	if taken != nil {
		return 0, fmt.Errorf("take its stdout: %w", taken)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return 0, errors.Join(errors.New("its stdout is no pipe"), err, unix.Close(fd))
	}
	return fd, nil
}

// pipeRoom is what a pipe that polls writable takes without waiting, PIPE_BUF.
const pipeRoom = 4096

// pipe writes to a pipe, waiting for room until its time is over.
type pipe struct {
	fd  int
	end time.Time
}

// Write takes at most pipeRoom bytes, as io.CopyBuffer gives them.
func (p pipe) Write(b []byte) (int, error) {
	for {
		left := time.Until(p.end)
		if left <= 0 {
			return 0, errors.New("nobody reads its stdout")
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLOUT}}, int(left.Milliseconds())+1)
		switch {
		case errors.Is(err, unix.EINTR) || err == nil && n == 0:
			continue
		case err != nil:
			return 0, fmt.Errorf("wait for its stdout: %w", err)
		}
		return unix.Write(p.fd, b)
	}
}
