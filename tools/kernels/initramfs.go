package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lictor-mesh/lictor/tools/kernels/guest"
)

// needed are the modules without which the guest does not come up, and those of
// what tests make: links, and the destruction of sockets, which a machine with
// modprobe loads when asked.
var needed = []string{
	"virtio_pci", "9p", "9pnet_virtio", "overlay",
	"veth", "bridge", "dummy", "inet_diag", "tcp_diag", "udp_diag",
}

// initramfs writes the guest's first root: its first process, modules, the plan.
func initramfs(ctx context.Context, path string, m machine, plan guest.Plan) error {
	root := path + ".d"
	if err := os.RemoveAll(root); err != nil {
		return err
	}
	for _, dir := range []string{"dev", "modules"} { // the kernel opens no console without the first
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	files, err := modules(ctx, m.image)
	if err != nil {
		return err
	}
	for _, file := range files {
		at := "/modules/" + strings.TrimSuffix(filepath.Base(file), ".xz")
		plan.Modules = append(plan.Modules, at)
		if err := unpack(ctx, file, root+at); err != nil {
			return err
		}
	}
	text, err := json.Marshal(plan)
	if err != nil {
		return err
	}
	if err := errors.Join(unpack(ctx, m.init, root+"/init"), os.WriteFile(root+guest.PlanFile, text, 0o644)); err != nil {
		return err
	}
	_, err = run(ctx, root, "sh", "-c", `find . | cpio --quiet --create --format=newc >"$1"`, "sh", path)
	return errors.Join(err, os.RemoveAll(root))
}

// modules finds the files of the needed ones, each after what it depends on.
// What is built in has none.
func modules(ctx context.Context, i image) (files []string, err error) {
	if _, err := run(ctx, "", "depmod", "-b", i.base, i.version); err != nil {
		return nil, err
	}
	text, err := run(ctx, "", "modprobe", append([]string{"-d", i.base, "-S", i.version, "-a", "--show-depends"}, needed...)...)
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "insmod" && !slices.Contains(files, f[1]) {
			files = append(files, f[1])
		}
	}
	return files, err
}

// unpack copies a file, which ends in .xz when it is packed, to a program's place.
func unpack(ctx context.Context, from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if filepath.Ext(from) == ".xz" {
		cmd := exec.CommandContext(ctx, "xz", "--decompress", "--stdout")
		cmd.Stdin = bytes.NewReader(text)
		if text, err = cmd.Output(); err != nil {
			return fmt.Errorf("unpack %s: %w", from, err)
		}
	}
	return os.WriteFile(to, text, 0o755)
}
