package prometheus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/tools/testbed/binaries"
)

// Find returns the path of one of Debian's "prometheus" and "promtool": on PATH,
// else in .cache/prometheus of the repository, where it puts them at the first
// time: 19 MB of Debian's archive, unpacked and not installed, so that no service
// is started. Concurrent callers, also in other processes, wait for one download.
func Find(ctx context.Context, name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	root, err := binaries.Root()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, ".cache", "prometheus")
	path := filepath.Join(dir, "usr", "bin", name)
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", fmt.Errorf("make cache directory: %w", err)
	}
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("wait for another download of prometheus: %w", err)
	}
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := fetch(ctx, dir); err != nil {
		return "", fmt.Errorf("fetch Debian's package prometheus: %w; install it, or put %s on PATH", err, name)
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("find %s in Debian's package prometheus: %w", name, err)
	}
	return path, nil
}

// fetch unpacks the package beside dir and renames it.
func fetch(ctx context.Context, dir string) (err error) {
	work, err := os.MkdirTemp(filepath.Dir(dir), ".prometheus-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	download := func() error { return run(ctx, work, "apt-get", "download", "prometheus") }
	if err := download(); err != nil { // Debian's lists may never have been read
		if err := run(ctx, work, "apt-get", "update"); err != nil {
			return err
		}
		if err := download(); err != nil {
			return err
		}
	}
	found, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil || len(found) != 1 {
		return fmt.Errorf("apt-get left %d packages, want one", len(found))
	}
	tree := filepath.Join(work, "tree")
	if err := run(ctx, work, "dpkg-deb", "-x", found[0], tree); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Rename(tree, dir)
}

func run(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}
