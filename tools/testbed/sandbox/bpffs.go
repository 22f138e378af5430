package sandbox

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// bpffsMount is where systemd and bpftool mount it.
const bpffsMount = "/sys/fs/bpf"

// BPFFS makes a directory on the machine's bpffs, which is mounted when it is
// not there yet, and stays mounted.
func (r *Run) BPFFS(elem ...string) (string, error) {
	if r.isClosed() {
		return "", fmt.Errorf("make bpffs directory: %w", errClosed)
	}
	unlock, err := lockRegistry() // two mounts on one point would hide each other's pins
	if err != nil {
		return "", err
	}
	defer unlock()
	var st unix.Statfs_t
	if err := unix.Statfs(bpffsMount, &st); err != nil || st.Type != unix.BPF_FS_MAGIC {
		if err := unix.Mount("bpf", bpffsMount, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
			return "", fmt.Errorf("mount bpffs on %s: %w", bpffsMount, err)
		}
	}
	dir := filepath.Join(append([]string{bpffsPath(r.info.ID)}, elem...)...)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make bpffs directory: %w", err)
	}
	return dir, nil
}

func bpffsPath(id string) string {
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return ""
	}
	defer f.Close()
	mount, err := mountOf(bufio.NewScanner(f), "bpf")
	if err != nil {
		return ""
	}
	return filepath.Join(mount, prefix+id)
}
