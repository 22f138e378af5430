// Package cgroup finds the cgroup-v2 hierarchy and the numbers by which the
// kernel's programs know its directories.
package cgroup

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// HostRootID is the id of the hierarchy's root. A container with a cgroup
// namespace of its own sees another directory as the root.
const HostRootID = 1

// ErrNotCgroup is returned for a path that is not a cgroup-v2 directory.
var ErrNotCgroup = errors.New("not a cgroup-v2 directory")

// Info is a cgroup as the kernel knows it.
type Info struct {
	ID    uint64 // never used again for another cgroup in this boot
	Level uint32 // below the root of the cgroup2 mount, which is 0
}

// Root is the directory where the cgroup-v2 hierarchy is mounted: not always
// /sys/fs/cgroup, as version 1 may be mounted beside it.
func Root() (string, error) {
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return "", fmt.Errorf("find cgroup2 mount: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) >= 3 && fields[2] == "cgroup2" {
			return fields[1], nil
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("find cgroup2 mount: %w", err)
	}
	return "", fmt.Errorf("find cgroup2 mount: none in /proc/self/mounts; mount -t cgroup2 none /sys/fs/cgroup: %w", fs.ErrNotExist)
}

// ID returns the id of a directory of the hierarchy.
func ID(dir string) (uint64, error) {
	if err := check(dir); err != nil {
		return 0, err
	}
	handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, dir, unix.AT_SYMLINK_FOLLOW)
	if err != nil {
		return 0, fmt.Errorf("read the id of cgroup %s: %w", dir, err)
	}
	if b := handle.Bytes(); len(b) >= 8 {
		return binary.NativeEndian.Uint64(b), nil
	}
	return 0, fmt.Errorf("read the id of cgroup %s: the kernel's handle has %d bytes, not 8", dir, handle.Size())
}

// Stat returns the numbers of a directory of the hierarchy. It is an error when
// the mount's root is not the host's, as the level is unknown then.
func Stat(dir string) (Info, error) {
	id, err := ID(dir)
	if err != nil {
		return Info{}, err
	}
	path, err := filepath.EvalSymlinks(dir)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return Info{}, fmt.Errorf("resolve cgroup %s: %w", dir, err)
	}
	level := uint32(0)
	for ; ; level++ {
		at, err := ID(path)
		if err != nil {
			return Info{}, fmt.Errorf("find the level of cgroup %s: its hierarchy's root is not the host's, run where the host's is mounted: %w", dir, err)
		}
		if at == HostRootID {
			return Info{ID: id, Level: level}, nil
		}
		path = filepath.Dir(path)
	}
}

func check(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("stat cgroup %s: %w", dir, err)
	}
	if st.Type != unix.CGROUP2_SUPER_MAGIC {
		return fmt.Errorf("%s: %w", dir, ErrNotCgroup)
	}
	return nil
}
