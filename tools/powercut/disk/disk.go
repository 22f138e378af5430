// Package disk makes small ext4 disks out of memory, and makes them fail as disks
// do: the power goes, room runs out, a write is lost, everything hangs, the
// kernel takes the file system read-only. Needs root.
//
// What a disk consists of, a loop device and two mounts, is in the machine's own
// mount namespace, so that programs started by others see it. [New] removes what
// a process that was killed has left.
package disk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Options of a disk. The zero value is usable.
type Options struct {
	// Size in bytes; 32 MiB when 0.
	Size int64
	// Thin is how many bytes of memory stand behind all of Size; Size when 0. When
	// fewer, it is as a volume that was promised more room than there is; see
	// [Disk.Exhaust].
	Thin int64
	// NoLog makes a file system without a log of its own, which goes on after an
	// error that the log would not survive.
	NoLog bool
	// Mount are options of the file system, such as "errors=remount-ro".
	Mount string
}

// Disk is a mounted ext4 on a loop device. Its methods are called one at a time,
// but for Cut, Freeze and Thaw, which may be called while others write.
type Disk struct {
	// Path is where it is mounted; the same for the disk's whole life.
	Path string

	opts   Options
	home   string   // holds the image, and what Path names
	lock   *os.File // of home: held for as long as the disk is in use
	device string   // "/dev/loop3" while it is mounted
}

// New makes a disk and mounts it. The caller closes it.
func New(o Options) (*Disk, error) {
	if o.Size == 0 {
		o.Size = 32 << 20
	}
	if o.Thin == 0 {
		o.Thin = o.Size
	}
	home, lock, err := claim()
	if err != nil {
		return nil, fmt.Errorf("make disk: %w", err)
	}
	d := &Disk{Path: filepath.Join(home, mountName), opts: o, home: home, lock: lock}
	if err := d.make(); err != nil {
		return nil, errors.Join(fmt.Errorf("make disk: %w", err), d.Close())
	}
	return d, nil
}

func (d *Disk) make() error {
	for _, dir := range []string{d.Path, filepath.Join(d.home, backingName)} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
	}
	options := fmt.Sprintf("size=%d,mode=0700", d.opts.Thin)
	if err := unix.Mount("tmpfs", filepath.Join(d.home, backingName), "tmpfs", 0, options); err != nil {
		return fmt.Errorf("mount tmpfs: %w", err)
	}
	f, err := os.OpenFile(d.image(), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(d.opts.Size), f.Close()); err != nil {
		return err
	}
	// Nothing is left to be initialized later by a thread of the kernel, which
	// would write at moments of its own.
	args := []string{"-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", d.image()}
	if d.opts.NoLog {
		args = append([]string{"-O", "^has_journal"}, args...)
	}
	out, err := exec.Command("mkfs.ext4", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mkfs.ext4 (of Debian's e2fsprogs): %w: %s", err, strings.TrimSpace(string(out)))
	}
	return d.Mount()
}

func (d *Disk) image() string { return filepath.Join(d.home, backingName, "image") }

// Mount mounts the disk again after Unmount.
func (d *Disk) Mount() error {
	loop, device, err := attach(d.image())
	if err != nil {
		return err
	}
	// The mount keeps the device, which is released with it.
	defer loop.Close()
	if err := unix.Mount(device, d.Path, "ext4", 0, d.opts.Mount); err != nil {
		return fmt.Errorf("mount %s: %w", device, err)
	}
	d.device = device
	return nil
}

// Unmount takes the disk away; nobody may have a file of it open. What was
// written and not cut off is on it then. A disk that is not mounted is success.
func (d *Disk) Unmount() error {
	if d.device == "" {
		return nil
	}
	if err := unix.Unmount(d.Path, 0); err != nil {
		return fmt.Errorf("unmount %s: %w", d.Path, err)
	}
	d.device = ""
	return nil
}

// Cut is the power going: from now on nothing more reaches the disk, the file
// system's own log included. Whoever reads, writes or syncs gets EIO. What is
// on the disk is seen after Unmount and Mount.
func (d *Disk) Cut() error {
	// EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH (fs/ext4/ext4.h).
	const shutdown, noLogFlush = 0x8004587d, 2
	return d.ioctl("cut", func(fd int) error { return unix.IoctlSetPointerInt(fd, shutdown, noLogFlush) })
}

// Freeze hangs every write and sync until Thaw.
func (d *Disk) Freeze() error {
	return d.ioctl("freeze", func(fd int) error { return unix.IoctlSetInt(fd, fiFreeze, 0) })
}

// Thaw ends a Freeze.
func (d *Disk) Thaw() error {
	return d.ioctl("thaw", func(fd int) error { return unix.IoctlSetInt(fd, fiThaw, 0) })
}

// FIFREEZE and FITHAW (include/uapi/linux/fs.h).
const fiFreeze, fiThaw = 0xc0045877, 0xc0045878

func (d *Disk) ioctl(what string, call func(fd int) error) error {
	f, err := os.Open(d.Path)
	if err != nil {
		return fmt.Errorf("%s disk: %w", what, err)
	}
	return errors.Join(wrap(what+" disk", call(int(f.Fd()))), f.Close())
}

// Fail lets the file system come upon an error in itself. What it does then is
// said by its mount option errors=; remount-ro makes it read-only.
func (d *Disk) Fail() error {
	path := filepath.Join("/sys/fs/ext4", filepath.Base(d.device), "trigger_fs_error")
	return wrap("fail disk", os.WriteFile(path, []byte("1"), 0))
}

// Exhaust takes the memory behind a Thin disk: what it has not written before it
// can no longer write, and says so only when it is synced. Relieve gives the
// memory back.
func (d *Disk) Exhaust() error { return Fill(filepath.Join(d.home, backingName)) }

// Relieve undoes Exhaust.
func (d *Disk) Relieve() error { return Empty(filepath.Join(d.home, backingName)) }

const ballast = "ballast"

// Fill takes all the room on the file system of a directory, to the last block.
// Of the caller's own use only: a directory on a [Disk], or on a small tmpfs.
func Fill(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("fill %s: %w", dir, err)
	}
	f, err := os.Create(filepath.Join(dir, ballast))
	if err != nil {
		return fmt.Errorf("fill %s: %w", dir, err)
	}
	size := int64(st.Bavail) * st.Bsize
	err = unix.Fallocate(int(f.Fd()), 0, 0, size)
	if err == nil || errors.Is(err, unix.ENOSPC) {
		_, err = f.Seek(0, io.SeekEnd)
	}
	for block := make([]byte, 4096); err == nil; { // what was not said to be available
		_, err = f.Write(block)
	}
	if errors.Is(err, unix.ENOSPC) {
		err = nil
	}
	return wrap("fill "+dir, errors.Join(err, f.Close()))
}

// Empty undoes Fill.
func Empty(dir string) error { return wrap("empty "+dir, os.Remove(filepath.Join(dir, ballast))) }

// Close unmounts and removes the disk.
func (d *Disk) Close() error {
	return errors.Join(discard(d.home), d.lock.Close())
}

// attach puts a free loop device before a file. The device is gone when nobody
// has it open or mounted any more.
func attach(image string) (loop *os.File, device string, err error) {
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return nil, "", fmt.Errorf("attach loop device: %w", err)
	}
	defer f.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, "", fmt.Errorf("attach loop device: %w", err)
	}
	defer control.Close()
	config := unix.LoopConfig{Fd: uint32(f.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
	for range 100 {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, "", fmt.Errorf("find a free loop device: %w", err)
		}
		device = "/dev/loop" + strconv.Itoa(n)
		if loop, err = os.OpenFile(device, os.O_RDWR, 0); err != nil {
			return nil, "", fmt.Errorf("attach loop device: %w", err)
		}
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &config)
		if err == nil {
			return loop, device, nil
		}
		err = errors.Join(err, loop.Close())
		if !errors.Is(err, unix.EBUSY) { // else somebody was quicker
			return nil, "", fmt.Errorf("attach %s: %w", device, err)
		}
	}
	return nil, "", errors.New("attach loop device: each free one was taken by somebody else")
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
