package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/lictor-mesh/lictor/tools/kernels/guest"
)

// machine is what a kernel is booted on.
type machine struct {
	image
	accel string // QEMU's
	dir   string // for what is made for it, and its console
	init  string // its first process: a file
}

// boot runs a plan on a machine and hands each line that the guest says to hear.
func boot(ctx context.Context, m machine, plan guest.Plan, hear func(line string)) error {
	root, console := filepath.Join(m.dir, "initramfs"), filepath.Join(m.dir, "console.log")
	if err := initramfs(ctx, root, m, plan); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-accel", m.accel, "-cpu", "max", "-smp", "2", "-m", "3G", "-nodefaults", "-no-reboot", "-display", "none",
		"-kernel", m.vmlinuz, "-initrd", root,
		// An emulated timer is late on a busy machine, which 6.1 takes for a broken one.
		"-append", "console=ttyS0 panic=-1 mitigations=off loglevel=5 no_timer_check",
		"-serial", "file:"+console, "-serial", "stdio",
		"-virtfs", "local,path=/,readonly=on,security_model=none,multidevs=remap,mount_tag="+guest.Share)
	cmd.WaitDelay = 5 * time.Second
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start QEMU: %w", err)
	}
	done := false
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadBytes('\n')
		text := string(bytes.TrimRight(line, "\r\n"))
		if done = done || text == guest.Done; len(line) > 0 {
			hear(text)
		}
		if err != nil {
			break // the end of the machine, for whatever reason
		}
	}
	err = cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("the time is up; the console is in %s", console)
	case err != nil:
		return fmt.Errorf("QEMU: %w: %s", err, bytes.TrimSpace(complaints.Bytes()))
	case !done:
		return fmt.Errorf("the kernel stopped before its tests were done: %s; the console is in %s", tail(console), console)
	}
	return nil
}

// tail is the last line of a console.
func tail(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return string(bytes.TrimSpace(lines[len(lines)-1]))
}
