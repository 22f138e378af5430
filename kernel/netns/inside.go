package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// inside runs fn in a namespace, on a thread of its own that leaves it again.
// Goroutines that fn starts are outside of it.
func inside(f *os.File, fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		back, err := visit(f, fn)
		if back {
			runtime.UnlockOSThread()
		}
		// Else the thread ends with this goroutine, so that no other ever runs
		// in the wrong namespace.
		done <- err
	}()
	return <-done
}

// visit runs fn in another namespace on the calling thread, and says whether
// the thread is back in its own. Coming back matters also where the thread
// would be thrown away: the runtime keeps a process's first thread for ever,
// and that would keep the namespace.
func visit(f *os.File, fn func() error) (back bool, err error) {
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return true, fmt.Errorf("open own network namespace: %w", err)
	}
	defer own.Close()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		return true, fmt.Errorf("enter it (needs CAP_SYS_ADMIN): %w", err)
	}
	err = fn()
	if berr := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); berr != nil {
		return false, errors.Join(err, fmt.Errorf("come back: %w", berr))
	}
	return true, err
}
