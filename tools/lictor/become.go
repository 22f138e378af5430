package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// program is what this process becomes.
type program struct {
	path string
	args []string // with the name
	env  []string
	// hold leaves SIGTERM blocked, in all threads that it will have: it stays
	// pending, for lictord to see.
	hold bool
}

// become replaces this process by another program under the same pid, unless a
// signal came meanwhile. It returns only with an error. stop ends what else is
// notified of signals, so that none is taken here and forgotten by execve.
func become(ctx context.Context, stop func(), p program) error {
	runtime.LockOSThread() // whose mask the program inherits
	defer runtime.UnlockOSThread()
	if p.hold {
		var old, mask unix.Sigset_t
		mask.Val[0] = 1 << (unix.SIGTERM - 1)
		if err := unix.PthreadSigmask(unix.SIG_BLOCK, &mask, &old); err != nil {
			return fmt.Errorf("block SIGTERM: %w", err)
		}
		defer func() { _ = unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil) }()
	}
	// A signal so far has ended ctx. One between here and Stop is in late; one
	// after it ends this process, or stays pending for the program.
	late := make(chan os.Signal, 1)
	signal.Notify(late, os.Interrupt, syscall.SIGTERM)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	stop()
	signal.Stop(late)
	select {
	case <-late:
		return errors.New("interrupted")
	default:
	}
	return fmt.Errorf("become %s: %w; is it an Envoy for this machine?", p.path, syscall.Exec(p.path, p.args, p.env))
}
