package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/kernel/netns"
)

// Netns is a network namespace that a file keeps alive. Its methods may be
// called concurrently.
type Netns struct {
	Name string
	Path string // of the file, which is what others are told: nsenter, lictor register --netns
	file *os.File
}

// netnsDir is the run's own and not /run/netns: the first `ip netns add` on a
// machine mounts that directory over itself, and what was mounted in it before
// can then not be removed any more.
func netnsDir(id string) string { return filepath.Join(Registry, id, "netns") }

// Netns makes a network namespace with its loopback up. Its name is unique in
// the run. It lasts until the run is closed, or [Run.RemoveNetns].
func (r *Run) Netns(name string) (*Netns, error) {
	r.mu.Lock() // until it is noted, so that Close misses none
	defer r.mu.Unlock()
	if r.closed {
		return nil, fmt.Errorf("make network namespace: %w", errClosed)
	}
	dir := netnsDir(r.info.ID)
	if len(r.netns) == 0 {
		if err := shareMounts(dir); err != nil {
			return nil, fmt.Errorf("make network namespace: %w", err)
		}
	}
	n := &Netns{Name: name, Path: filepath.Join(dir, name)}
	mount, err := os.OpenFile(n.Path, os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return nil, fmt.Errorf("make network namespace: %w", err)
	}
	if err := mount.Close(); err != nil {
		return nil, err
	}
	if err := newNetns(n.Path); err != nil {
		return nil, errors.Join(fmt.Errorf("make network namespace %s: %w", n.Name, err), unnameNetns(n.Path))
	}
	if n.file, err = os.Open(n.Path); err != nil {
		return nil, errors.Join(fmt.Errorf("open network namespace: %w", err), unnameNetns(n.Path))
	}
	r.netns = append(r.netns, n)
	return n, nil
}

// OpenNetns opens a namespace by the path of its file. The caller closes it.
func OpenNetns(path string) (*Netns, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	return &Netns{Name: filepath.Base(path), Path: path, file: f}, nil
}

// Close gives back what OpenNetns took; the namespaces of a run are the run's.
func (n *Netns) Close() error { return n.file.Close() }

// RemoveNetns takes the namespace's name away; the kernel removes the
// namespace with its links once no process and no socket is in it.
func (r *Run) RemoveNetns(n *Netns) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, have := range r.netns {
		if have == n {
			r.netns = append(r.netns[:i], r.netns[i+1:]...)
			return errors.Join(n.file.Close(), unnameNetns(n.Path))
		}
	}
	return nil
}

// newNetns makes a namespace and mounts it on a file.
func newNetns(path string) error {
	here, err := os.Open("/proc/self/ns/net")
	if err != nil {
		return fmt.Errorf("open own network namespace: %w", err)
	}
	defer here.Close()
	return netns.Do(here, func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s: %w", path, err)
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("find lo: %w", err)
		}
		return netlink.LinkSetUp(lo)
	})
}

// shareMounts makes a directory in which what is mounted later is seen by
// processes with a mount namespace of their own too, as on machines that
// systemd has started. It becomes a mount of its own, private first: else what
// is mounted in it would be mounted below it as well. Doing it again changes
// nothing.
func shareMounts(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var parent, self unix.Statx_t
	err := errors.Join(
		unix.Statx(unix.AT_FDCWD, filepath.Dir(dir), 0, unix.STATX_MNT_ID, &parent),
		unix.Statx(unix.AT_FDCWD, dir, 0, unix.STATX_MNT_ID, &self))
	if err != nil {
		return fmt.Errorf("stat %s: %w", dir, err)
	}
	if self.Mnt_id != parent.Mnt_id {
		return nil
	}
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", dir, err)
	}
	for _, how := range []uintptr{unix.MS_PRIVATE, unix.MS_SHARED} {
		if err := unix.Mount("", dir, "", how, ""); err != nil {
			return fmt.Errorf("share mounts in %s: %w", dir, err)
		}
	}
	return nil
}

func unnameNetns(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// FD is the namespace's descriptor, open for as long as the run is.
func (n *Netns) FD() int { return int(n.file.Fd()) }

// Do runs fn inside the namespace, on a thread of its own that ends with it, and returns its error.
// Sockets made by fn itself belong to the namespace for good; goroutines that
// fn starts are outside of it.
func (n *Netns) Do(fn func() error) error {
	return netns.Do(n.file, func() error {
		runtime.LockOSThread() // and never back: fn may have given its thread mounts of its own
		return fn()
	})
}

// Cookie is what bpf_get_netns_cookie returns for the namespace.
func (n *Netns) Cookie() (cookie uint64, err error) {
	err = n.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return err
	})
	return cookie, err
}
