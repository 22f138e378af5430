package sandbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// removeWait is how long the kernel may take to end killed processes.
const removeWait = 10 * time.Second

// CgroupRoot is the mount point of the cgroup-v2 hierarchy. On a machine with
// both hierarchies it is not /sys/fs/cgroup.
func CgroupRoot() (string, error) {
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return "", fmt.Errorf("find cgroup2 mount: %w", err)
	}
	defer f.Close()
	return mountOf(bufio.NewScanner(f), "cgroup2")
}

func mountOf(lines *bufio.Scanner, fstype string) (string, error) {
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) >= 3 && fields[2] == fstype {
			return fields[1], nil
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("find %s mount: %w", fstype, err)
	}
	return "", fmt.Errorf("find %s mount: none in /proc/self/mounts: %w", fstype, fs.ErrNotExist)
}

// Cgroup makes a cgroup below the run's own and returns its directory; without
// elem it is the run's own.
func (r *Run) Cgroup(elem ...string) (string, error) {
	if r.isClosed() {
		return "", fmt.Errorf("make cgroup: %w", errClosed)
	}
	root := cgroupPath(r.info.ID)
	if root == "" {
		return "", errors.New("make cgroup: no cgroup2 mount: mount -t cgroup2 none /sys/fs/cgroup/unified")
	}
	dir := filepath.Join(append([]string{root}, elem...)...)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make cgroup: %w", err)
	}
	return dir, nil
}

// killCgroup kills every process in the cgroup and below it, and returns when
// all are gone. An absent cgroup is success. The cgroup must be removed then:
// kernels exist (6.18) that kill whatever is later cloned into it.
func killCgroup(ctx context.Context, dir string) error {
	kill, err := os.OpenFile(filepath.Join(dir, "cgroup.kill"), os.O_WRONLY, 0) // to make it would be EACCES, not ENOENT
	if errors.Is(err, fs.ErrNotExist) {
		return killEach(dir)
	}
	if err == nil {
		_, err = kill.WriteString("1")
		err = errors.Join(err, kill.Close())
	}
	if err != nil {
		return fmt.Errorf("kill cgroup: %w", err)
	}
	for {
		events, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
		if errors.Is(err, fs.ErrNotExist) || strings.Contains(string(events), "populated 0") {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("kill cgroup %s: processes remain: %w", dir, ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// killEach is for kernels before 5.14, which have no cgroup.kill; it covers
// what does not fork meanwhile.
func killEach(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "cgroup.procs" {
			return ignoreAbsent(err)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return ignoreAbsent(err)
		}
		for line := range strings.FieldsSeq(string(text)) {
			var pid int
			if _, err := fmt.Sscan(line, &pid); err == nil && pid > 0 {
				_ = syscall.Kill(pid, syscall.SIGKILL) // gone already is as good
			}
		}
		return nil
	})
}

func ignoreAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// RemoveCgroup kills what runs in the cgroup and below it, and removes them.
// An absent cgroup, or "", is success.
func RemoveCgroup(dir string) error {
	if dir == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), removeWait)
	defer cancel()
	if err := killCgroup(ctx, dir); err != nil {
		return err
	}
	for {
		err := removeCgroupTree(dir)
		if !errors.Is(err, syscall.EBUSY) || ctx.Err() != nil {
			return err
		}
		time.Sleep(5 * time.Millisecond) // zombies keep it busy until they are reaped
	}
}

func removeCgroupTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ignoreAbsent(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeCgroupTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	// Not os.Remove, which would try unlink first and report EPERM.
	if err := syscall.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove cgroup %s: %w", dir, err)
	}
	return nil
}

// cgroupPath is empty when the machine has no cgroup v2.
func cgroupPath(id string) string {
	root, err := CgroupRoot()
	if err != nil {
		return ""
	}
	return filepath.Join(root, prefix+id)
}
