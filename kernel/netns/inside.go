package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Do runs fn in the namespace of an open file such as /run/netns/NAME, on a
// thread of its own that leaves it again, and returns fn's error. fn may go on
// to other namespaces. Sockets that it makes belong to where it is; goroutines
// that it starts are outside. It needs CAP_SYS_ADMIN.
func Do(f *os.File, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		back, err := false, errors.New("function left its goroutine") // as t.FailNow does
		defer func() {
			if back {
				runtime.UnlockOSThread()
			}
			// Else the thread ends with this goroutine, so that no other ever runs
			// in the wrong namespace.
			done <- err
		}()
		back, err = visit(f, fn)
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
	defer func() { // also when fn does not return
		berr := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET)
		if back = berr == nil; !back {
			err = errors.Join(err, fmt.Errorf("come back: %w", berr))
		}
	}()
	return true, fn()
}
