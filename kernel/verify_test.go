package kernel

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/kernel/cgroup"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

func TestVerify(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"both pools": func(*Config) {},
		"IPv4 alone": func(c *Config) { c.Pool6 = netip.Prefix{} },
		"IPv6 alone": func(c *Config) { c.Pool4 = netip.Prefix{} },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRigDetached(t, change)
			if _, err := r.k.Verify(t.Context()); !errors.Is(err, ErrNotAttached) {
				t.Errorf("not attached, and verified: %v", err)
			}
			if err := r.k.Attach(t.Context()); err != nil {
				t.Fatal(err)
			}
			for range 3 { // a probe leaves nothing that would stop the next
				a, err := r.k.Verify(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if a.Cgroup != r.cfg.Cgroup || a.CgroupID != must(cgroup.ID(r.cfg.Cgroup)) || a.Inside != "" {
					t.Errorf("attachment %+v", a)
				}
				for _, pool := range []netip.Prefix{r.cfg.Pool4, r.cfg.Pool6} {
					if pool.IsValid() && !strings.Contains(a.Probe, netip.AddrPortFrom(pool.Addr(), probePort).String()) {
						t.Errorf("probe %q", a.Probe)
					}
				}
			}
			if vips, servers := must(r.k.VIPs()), must(r.k.Servers()); len(vips) != 0 || len(servers) != 0 {
				t.Errorf("the probe shows: %v, %v", vips, servers)
			}
			if left := must(filepath.Glob(filepath.Join(r.cfg.Cgroup, probeCgroup+"*"))); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
			ring := must(ringbuf.NewReader(r.k.objs.Events))
			defer ring.Close()
			if n := ring.AvailableBytes(); n != 0 {
				t.Errorf("the probe left %d bytes of events", n)
			}
		})
	}
}

// Where no cgroup can be made it is said that the probe proves less.
func TestVerifyFromWithin(t *testing.T) {
	r := newRig(t)
	if err := os.WriteFile(filepath.Join(r.cfg.Cgroup, "cgroup.max.descendants"), []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	if a, err := r.k.Verify(t.Context()); err != nil || !strings.Contains(a.Inside, "mkdir") {
		t.Errorf("attachment %+v, %v", a, err)
	}
}

// Whoever else connects to the probe's VIP, or to its listener, does not make the
// hook look as if it were not in effect.
func TestVerifyAmongOthers(t *testing.T) {
	r := newRig(t)
	vip := netip.AddrPortFrom(r.cfg.Pool4.Addr(), probePort)
	ctx, cancel := context.WithCancel(t.Context())
	var others sync.WaitGroup
	for range 2 {
		others.Go(func() {
			for ctx.Err() == nil {
				if conn, err := net.Dial("tcp", vip.String()); err == nil {
					conn.Close()
					t.Error("a stranger's connect to the probe's VIP has arrived")
				}
			}
		})
	}
	for range 8 {
		if _, err := r.k.Verify(t.Context()); err != nil {
			t.Error(err)
		}
	}
	cancel()
	others.Wait()

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, says := range []string{"", "wrong", "word"} {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if _, err := conn.Write([]byte(says)); err != nil {
			t.Fatal(err)
		}
	}
	if err := hear(l, "word"); err != nil {
		t.Error(err)
	}
}

// What former probes left behind is in nobody's way: hold-downs, and the cgroups of
// daemons that were killed meanwhile.
func TestVerifyAfterOthers(t *testing.T) {
	r := newRig(t)
	now := r.k.Now()
	w := lictorVipWords{TroubleAt: uint64(now - time.Hour), WaitUntil: uint64(now + 30*time.Second), WaitMs: 30_000}
	w.Holds[0] = lictorHold{At: uint64(now), Reason: uint8(HoldBounced)}
	if err := r.k.objs.VipState.Put(uint32(0), w); err != nil {
		t.Fatal(err)
	}
	dead := filepath.Join(r.cfg.Cgroup, probeCgroup+strconv.Itoa(unused(t)))
	alive := filepath.Join(r.cfg.Cgroup, probeCgroup+"1")
	if err := errors.Join(os.Mkdir(dead, 0o755), os.Mkdir(alive, 0o755)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.k.Verify(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dead); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("cgroup of a dead daemon: %v", err)
	}
	if err := os.Remove(alive); err != nil {
		t.Errorf("cgroup of another daemon: %v", err)
	}
}

// Where the whole host is meant, a container's root of its own is not enough, though
// all that it covers is redirected.
func TestVerifyTheWholeHost(t *testing.T) {
	r := newRig(t)
	r.k.wantRoot = true
	if _, err := r.k.Verify(t.Context()); !errors.Is(err, ErrNotAttached) || !strings.Contains(err.Error(), "cgroup namespace") {
		t.Errorf("verified: %v", err)
	}
}

func TestProbeNamesWhatIsMissing(t *testing.T) {
	testenv.Privileged(t)
	for _, f := range Probe() {
		if f.Name == "" || f.Why == "" || f.How == "" || f.Have != (f.Err == "") {
			t.Errorf("feature %+v", f)
		}
		if f.Required && !f.Have { // where the other tests run
			t.Errorf("missing %+v", f)
		}
	}
}

func TestSockets(t *testing.T) {
	r := newRig(t)
	s := r.serve(1, "127.0.0.1:0", echo)
	r.put(vip4, s.Backend)
	conn, err := r.dial(vip4)
	if err != nil {
		t.Fatal(err)
	}
	readName(t, conn)
	direct, err := r.dial(s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer direct.Close()
	got := r.onlySocket()
	want := Socket{
		VIP: vip4, VIPSlot: 5, Server: s.Addr, Slot: 1, Local: conn.LocalAddr().(*net.TCPAddr).AddrPort(),
		Cookie: got.Cookie, Netns: r.cookie, PID: uint32(os.Getpid()), Established: true,
	}
	if got != want || got.Cookie == 0 {
		t.Errorf("socket %+v, want %+v", got, want)
	}
	if drift := must(r.k.Recount()); len(drift) != 0 {
		t.Errorf("drift %v", drift)
	}
	// Counters that lost a close are found out.
	var values []lictorCounters
	if err := r.k.objs.ServerCounters.Lookup(uint32(1), &values); err != nil {
		t.Fatal(err)
	}
	values[0].Established += 3
	if err := r.k.objs.ServerCounters.Put(uint32(1), values); err != nil {
		t.Fatal(err)
	}
	if drift := must(r.k.Recount()); len(drift) != 1 || drift[1] != 3 {
		t.Errorf("drift %v, want 3 of server 1", drift)
	}
	if err := r.k.objs.ServerCounters.Put(uint32(1), make([]lictorCounters, len(values))); err != nil {
		t.Fatal(err)
	}
	if drift := must(r.k.Recount()); len(drift) != 1 || drift[1] != -1 {
		t.Errorf("nothing counted: drift %v, want -1 of server 1", drift)
	}
	conn.Close()
	eventually(t, "the socket to be gone", func() bool { return len(must(r.k.Sockets())) == 0 })
}

// TestProbeWithoutRights: what a caller may not find out is not said to be
// missing in the kernel.
func TestProbeWithoutRights(t *testing.T) {
	testenv.Privileged(t)
	var batched bool
	for _, f := range withCaps(t, nil, Probe) {
		if f.Name == "capabilities for proxies" && !strings.Contains(f.Err, "CAP_SYS_PTRACE, CAP_SETUID") {
			t.Errorf("%+v, want what lacks", f)
		}
		if strings.Contains(f.Err, unix.EPERM.Error()) && f.How != privileges {
			t.Errorf("not permitted, and advised to: %+v", f)
		}
		batched = batched || f.Name == "batched map access" && !f.Have
	}
	if !batched {
		t.Error("a map was made without a right to")
	}
}

// TestLoadWithoutRights: a right that lacks is named, also where it is the
// verifier that refuses. Whoever lacks none is told to look elsewhere.
func TestLoadWithoutRights(t *testing.T) {
	testenv.Privileged(t)
	for _, tt := range []struct {
		name string
		caps []uint
		err  error
		want string
	}{
		{"none", nil, unix.EPERM, "no CAP_NET_ADMIN; " + privileges},
		{"no CAP_BPF", []uint{unix.CAP_NET_ADMIN, unix.CAP_PERFMON}, unix.EPERM, "no CAP_BPF; " + privileges},
		{"no CAP_PERFMON", []uint{unix.CAP_NET_ADMIN, unix.CAP_BPF}, &ebpf.VerifierError{Cause: unix.EINVAL}, "no CAP_PERFMON; " + privileges},
		{"all", []uint{unix.CAP_NET_ADMIN, unix.CAP_BPF, unix.CAP_PERFMON}, unix.EPERM, "forbids it"},
		{"a bug", []uint{unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN}, &ebpf.VerifierError{Cause: unix.EINVAL}, "please report this"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := withCaps(t, tt.caps, func() error { return explainLoad(tt.err) })
			if !strings.Contains(got.Error(), tt.want) {
				t.Errorf("%v, want %q in it", got, tt.want)
			}
		})
	}
}

// withCaps calls fn with these capabilities alone.
func withCaps[T any](t *testing.T, caps []uint, fn func() T) T {
	t.Helper()
	answer := make(chan T)
	go func() {
		runtime.LockOSThread() // and the thread ends with the goroutine: its rights are its own
		data := make([]unix.CapUserData, 2)
		for _, c := range caps {
			data[c/32].Effective |= 1 << (c % 32)
			data[c/32].Permitted |= 1 << (c % 32)
		}
		if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0]); err != nil {
			t.Error(err)
		}
		answer <- fn()
	}()
	return <-answer
}
