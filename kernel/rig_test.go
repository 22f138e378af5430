package kernel

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/tools/testbed/sandbox"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

var (
	pool4 = netip.MustParsePrefix("239.77.0.0/16")
	pool6 = netip.MustParsePrefix("ff05::7777:0:0/96")
	vip4  = netip.MustParseAddrPort("239.77.0.5:8702")
	vip6  = netip.MustParseAddrPort("[ff05::7777:0:5]:8702")
)

// rig is a hook in effect on a cgroup that the test process lives in, and a
// network namespace to connect in.
type rig struct {
	t      testing.TB
	k      *Kernel
	cfg    Config
	ns     *sandbox.Netns
	cookie uint64
}

// newRig attaches a hook with short times.
func newRig(t testing.TB, change ...func(*Config)) *rig {
	t.Helper()
	r := newRigDetached(t, change...)
	if err := r.k.Attach(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r
}

func newRigDetached(t testing.TB, change ...func(*Config)) *rig {
	t.Helper()
	testenv.Privileged(t)
	testenv.NoLeaks(t)
	cfg := Config{
		BPFFS: filepath.Join(testenv.BPFFS(t), "lictor"), Cgroup: testenv.Cgroup(t), Pool4: pool4, Pool6: pool6,
		HoldFailed: time.Minute, HoldBounced: time.Minute, HoldRefused: time.Minute,
		WaitMin: time.Minute, WaitMax: time.Minute,
	}
	for _, c := range change {
		c(&cfg)
	}
	r := &rig{t: t, cfg: cfg, ns: testenv.Netns(t)}
	join(t, cfg.Cgroup)
	r.cookie = r.netnsCookie()
	r.open()
	t.Cleanup(func() {
		if err := errors.Join(r.k.Close(), Unload(cfg.BPFFS)); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) open() {
	r.t.Helper()
	r.start(thisVersion)
}

func (r *rig) start(v version) {
	r.t.Helper()
	k, err := v.open(r.t.Context(), r.cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	r.k = k
}

func (r *rig) attach() {
	r.t.Helper()
	if err := r.k.Attach(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

// join moves the test process into a cgroup until the test ends: a socket
// belongs to the cgroup in which it was made.
func join(t testing.TB, dir string) {
	t.Helper()
	if err := testenv.Join(dir, os.Getpid()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := testenv.Join(testenv.CgroupRoot(t), os.Getpid()); err != nil {
			t.Error(err)
		}
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// put writes an entry of slot 5 that the rig's namespace owns.
func (r *rig) put(vip netip.AddrPort, ranked ...Backend) {
	r.t.Helper()
	r.putVIP(VIP{
		Key: VIPKey{Addr: vip, Proto: ProtoTCP}, Slot: 5, Set: 1,
		Owner: Owner{Kind: OwnerNetns, ID: r.cookie}, Ranked: ranked,
	})
}

func (r *rig) putVIP(v VIP) {
	r.t.Helper()
	if err := r.k.PutVIPs([]VIP{v}); err != nil {
		r.t.Fatal(err)
	}
}

// server answers on a loopback address of the namespace by what handle does
// with each connection, in a goroutine of its own.
type server struct {
	Backend
	l  net.Listener
	wg sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn
}

func (r *rig) serve(slot uint16, addr string, handle func(net.Conn)) *server {
	r.t.Helper()
	s := &server{}
	if err := r.ns.Do(func() (err error) { s.l, err = net.Listen("tcp", addr); return err }); err != nil {
		r.t.Fatal(err)
	}
	s.Backend = Backend{Slot: slot, Addr: s.l.Addr().(*net.TCPAddr).AddrPort()}
	s.wg.Go(func() {
		for {
			conn, err := s.l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, conn)
			s.mu.Unlock()
			s.wg.Go(func() {
				defer conn.Close()
				handle(conn)
			})
		}
	})
	r.t.Cleanup(func() {
		s.l.Close()
		s.mu.Lock()
		for _, conn := range s.conns {
			conn.Close()
		}
		s.mu.Unlock()
		s.wg.Wait()
	})
	return s
}

// echo sends the name of the server's address, then what it gets, until the
// client is done.
func echo(conn net.Conn) {
	if _, err := io.WriteString(conn, conn.LocalAddr().String()+"\n"); err == nil {
		// Not by splice, whose pipes stay open for a while.
		io.Copy(struct{ io.Writer }{conn}, struct{ io.Reader }{conn}) //nolint:errcheck // the client's tests say what arrived
	}
}

func (r *rig) dial(to netip.AddrPort) (conn net.Conn, err error) {
	err = r.ns.Do(func() error {
		var d net.Dialer
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		conn, err = d.DialContext(ctx, "tcp", to.String())
		return err
	})
	return conn, err
}

// reach dials and returns which server answered.
func (r *rig) reach(to netip.AddrPort) string {
	r.t.Helper()
	conn, err := r.dial(to)
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close()
	return readName(r.t, conn)
}

func readName(t testing.TB, conn net.Conn) string {
	t.Helper()
	conn.SetDeadline(time.Now().Add(10 * time.Second)) //nolint:errcheck // the read says it
	var name []byte
	b := make([]byte, 1)
	for {
		if _, err := conn.Read(b); err != nil {
			t.Fatal(err)
		}
		if b[0] == '\n' {
			return string(name)
		}
		name = append(name, b[0])
	}
}

func (r *rig) wantErr(to netip.AddrPort, want error) {
	r.t.Helper()
	conn, err := r.dial(to)
	if err == nil {
		conn.Close()
	}
	if !errors.Is(err, want) {
		r.t.Errorf("connect to %v: %v, want %v", to, err, want)
	}
}

func (r *rig) reasons() map[Reason]uint64 { return must(r.k.Reasons()) }

// eventually waits for what the kernel does after a connection closes.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// counters of a server, as far as they are not about bytes.
func (r *rig) counters(slot uint16) Counters {
	c := must(r.k.Servers())[slot]
	c.BytesIn, c.BytesOut = 0, 0
	return c
}

func (r *rig) wantCounters(slot uint16, want Counters) {
	r.t.Helper()
	got := r.counters(slot)
	for end := time.Now().Add(5 * time.Second); got != want && time.Now().Before(end); time.Sleep(time.Millisecond) {
		got = r.counters(slot)
	}
	if got != want {
		r.t.Errorf("server %d counted %+v, want %+v", slot, got, want)
	}
}

// linger makes Close send a reset.
func linger(t testing.TB, conn net.Conn) {
	t.Helper()
	if err := conn.(*net.TCPConn).SetLinger(0); err != nil {
		t.Error(err)
	}
}
