package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Names within a disk's home: where it is mounted, and the memory behind it.
const (
	mountName   = "mnt"
	backingName = "backing"
)

// claim makes the home of a new disk, locked by this process, and removes those
// that nobody holds any more. Its name begins as that of everything else that
// tests make, so that their search for leaks finds it.
func claim() (home string, lock *os.File, err error) {
	if os.Geteuid() != 0 {
		return "", nil, errors.New("loop devices and mounts need root: run as root")
	}
	// A home must not be swept between its making and its locking.
	guard, err := lockFile(filepath.Join(os.TempDir(), "lictor-disks.lock"), os.O_CREATE|os.O_RDWR, unix.LOCK_EX)
	if err != nil {
		return "", nil, err
	}
	defer guard.Close()
	if err := sweep(); err != nil {
		return "", nil, err
	}
	if home, err = os.MkdirTemp("", fmt.Sprintf("lictor-%d-disk-", os.Getpid())); err != nil {
		return "", nil, err
	}
	lock, err = lockFile(home, os.O_RDONLY, unix.LOCK_EX|unix.LOCK_NB)
	return home, lock, err
}

func sweep() error {
	homes, err := filepath.Glob(filepath.Join(os.TempDir(), "lictor-*-disk-*"))
	if err != nil {
		return err
	}
	for _, home := range homes {
		lock, err := lockFile(home, os.O_RDONLY, unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			continue // in use
		}
		if err != nil {
			return err
		}
		if err := errors.Join(discard(home), lock.Close()); err != nil {
			return fmt.Errorf("remove what a killed process left: %w", err)
		}
	}
	return nil
}

// discard unmounts and removes a disk. What still has a file of it open keeps
// it for itself until it ends.
func discard(home string) error {
	mnt := filepath.Join(home, mountName)
	if f, err := os.Open(mnt); err == nil {
		_ = unix.IoctlSetInt(int(f.Fd()), fiThaw, 0) // a frozen one would hang here; the others refuse
		_ = f.Close()
	}
	for _, dir := range []string{mnt, filepath.Join(home, backingName)} {
		// EINVAL: not mounted.
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
	}
	return os.RemoveAll(home)
}

func lockFile(path string, flag, how int) (*os.File, error) {
	f, err := os.OpenFile(path, flag, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return f, nil
}
