package kernel

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// hangUp closes at once, in order.
func hangUp(net.Conn) {}

// reset closes by a reset at the client's first word.
func reset(conn net.Conn) {
	conn.Read(make([]byte, 1))       //nolint:errcheck // the test sees no reset then
	conn.(*net.TCPConn).SetLinger(0) //nolint:errcheck // nor here
}

// say sends n bytes, then waits for the client.
func say(n int) func(net.Conn) {
	return func(conn net.Conn) {
		if _, err := conn.Write(make([]byte, n)); err == nil {
			io.Copy(io.Discard, conn) //nolint:errcheck // ends with the client
		}
	}
}

func hear1(t testing.TB, conn net.Conn, n int) {
	t.Helper()
	conn.SetDeadline(time.Now().Add(10 * time.Second)) //nolint:errcheck // the read says it
	if _, err := io.ReadFull(conn, make([]byte, n)); err != nil {
		t.Error(err)
	}
}

func hearEnd(conn net.Conn) {
	conn.SetDeadline(time.Now().Add(10 * time.Second)) //nolint:errcheck // the read ends either way
	io.Copy(io.Discard, conn)                          //nolint:errcheck // an end or a reset
}

// disconnect ends a connection by connect with AF_UNSPEC, which keeps the socket.
func disconnect(t testing.TB, conn net.Conn) {
	t.Helper()
	raw := must(conn.(*net.TCPConn).SyscallConn())
	var err error
	if cerr := raw.Control(func(s uintptr) { err = fd(s).disconnect() }); errors.Join(cerr, err) != nil {
		t.Error(cerr, err)
	}
}

// The table in bpf/tcp.h: first exits from ESTABLISHED.
func TestBounces(t *testing.T) {
	for _, c := range []struct {
		name    string
		window  time.Duration
		server  func(net.Conn)
		client  func(*rig, net.Conn)
		bounced bool
		served  bool // what was held down before is forgiven
	}{
		{"the server closes", time.Minute, hangUp, func(_ *rig, c net.Conn) { hearEnd(c) }, true, false},
		{"the server resets", time.Minute, reset, func(_ *rig, c net.Conn) { c.Write([]byte("x")); hearEnd(c) }, true, false},
		{"the client closes after a refusal", time.Minute, say(310), func(r *rig, c net.Conn) { hear1(r.t, c, 310) }, true, false},
		{"the client closes after being served", time.Minute, say(1000), func(r *rig, c net.Conn) { hear1(r.t, c, 1000) }, false, true},
		{"the client aborts", time.Minute, say(310), func(r *rig, c net.Conn) { hear1(r.t, c, 310); linger(r.t, c) }, false, false},
		{"the client disconnects", time.Minute, say(310), func(r *rig, c net.Conn) { hear1(r.t, c, 310); disconnect(r.t, c) }, false, false},
		{"the socket is destroyed", time.Minute, say(310), func(r *rig, c net.Conn) { hear1(r.t, c, 310); r.destroyOnly() }, false, false},
		{"the server closes after the window", time.Millisecond, func(net.Conn) { time.Sleep(20 * time.Millisecond) }, func(_ *rig, c net.Conn) { hearEnd(c) }, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, func(cfg *Config) { cfg.BounceWindow = c.window })
			s := r.serve(1, "127.0.0.1:0", c.server)
			r.put(vip4, s.Backend)
			r.hold(5, 1, HoldBounced)
			start := r.k.Now()
			conn, err := r.dial(vip4)
			if err != nil {
				t.Fatal(err)
			}
			c.client(r, conn)
			conn.Close()
			want := Counters{Redirected: 1, Attempted: 1, Established: 1, Closed: 1}
			if c.bounced {
				want.Bounced = 1
			}
			r.wantCounters(1, want)
			holds := must(r.k.VIPState(5)).Holds
			if held := len(holds) == 1 && holds[0].Slot == 1 && holds[0].Reason == HoldBounced; held == c.served {
				t.Errorf("holds %+v, want none: %v", holds, c.served)
			}
			if len(holds) == 1 && (holds[0].At >= start) != c.bounced {
				t.Errorf("held down at %v, connected after %v, want a new bounce: %v", holds[0].At, start, c.bounced)
			}
		})
	}
}

// A connection that outlived the window forgives what was, unless its server,
// though it was asked, never said a word.
func TestAServerThatNeverAnsweredHasFailed(t *testing.T) {
	quiet, curt := say(0), say(1)
	for _, c := range []struct {
		name   string
		server func(net.Conn)
		asks   string
		end    func(*rig, net.Conn)
		held   HoldReason // afterwards; HoldBounced is what it was before
	}{
		{"asked", quiet, "x", func(_ *rig, c net.Conn) { c.Close() }, HoldFailed},
		{"asked, and we close it", quiet, "x", func(r *rig, _ net.Conn) { r.destroyOnly() }, HoldBounced},
		{"asked, it answers, and we close it", curt, "x", func(r *rig, c net.Conn) { hear1(r.t, c, 1); r.destroyOnly() }, HoldBounced},
		{"asked, and it answers", curt, "x", func(r *rig, c net.Conn) { hear1(r.t, c, 1); c.Close() }, HoldNone},
		{"not asked", quiet, "", func(_ *rig, c net.Conn) { c.Close() }, HoldNone},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, func(cfg *Config) { cfg.BounceWindow = time.Millisecond })
			s := r.serve(1, "127.0.0.1:0", c.server)
			r.put(vip4, s.Backend)
			r.hold(5, 1, HoldBounced)
			conn, err := r.dial(vip4)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, c.asks); err != nil {
				t.Error(err)
			}
			time.Sleep(20 * time.Millisecond)
			c.end(r, conn)
			r.wantCounters(1, Counters{Redirected: 1, Attempted: 1, Established: 1, Closed: 1})
			held := HoldNone
			if holds := must(r.k.VIPState(5)).Holds; len(holds) == 1 {
				held = holds[0].Reason
			}
			if held != c.held {
				t.Errorf("held for %v, want %v", held, c.held)
			}
		})
	}
}

// Whoever answers a SYN is there, but need not have room.
func TestAnAnswerForgivesAFailure(t *testing.T) {
	for _, c := range []struct {
		name string
		held HoldReason
		left int
	}{
		{"held for a failure", HoldFailed, 0},
		{"held for a bounce", HoldBounced, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			s := r.serve(1, "127.0.0.1:0", say(0))
			r.put(vip4, s.Backend)
			r.hold(5, 1, c.held)
			conn, err := r.dial(vip4)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if holds := must(r.k.VIPState(5)).Holds; len(holds) != c.left {
				t.Errorf("holds %+v, want %d", holds, c.left)
			}
		})
	}
}

// destroyOnly does what a drain does to the only socket.
func (r *rig) destroyOnly() {
	r.t.Helper()
	if err := Destroy([]Socket{r.onlySocket()})[0]; err != nil {
		r.t.Error(err)
	}
}

// onlySocket is the one that Sockets lists.
func (r *rig) onlySocket() Socket {
	r.t.Helper()
	sockets := must(r.k.Sockets())
	if len(sockets) != 1 {
		r.t.Fatalf("sockets %+v, want one", sockets)
	}
	return sockets[0]
}

// A client that is killed says nothing about its server: it neither holds it down
// nor forgives it.
func TestAKilledProcessIsNoBounce(t *testing.T) {
	for _, c := range []struct {
		name   string
		window time.Duration
		hears  int
	}{
		{"refused a moment ago", time.Minute, 310},
		{"without an answer for long", time.Millisecond, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, func(cfg *Config) { cfg.BounceWindow = c.window })
			s := r.serve(1, "127.0.0.1:0", say(c.hears))
			r.put(vip4, s.Backend)
			r.hold(5, 1, HoldBounced)
			before := must(r.k.VIPState(5)).Holds
			r.killWhoHears(c.hears)
			r.wantCounters(1, Counters{Redirected: 1, Attempted: 1, Established: 1, Closed: 1})
			if holds := must(r.k.VIPState(5)).Holds; !slices.Equal(holds, before) {
				t.Errorf("holds %+v, before %+v", holds, before)
			}
		})
	}
}

// killWhoHears kills a process that has connected, asked, and heard n bytes.
func (r *rig) killWhoHears(n int) {
	r.t.Helper()
	const script = `import socket,sys,time
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
s.sendall(b"x")
left = int(sys.argv[3])
while left > 0: left -= len(s.recv(left))
print("ready", flush=True)
time.sleep(60)`
	child := exec.Command("python3", "-c", script, vip4.Addr().String(), "8702", strconv.Itoa(n))
	out := must(child.StdoutPipe())
	if err := r.ns.Do(child.Start); err != nil {
		r.t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		r.t.Error(err)
	}
	time.Sleep(5 * time.Millisecond) // so that the shorter of the windows is over, and what was sent acknowledged
	if err := child.Process.Kill(); err != nil {
		r.t.Error(err)
	}
	if err := child.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		r.t.Error(err)
	}
}

// A client that asks for SO_ERROR takes the error of a reset away, also in the
// moment before TCP closes the socket: it is the server's end nevertheless.
func TestBounceWhoseErrorIsTakenAway(t *testing.T) {
	const rounds = 500
	r := newRig(t, func(c *Config) {
		c.BounceWindow, c.HoldBounced, c.Eager, c.WaitMin = time.Hour, 1, 1, time.Millisecond
	})
	r.steer() // or the reset comes in the same thread's time, and nothing is in between
	s := r.serve(1, "127.0.0.1:0", reset)
	r.put(vip4, s.Backend)
	err := r.ns.Do(func() error {
		for range rounds {
			if err := resetAndTaken(vip4); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	r.wantCounters(1, Counters{Redirected: rounds, Attempted: rounds, Established: rounds, Closed: rounds, Bounced: rounds})
}

// resetAndTaken has a server reset a connection while it asks for the error.
func resetAndTaken(vip netip.AddrPort) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sockaddr(vip)); err != nil {
		return err
	}
	if _, err := unix.Write(fd, []byte("x")); err != nil {
		return err
	}
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err != nil || code == int(unix.ECONNRESET) {
			return err
		}
	}
	return errors.New("no reset came")
}
