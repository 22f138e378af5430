// Package netns finds the numbers by which the kernel's programs know network
// namespaces, and whether a namespace is still there.
package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// ErrNotNetns is returned for a path that is not a network namespace.
var ErrNotNetns = errors.New("not a network namespace")

// ID is a network namespace as the kernel knows it.
type ID struct {
	Cookie uint64 // never used again in this boot
	Inode  uint64 // of its nsfs file; may be used again once the namespace is gone
}

// Self returns the namespace of the calling thread.
func Self() (ID, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return ID{}, fmt.Errorf("open own network namespace: %w", err)
	}
	defer f.Close()
	inode, err := inodeOf(f)
	if err != nil {
		return ID{}, err
	}
	cookie, err := cookieHere()
	return ID{Cookie: cookie, Inode: inode}, err
}

// Stat returns the namespace behind a path such as /run/netns/NAME or
// /proc/PID/ns/net. It needs CAP_SYS_ADMIN for namespaces other than the
// caller's own.
func Stat(path string) (ID, error) {
	f, err := os.Open(path)
	if err != nil {
		return ID{}, fmt.Errorf("open network namespace: %w", err)
	}
	defer f.Close()
	inode, err := inodeOf(f)
	if err != nil {
		return ID{}, err
	}
	cookie, err := cookieIn(f)
	if err != nil {
		return ID{}, fmt.Errorf("network namespace %s: %w", path, err)
	}
	return ID{Cookie: cookie, Inode: inode}, nil
}

func inodeOf(f *os.File) (uint64, error) {
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		return 0, fmt.Errorf("%s: %w", f.Name(), ErrNotNetns)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, fmt.Errorf("stat %s: %w", f.Name(), err)
	}
	return st.Ino, nil
}

func cookieIn(f *os.File) (cookie uint64, err error) {
	err = Do(f, func() (err error) {
		cookie, err = cookieHere()
		return err
	})
	return cookie, err
}

// cookieHere asks a socket of the calling thread's namespace.
func cookieHere() (uint64, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("make a socket: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("read namespace cookie (SO_NETNS_COOKIE, Linux 5.14): %w", err)
	}
	return cookie, nil
}
