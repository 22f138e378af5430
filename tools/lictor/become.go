package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

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

// interruptible gives a context that the first SIGINT or SIGTERM ends; a second
// one ends the process. settle, called once, leaves signals to the kernel and
// says whether one had come, also one that ctx does not show yet.
func interruptible() (ctx context.Context, settle func() (came bool)) {
	signals, first := make(chan os.Signal, 1), make(chan bool, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, came := <-signals
		signal.Stop(signals)
		cancel()
		first <- came
	}()
	return ctx, func() bool {
		signal.Stop(signals) // nothing is sent there afterwards
		close(signals)
		return <-first
	}
}

// become replaces this process by another program under the same pid, unless a
// signal came meanwhile. It returns only with an error. settle is that of
// interruptible: no signal is to be taken here and forgotten by execve.
func become(settle func() bool, p program) error {
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
	if settle() {
		return context.Canceled
	}
	if err := defaultSignals(); err != nil {
		return fmt.Errorf("leave signals to the kernel: %w", err)
	}
	// A signal from here on ends this process, or stays pending for the program.
	return fmt.Errorf("become %s: %w; is it an Envoy for this machine?", p.path, syscall.Exec(p.path, p.args, p.env))
}

// defaultSignals has the kernel act on SIGINT and SIGTERM. Go's runtime keeps its
// handlers when nobody is notified any more, and a thread that was about to run
// one would be ended by execve, its signal lost: none is when this returns.
func defaultSignals() error {
	for _, sig := range []unix.Signal{unix.SIGINT, unix.SIGTERM} {
		var action [4]uintptr // a kernel's struct sigaction: SIG_DFL, no flags, no mask
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&action)), 0, unsafe.Sizeof(action[0]), 0, 0)
		if errno != 0 {
			return errno
		}
	}
	for range 100 {
		handling, err := inHandler()
		if err != nil || !handling {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	return errors.New("a thread handles a signal for too long; try again")
}

// inHandler says whether another thread handles a signal, which it does with all
// others blocked.
func inHandler() (bool, error) {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return false, err
	}
	for _, task := range tasks {
		if task.Name() == strconv.Itoa(unix.Gettid()) {
			continue
		}
		status, err := os.ReadFile(filepath.Join("/proc/self/task", task.Name(), "status"))
		if err != nil {
			continue // it has ended
		}
		_, after, _ := strings.Cut(string(status), "\nSigBlk:\t")
		line, _, _ := strings.Cut(after, "\n")
		mask, err := strconv.ParseUint(line, 16, 64)
		if err != nil {
			return false, fmt.Errorf("read what thread %s blocks: %w", task.Name(), err)
		}
		if mask&(1<<(unix.SIGTERM-1)) != 0 {
			return true, nil
		}
	}
	return false, nil
}
