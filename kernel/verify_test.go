package kernel

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

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
				if a.Cgroup != r.cfg.Cgroup || a.CgroupID != must(cgroup.ID(r.cfg.Cgroup)) || a.HostRoot || len(a.Programs) != len(hooks) {
					t.Errorf("attachment %+v", a)
				}
				for _, pool := range []netip.Prefix{r.cfg.Pool4, r.cfg.Pool6} {
					if pool.IsValid() && !strings.Contains(a.Probe, netip.AddrPortFrom(pool.Addr(), probePort).String()+" from a cgroup of its own") {
						t.Errorf("probe %q", a.Probe)
					}
				}
			}
			if vips, servers := must(r.k.VIPs()), must(r.k.Servers()); len(vips) != 0 || len(servers) != 0 {
				t.Errorf("the probe shows: %v, %v", vips, servers)
			}
		})
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
	conn.Close()
	eventually(t, "the socket to be gone", func() bool { return len(must(r.k.Sockets())) == 0 })
}

// TestProbeWithoutRights: what a caller may not find out is not said to be
// missing in the kernel.
func TestProbeWithoutRights(t *testing.T) {
	testenv.Privileged(t)
	found := make(chan []Feature)
	go func() {
		runtime.LockOSThread() // and the thread ends with the goroutine: its rights are its own
		if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &make([]unix.CapUserData, 2)[0]); err != nil {
			t.Error(err)
		}
		found <- Probe()
	}()
	var batched bool
	for _, f := range <-found {
		if strings.Contains(f.Err, unix.EPERM.Error()) && f.How != privileges {
			t.Errorf("not permitted, and advised to: %+v", f)
		}
		batched = batched || f.Name == "batched map access" && !f.Have
	}
	if !batched {
		t.Error("a map was made without a right to")
	}
}
