package kernel

import (
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/kernel/cgroup"
)

func TestLocalFailure(t *testing.T) {
	for name, sameThread := range map[string]bool{"noticed by the same thread": true, "noticed by another": false} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			events := r.listen()
			nowhere := Backend{Slot: 1, Addr: netip.MustParseAddrPort("198.51.100.7:8502")} // no route in the namespace
			good := r.serve(2, "127.0.0.1:0", echo)
			r.put(vip4, nowhere, good.Backend)
			if sameThread {
				err := r.ns.Do(func() error {
					if err := connectOnce(vip4); err != unix.ENETUNREACH {
						t.Errorf("first connect: %v", err)
					}
					return connectOnce(vip4)
				})
				if err != nil {
					t.Errorf("second connect: %v", err)
				}
			} else {
				r.wantErr(vip4, syscall.ENETUNREACH)
				time.Sleep(30 * time.Millisecond) // longer than a connect takes that is under way
				r.reach(vip4)
			}
			r.wantCounters(1, Counters{Redirected: 1})
			if c := r.counters(2); c.Established != 1 {
				t.Errorf("second server counted %+v", c)
			}
			e := events.want(EventFailedLocal)
			if e.Slot != 1 || e.Server != nowhere.Addr || e.VIP != vip4 || e.VIPSlot != 5 || e.PID != uint32(os.Getpid()) ||
				e.CgroupID != must(cgroup.ID(r.cfg.Cgroup)) || e.Netns != r.cookie || e.Comm == "" {
				t.Errorf("event %+v", e)
			}
			events.stop()
		})
	}
}

// What another thread has in flight is not failed as long as TCP may still take it up.
func TestInFlightOfAnotherThread(t *testing.T) {
	r := newRig(t)
	first, second := r.serve(1, "127.0.0.1:0", echo), r.serve(2, "127.0.0.1:0", echo)
	r.put(vip4, first.Backend, second.Backend)
	for _, c := range []struct {
		age  time.Duration
		want *server
	}{{0, first}, {time.Second, second}} {
		w := lictorInflightWords{At: uint64(r.k.Now() - c.age), Task: 1, To: lictorBackend{Slot: first.Slot}}
		if c.age == 0 {
			w.At += uint64(time.Minute) // however slow this machine is
		}
		if err := r.k.objs.Inflight.Put(uint32(5), w); err != nil {
			t.Fatal(err)
		}
		if got := r.reach(vip4); got != c.want.Addr.String() {
			t.Errorf("in flight for %v: reached %s, want %v", c.age, got, c.want.Addr)
		}
		if err := r.k.ResetVIP(5); err != nil { // our own short connection
			t.Fatal(err)
		}
	}
}

func connectOnce(to netip.AddrPort) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Connect(fd, sockaddr(to))
}

// A client that gives up a connect at once has its own reasons; after a while it is
// the server's failure.
func TestAConnectThatIsGivenUp(t *testing.T) {
	for _, c := range []struct {
		name     string
		giveUp   func(fd) error
		patience time.Duration
	}{
		{"closed at once", func(s fd) error { return nil }, 0},
		{"disconnected at once", fd.disconnect, 0},
		{"shut down at once", func(s fd) error { return unix.Shutdown(int(s), unix.SHUT_RDWR) }, 0},
		{"after a while", func(s fd) error { return nil }, 400 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			r.put(vip4, r.deaf(1))
			start := time.Now()
			err := r.ns.Do(func() error {
				s, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
				if err != nil {
					return err
				}
				defer unix.Close(s)
				if err := fd(s).connect(vip4); err != unix.EINPROGRESS {
					t.Errorf("connect: %v", err)
				}
				time.Sleep(c.patience)
				return c.giveUp(fd(s))
			})
			if err != nil {
				t.Fatal(err)
			}
			took := time.Since(start)
			r.wantCounters(1, Counters{Redirected: 1, Attempted: 1, Failed: 1})
			held := len(must(r.k.VIPState(5)).Holds) == 1
			if at := r.refused(); len(at) != 0 {
				t.Errorf("taken for a refusal: %v", at)
			}
			if quick := took < 200*time.Millisecond; held != (c.patience > 0) && (quick || !held) {
				t.Errorf("given up after %v: held down %v", took, held)
			}
		})
	}
}

// Nor does a process that is killed while it connects say anything of the server.
func TestAConnectWhoseProcessIsKilled(t *testing.T) {
	r := newRig(t)
	r.put(vip4, r.deaf(1))
	const script = `import socket,sys,time
s = socket.socket()
s.setblocking(False)
s.connect_ex((sys.argv[1], int(sys.argv[2])))
time.sleep(0.3)
print("ready", flush=True)
time.sleep(60)`
	child := exec.Command("python3", "-c", script, vip4.Addr().String(), "8702")
	out := must(child.StdoutPipe())
	if err := r.ns.Do(child.Start); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		t.Error(err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Error(err)
	}
	if err := child.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Error(err)
	}
	r.wantCounters(1, Counters{Redirected: 1, Attempted: 1, Failed: 1})
	if holds := must(r.k.VIPState(5)).Holds; len(holds) != 0 {
		t.Errorf("holds %+v", holds)
	}
}
