package kernel

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/kernel/cgroup"
	"github.com/lictor-mesh/lictor/kernel/netns"
)

// The probe's VIP is the first address of a pool, with this port, VIP slot 0
// and server slot 0, which no proxy and no server ever has.
const probePort = 1

// probeTimeout is how long a probe may take on a busy host.
const probeTimeout = 5 * time.Second

// probeEnv tells this executable, started again, to be the probe.
const probeEnv = "LICTOR_KERNEL_PROBE"

// init turns a process that was started as the probe into it, whatever its main
// does: a daemon that was started again by mistake would be the worse surprise.
func init() {
	if target := os.Getenv(probeEnv); target != "" {
		os.Exit(beProbe(target))
	}
}

// beProbe connects, says the word that it was given, and tells whom it sees.
func beProbe(target string) int {
	addr, word, _ := strings.Cut(target, " ")
	conn, err := net.DialTimeout("tcp", addr, probeTimeout)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(conn.RemoteAddr())
	if _, err := conn.Write([]byte(word)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0 // with the connection open: the end of the process closes it
}

func (k *Kernel) isProbe(key VIPKey) bool {
	addr := key.Addr.Addr()
	return addr.IsValid() && (addr == k.cfg.Pool4.Addr() || addr == k.cfg.Pool6.Addr())
}

// probeConnect proves that a connect of another process is redirected, for each
// pool whose family this host has. What it returns is Attachment's.
func (k *Kernel) probeConnect(ctx context.Context) (probe, inside string, err error) {
	k.probe.Lock()
	defer k.probe.Unlock()
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	var proofs []string
	var missing []error
	for _, p := range []struct {
		pool   netip.Prefix
		listen string
	}{{k.cfg.Pool4, "127.0.0.1:0"}, {k.cfg.Pool6, "[::1]:0"}} {
		if !p.pool.IsValid() {
			continue
		}
		vip := netip.AddrPortFrom(p.pool.Addr(), probePort)
		why, err := k.probeVIP(ctx, vip, p.listen)
		switch {
		case errors.Is(err, errNoFamily):
			missing = append(missing, err)
		case err != nil:
			return "", "", fmt.Errorf("a probe's connect to %v did not arrive: %w", vip, err)
		default:
			inside = why
			proofs = append(proofs, vip.String())
		}
	}
	if len(proofs) == 0 {
		return "", "", fmt.Errorf("nothing to probe: %w", errors.Join(missing...))
	}
	return strings.Join(proofs, ", "), inside, nil
}

// errNoFamily: the host has no loopback address of the pool's family, so that
// nobody on it can be sent anywhere by such a VIP.
var errNoFamily = errors.New("the host has no such addresses")

func (k *Kernel) probeVIP(ctx context.Context, vip netip.AddrPort, listen string) (inside string, err error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", listen)
	if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT) {
		return "", fmt.Errorf("%w: listen at %s: %w", errNoFamily, listen, err)
	}
	if err != nil {
		return "", fmt.Errorf("listen for it: %w", err)
	}
	defer l.Close()
	word := rand.Text()
	child, owner, inside, release := k.probeCommand(ctx, vip.String()+" "+word)
	defer release()
	remove, err := k.putProbe(vip, l.Addr().(*net.TCPAddr).AddrPort(), owner)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, remove()) }()
	var out, errs bytes.Buffer
	child.Stdout, child.Stderr = &out, &errs
	if err := child.Run(); err != nil {
		return "", fmt.Errorf("the probe says: %w: %s", err, strings.TrimSpace(errs.String()))
	}
	if got := strings.TrimSpace(out.String()); got != vip.String() {
		return "", fmt.Errorf("it arrived, but sees %s as its peer: getpeername is not hooked", got)
	}
	return inside, hear(l, word)
}

// hear looks for the word on the connection that the probe made, which is in the
// backlog, or the probe went elsewhere. Others may have found the listener.
func hear(l net.Listener, word string) error {
	end := time.Now().Add(time.Second)
	for {
		if err := l.(*net.TCPListener).SetDeadline(end); err != nil {
			return err
		}
		conn, err := l.Accept()
		if err != nil {
			return fmt.Errorf("the probe connected somewhere else: %w", err)
		}
		heard := says(conn, word)
		conn.Close()
		if heard {
			return nil
		}
	}
}

// says tells whether a connection begins with the word. The probe has ended, so
// that what it said is there.
func says(conn net.Conn, word string) bool {
	if err := conn.SetReadDeadline(time.Now().Add(5 * time.Millisecond)); err != nil {
		return false
	}
	got := make([]byte, len(word))
	n, err := conn.Read(got)
	return err == nil && string(got[:n]) == word
}

// putProbe writes the probe's entry, for our own network namespace if it has no
// owner, and forgets what a former probe left in the state of slot 0.
func (k *Kernel) putProbe(vip, to netip.AddrPort, owner Owner) (remove func() error, err error) {
	if owner == (Owner{}) {
		self, err := netns.Self()
		if err != nil {
			return nil, err
		}
		owner = Owner{Kind: OwnerNetns, ID: self.Cookie}
	}
	if err := k.ResetVIP(0); err != nil {
		return nil, err
	}
	if err := k.objs.ServerState.Update(uint32(0), lictorServerWords{}, ebpf.UpdateExist); err != nil {
		return nil, fmt.Errorf("reset server slot 0: %w", err)
	}
	key := VIPKey{Addr: vip, Proto: ProtoTCP}
	entry := vipWords(VIP{Key: key, Owner: owner, Ranked: []Backend{{Addr: to}}}, k.gen.Add(1))
	if err := k.objs.Vips.Put(entry.Key, entry); err != nil {
		return nil, fmt.Errorf("write the probe's entry: %w", err)
	}
	return func() error { return k.DeleteVIPs([]VIPKey{key}) }, nil
}

// probeCommand is this executable as the probe, in a new cgroup directly below
// the hooked one: outside our own, and where only the hook's own cgroup and its
// ancestors matter. Where no cgroup can be made the probe runs in ours, and
// inside says why. The owner of its VIP is that cgroup, so that nobody else is taken
// for the probe or is refused in its place; zero where cgroups cannot be told apart.
func (k *Kernel) probeCommand(ctx context.Context, target string) (child *exec.Cmd, owner Owner, inside string, release func()) {
	child = exec.CommandContext(ctx, "/proc/self/exe")
	child.Env = []string{probeEnv + "=" + target}
	removeLeft(k.cfg.Cgroup)
	dir := filepath.Join(k.cfg.Cgroup, probeCgroup+strconv.Itoa(os.Getpid()))
	err := os.Mkdir(dir, 0o755)
	if err != nil && !errors.Is(err, os.ErrExist) {
		return child, owner, err.Error(), func() {}
	}
	f, err := os.Open(dir)
	if err != nil {
		return child, owner, err.Error(), func() { removeCgroup(dir) }
	}
	child.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd())}
	if info, err := cgroup.Stat(dir); err == nil && info.Level > 0 {
		owner = Owner{Kind: OwnerCgroup, ID: info.ID, Level: info.Level}
	}
	return child, owner, "", func() {
		f.Close()
		removeCgroup(dir)
	}
}

// probeCgroup begins the name of a probe's cgroup; the daemon's pid follows.
const probeCgroup = "lictor-probe-"

// removeLeft removes what daemons left that were killed while they probed. One
// in which the probe still runs is left to the next call.
func removeLeft(parent string) {
	dirs, _ := os.ReadDir(parent) // what cannot be read stays, as nobody is hurt by it
	for _, d := range dirs {
		pid, ok := strings.CutPrefix(d.Name(), probeCgroup)
		if !ok {
			continue
		}
		if _, err := os.Stat(filepath.Join("/proc", pid)); errors.Is(err, os.ErrNotExist) {
			_ = unix.Rmdir(filepath.Join(parent, d.Name()))
		}
	}
}

// removeCgroup waits for the kernel to forget the process that ended there. One
// that stays is empty, and is used again by the next probe.
func removeCgroup(dir string) {
	for range 50 {
		if err := unix.Rmdir(dir); !errors.Is(err, unix.EBUSY) {
			return
		}
		time.Sleep(time.Millisecond)
	}
}
