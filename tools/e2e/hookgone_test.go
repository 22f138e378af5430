package e2e

import (
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// Without the hook a VIP reaches nobody: neither a server nor a listener on
// every local address and that port, whatever kind of socket asks. lictord says
// within seconds that it is gone, and when it is restarted all is as before.
func TestWithoutTheHookAVIPReachesNobody(t *testing.T) {
	for _, gone := range []struct {
		how string
		do  func(w *world)
	}{
		{"pins removed", func(w *world) {
			for _, pin := range w.pins("link_*") {
				w.must(os.Remove(pin))
			}
		}},
		{"links detached", func(w *world) {
			for _, pin := range w.pins("link_*") {
				l, err := link.LoadPinnedLink(pin, nil)
				w.must(err)
				w.must(errors.Join(l.Detach(), l.Close()))
			}
		}},
		{"directory removed", func(w *world) { w.must(os.RemoveAll(filepath.Join(w.host.BPFFS, "lictor"))) }},
	} {
		t.Run(gone.how, func(t *testing.T) {
			w := newWorld(t, 1, time.Minute)
			m := w.join("web")
			vip6 := netip.AddrPortFrom(netip.MustParseAddr("ff05::7777:0:1"), m.Port)
			w.must(w.connects(m.pod.Node, m.vip(), 0))
			heard := listen(w, m.pod.Node, m.Port)

			gone.do(w)
			for _, c := range []bed.Connect{
				{To: m.vip()},
				{To: m.vip(), Nonblocking: true},
				{To: m.vip(), Mapped: true},
				{To: vip6},
			} {
				got, err := m.pod.Connect(w.ctx, c)
				w.must(err)
				if got.Errno != unix.ENETUNREACH || got.Took > atOnce {
					t.Errorf("connect %+v: %v after %v, want ENETUNREACH at once", c, errno(got.Errno), got.Took)
				}
			}
			heard.nothing(w)

			w.eventually(10*time.Second, func() error {
				_, err := w.lictor.Get(w.ctx, "/readyz")
				if err == nil || !strings.Contains(err.Error(), "hook is not in effect") {
					return errors.New("/readyz does not say that the hook is not in effect")
				}
				return nil
			})
			status := func(args ...string) string { // which exits with 1, as something is wrong
				out, err := w.lictor.CLI(w.ctx, w.host.Node, append([]string{"status"}, args...)...)
				if err == nil {
					t.Error("lictor status exits with 0")
				}
				return string(out)
			}
			if said := status(); !strings.Contains(said, "hook is not in effect") || !strings.Contains(said, "Restart lictord") {
				t.Errorf("status does not say that the hook is gone and what to do:\n%s", said)
			}
			var st v1.Status
			w.must(json.Unmarshal([]byte(status("--json")), &st))
			if st.Ready || st.Attachment.InEffect || st.Attachment.Problem == "" {
				t.Errorf("status says ready %v, attachment %+v", st.Ready, st.Attachment)
			}

			w.must(w.lictor.Term(w.ctx))
			w.must(w.lictor.Start())
			w.must(w.lictor.WaitReady(w.ctx))
			if again := w.register(m.pod.Node, m.proxy); again.VIP != m.VIP {
				t.Errorf("the proxy has %s now, it was promised %s", again.VIP, m.VIP)
			}
			w.must(w.connects(m.pod.Node, m.vip(), 0))
			heard.nothing(w)
		})
	}
}

// ear is listeners on every address of a node.
type ear struct {
	on   *bed.Node
	port uint16
	got  chan net.Conn
}

// listen listens on a port of every IPv4 and IPv6 address of a node.
func listen(w *world, on *bed.Node, port uint16) ear {
	w.Helper()
	e := ear{on, port, make(chan net.Conn, 16)}
	for _, addr := range []string{"0.0.0.0", "::"} {
		network := "tcp4"
		if addr == "::" {
			network = "tcp6"
		}
		l, err := on.Listen(network, netip.AddrPortFrom(netip.MustParseAddr(addr), port).String())
		w.must(err)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				e.got <- conn
			}
		}()
		w.Cleanup(func() { _ = l.Close(); <-done })
	}
	return e
}

// nothing fails the test when anybody has connected; that the listeners hear
// at all is proved by a connect to a local address.
func (e ear) nothing(w *world) {
	w.Helper()
	for _, local := range []string{"127.0.0.1", "::1"} {
		to := netip.AddrPortFrom(netip.MustParseAddr(local), e.port)
		w.must(w.connects(e.on, to, 0))
		select {
		case conn := <-e.got:
			if got := conn.LocalAddr().(*net.TCPAddr).AddrPort(); got.Addr().Unmap() != to.Addr() {
				w.Errorf("a listener on every address was reached as %v", got)
			}
			_ = conn.Close()
		case <-time.After(5 * time.Second):
			w.Fatalf("the listener does not hear a connect to %v", to)
		}
	}
	select {
	case conn := <-e.got:
		w.Errorf("a listener on every address was reached as %v", conn.LocalAddr())
		_ = conn.Close()
	default:
	}
}
