// Command init is the first process on a kernel that make kernels boots: it
// loads modules, makes a root of the host's files, runs the steps that it was
// given, and turns the machine off. What the steps say goes to the second
// serial line, between the lines that package tools/kernels/report reads.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/tools/kernels/guest"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "init:", err) // the console, which the host keeps
	}
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF) // returns only when it failed, and then the host's patience ends
}

func run() error {
	if err := errors.Join(mount("devtmpfs", "/dev", ""), mount("proc", "/proc", "")); err != nil {
		return err
	}
	text, err := os.ReadFile(guest.PlanFile)
	if err != nil {
		return err
	}
	var plan guest.Plan
	if err := json.Unmarshal(text, &plan); err != nil {
		return fmt.Errorf("read %s: %w", guest.PlanFile, err)
	}
	for _, path := range plan.Modules {
		if err := load(path); err != nil {
			return err
		}
	}
	if err := enterHost(); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	out, err := os.OpenFile("/dev/ttyS1", os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	for _, s := range plan.Steps {
		if err := step(out, s); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintln(out, guest.Done)
	return err
}

// load puts a module into the kernel. One that it has already is success.
func load(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load module %s: %w", filepath.Base(path), err)
	}
	return nil
}

// enterHost makes a root of the host's files, as they are, with a layer in
// memory for what is written, and file systems of the guest's own.
func enterHost() error {
	const root = "/root"
	err := errors.Join(
		mount("9p", "/host", "trans=virtio,version=9p2000.L,cache=loose,msize=512000"),
		mount("tmpfs", "/rw", ""),
		os.MkdirAll("/rw/upper", 0o755), os.MkdirAll("/rw/work", 0o755),
		mount("overlay", root, "lowerdir=/host,upperdir=/rw/upper,workdir=/rw/work"))
	if err != nil {
		return err
	}
	for _, m := range []struct{ kind, at string }{
		{"devtmpfs", "/dev"}, {"devpts", "/dev/pts"}, {"tmpfs", "/dev/shm"}, {"proc", "/proc"}, {"sysfs", "/sys"},
		{"cgroup2", "/sys/fs/cgroup"}, {"bpf", "/sys/fs/bpf"}, {"tmpfs", "/run"},
	} {
		if err := mount(m.kind, root+m.at, ""); err != nil {
			return err
		}
	}
	return errors.Join(unix.Chdir(root), unix.Mount(".", "/", "", unix.MS_MOVE, ""), unix.Chroot("."), unix.Chdir("/"))
}

func mount(kind, at, options string) error {
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(guest.Share, at, kind, 0, options); err != nil {
		return fmt.Errorf("mount %s at %s: %w", kind, at, err)
	}
	return nil
}

// step runs one program to its end, and as the first process buries orphans meanwhile.
func step(out *os.File, s guest.Step) error {
	if _, err := fmt.Fprintln(out, guest.Begin(s.Name)); err != nil {
		return err
	}
	start := time.Now()
	p, err := os.StartProcess(s.Args[0], s.Args, &os.ProcAttr{
		Dir: s.Dir, Env: s.Env, Files: []*os.File{nil, out, out},
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", s.Name, err)
	}
	var status unix.WaitStatus
	for pid := 0; pid != p.Pid; {
		if pid, err = unix.Wait4(-1, &status, 0, nil); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for %s: %w", s.Name, err)
		}
	}
	code := status.ExitStatus()
	if status.Signaled() {
		code = 128 + int(status.Signal())
	}
	_, err = fmt.Fprintln(out, "\n"+guest.End(s.Name, code, time.Since(start))) // whatever it said last
	return err
}
