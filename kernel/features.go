package kernel

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/kernel/cgroup"
	"github.com/lictor-mesh/lictor/kernel/netns"
)

// Feature is one thing that the hook wants of the kernel or the host.
type Feature struct {
	Name     string
	Have     bool
	Required bool   // without it the hook does not work at all
	Why      string // what it is for, or what is lost without it
	How      string // to get it
	Err      string // of the probe, when Have is false
	err      error
}

const privileges = "run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"

// Probe finds out what this kernel and host have, by trying, in the order in
// which to read it. It changes nothing, and takes a tenth of a second, most of it
// to read the kernel's types.
func Probe() []Feature {
	const newer = "run a newer kernel"
	found := []Feature{
		{Name: "capabilities", Required: true, Why: "to load and attach programs",
			How: privileges, err: haveCaps()},
		{Name: "capabilities for proxies", Why: "to enter proxies' namespaces and to hand files to their users: tokens, TLS, drains",
			How: "run as root, with all capabilities", err: haveProxyCaps()},
		{Name: "cgroup v2", Required: true, Why: "the hook is attached to a cgroup",
			How: "mount -t cgroup2 none /sys/fs/cgroup, or /sys/fs/cgroup/unified beside version 1", err: haveCgroup()},
		{Name: "host cgroup root", Why: "a hook for the whole host; in a container's cgroup namespace it would cover the container alone",
			How: "run in the host's cgroup namespace (docker run --cgroupns=host)", err: haveHostRoot()},
		{Name: "kernel type information", Required: true, Why: "one object runs on every kernel",
			How: "run a kernel with CONFIG_DEBUG_INFO_BTF, as the distributions' are", err: haveBTF()},
		{Name: "bpffs", Required: true, Why: "pins keep the hook when the daemon is gone",
			How: "a kernel with CONFIG_BPF_SYSCALL; lictord mounts it when it is not mounted", err: haveBPFFS()},
		{Name: "connect hooks", Required: true, Why: "the redirect itself",
			How: "a kernel with CONFIG_CGROUP_BPF", err: features.HaveProgramType(ebpf.CGroupSockAddr)},
		{Name: "TCP state hooks", Required: true, Why: "counts, failover",
			How: "a kernel with CONFIG_CGROUP_BPF", err: features.HaveProgramType(ebpf.SockOps)},
		{Name: "event ring", Required: true, Why: "connection events", How: newer + " (5.8)", err: features.HaveMapType(ebpf.RingBuf)},
		{Name: "socket storage", Required: true, Why: "to know a redirected socket again",
			How: newer + " (5.2)", err: features.HaveProgramHelper(ebpf.CGroupSockAddr, asm.FnSkStorageGet)},
		{Name: "namespace cookie in hooks", Required: true, Why: "a VIP is its owner's alone",
			How: newer + " (5.7)", err: features.HaveProgramHelper(ebpf.CGroupSockAddr, asm.FnGetNetnsCookie)},
		{Name: "namespace cookie of sockets", Required: true, Why: "to know whose a VIP is",
			How: newer + " (5.14)", err: haveSocketCookie()},
		{Name: "errors of connect hooks", Why: "ECONNREFUSED when there is no server; without it EPERM",
			How: newer + " (6.1)", err: haveRetval()},
		{Name: "batched map access", Why: "to write thousands of entries at once; without it one by one",
			How: newer + " (5.6)", err: haveBatch()},
		{Name: "socket destruction", Why: "a drain closes connections, a few a second; without it they end by themselves",
			How: "a kernel with CONFIG_INET_DIAG_DESTROY", err: haveDestroy()},
		{Name: "multicast TCP refused", Why: "a pool of multicast addresses leads nowhere without the hook",
			How: "report this kernel, please", err: refusesMulticast()},
	}
	for i := range found {
		f := &found[i]
		if f.Have = f.err == nil; f.Have {
			continue
		}
		f.Err = f.err.Error()
		if found[0].err != nil && errors.Is(f.err, unix.EPERM) {
			f.How = privileges // what the kernel has, only they can find out
		}
	}
	return found
}

// forbidden says why the kernel does not permit something, and what to do.
func forbidden(err error) error {
	if lacking := haveCaps(); lacking != nil {
		return fmt.Errorf("%w; %s", lacking, privileges)
	}
	return fmt.Errorf("%w, although the capabilities are there: a user namespace, seccomp, SELinux or the kernel's lockdown forbids it", err)
}

// haveCaps asks for the effective capabilities of this process. CAP_SYS_ADMIN
// stands for CAP_BPF and CAP_PERFMON.
func haveCaps() error {
	have, err := effectiveCaps()
	if err != nil {
		return err
	}
	admin := have(unix.CAP_SYS_ADMIN)
	switch {
	case !have(unix.CAP_NET_ADMIN):
		return errors.New("no CAP_NET_ADMIN")
	case !admin && !have(unix.CAP_BPF):
		return errors.New("no CAP_BPF")
	case !admin && !have(unix.CAP_PERFMON):
		return errors.New("no CAP_PERFMON")
	}
	return nil
}

// haveProxyCaps asks for those that the hook can do without and what is done for
// single proxies cannot.
func haveProxyCaps() error {
	have, err := effectiveCaps()
	if err != nil {
		return err
	}
	var lacking []string
	for _, c := range []struct {
		number uint
		name   string
	}{
		{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN"},
		{unix.CAP_SYS_PTRACE, "CAP_SYS_PTRACE"},
		{unix.CAP_SETUID, "CAP_SETUID"},
		{unix.CAP_SETGID, "CAP_SETGID"},
		{unix.CAP_CHOWN, "CAP_CHOWN"},
		{unix.CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE"},
		{unix.CAP_FOWNER, "CAP_FOWNER"},
	} {
		if !have(c.number) {
			lacking = append(lacking, c.name)
		}
	}
	if len(lacking) > 0 {
		return errors.New("no " + strings.Join(lacking, ", "))
	}
	return nil
}

// effectiveCaps are those of this thread.
func effectiveCaps() (have func(uint) bool, err error) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return nil, fmt.Errorf("read own capabilities: %w", err)
	}
	return func(c uint) bool { return data[c/32].Effective&(1<<(c%32)) != 0 }, nil
}

func haveCgroup() error {
	_, err := cgroup.Root()
	return err
}

func haveHostRoot() error {
	root, err := cgroup.Root()
	if err != nil {
		return err
	}
	id, err := cgroup.ID(root)
	if err == nil && id != cgroup.HostRootID {
		err = fmt.Errorf("%s has id %d; the host's root has %d", root, id, cgroup.HostRootID)
	}
	return err
}

func haveBTF() error {
	_, err := btf.LoadKernelSpec()
	return err
}

func haveBPFFS() error {
	const path = "/sys/fs/bpf"
	_, err := os.Stat(path)
	return err
}

func haveSocketCookie() error {
	_, err := netns.Self()
	return err
}

// haveBatch writes nothing into a map that is gone at once.
func haveBatch() error {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "lictor_probe", Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return err
	}
	_, err = m.BatchUpdate([]uint32{1}, []uint32{1}, nil)
	return errors.Join(err, m.Close())
}

// haveDestroy asks to destroy a socket that cannot be: port 0. A kernel that can
// destroy sockets says that there is none.
func haveDestroy() error {
	err := destroyNone()
	if errors.Is(err, unix.ENOENT) || err == nil {
		return nil
	}
	return err
}

// refusesMulticast connects to a multicast address that is in no pool: TCP has
// no multicast, so that nothing is sent.
func refusesMulticast() error {
	conn, err := net.Dial("tcp4", "239.255.255.255:1")
	if err == nil {
		return errors.Join(errors.New("a TCP connect to 239.255.255.255 was established"), conn.Close())
	}
	if errors.Is(err, unix.ENETUNREACH) {
		return nil
	}
	return err
}
