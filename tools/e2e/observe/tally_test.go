package observe

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

const xdsPort = 8502

// backend is a server of a storm: it says its name to whoever connects.
type backend struct {
	name string
	node *bed.Node
	id   string // in the labels

	mu    sync.Mutex
	l     net.Listener
	conns map[net.Conn]bool
	all   sync.WaitGroup
}

func (b *backend) open() error {
	l, err := b.node.Listen("tcp", fmt.Sprintf("%s:%d", b.node.Addr(), xdsPort))
	if err != nil {
		return err
	}
	b.l, b.conns = l, map[net.Conn]bool{}
	b.all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			b.conns[conn] = true
			b.mu.Unlock()
			b.all.Go(func() {
				_, _ = conn.Write(b.banner())
				_, _ = conn.Read(make([]byte, 1)) // until the client is done
				b.mu.Lock()
				delete(b.conns, conn)
				b.mu.Unlock()
				_ = conn.Close()
			})
		}
	})
	return nil
}

// bannerRead is what a storm reads of a banner.
const bannerRead = 64

// banner is longer than what is taken for a refusal, and fits in a segment.
func (b *backend) banner() []byte {
	return fmt.Appendf(nil, "%-1300s", b.name)
}

// kill is what a killed process looks like from outside.
func (b *backend) kill() error {
	err := b.l.Close()
	b.mu.Lock()
	for conn := range b.conns {
		_ = conn.Close() // perhaps closed already
	}
	b.mu.Unlock()
	b.all.Wait()
	return err
}

// newStormWorld is a host with three servers that are no Consul, and proxies.
func newStormWorld(t *testing.T, within time.Duration) (*world, []*backend) {
	t.Helper()
	w := newWorld(t, within)
	var servers []*backend
	var addresses []string
	for i := range 3 {
		b := &backend{name: fmt.Sprintf("server-%d", i+1)}
		pod, err := w.host.NewPod(b.name)
		w.must(err)
		b.node = pod.Node
		w.must(b.open())
		t.Cleanup(func() { _ = b.kill() })
		servers, addresses = append(servers, b), append(addresses, b.node.Addr().String())
	}
	w.start("--server-watch-disabled", fmt.Sprintf("--consul-grpc-port=%d", xdsPort), "--consul-addresses="+strings.Join(addresses, ","))
	list, err := w.api.Servers(w.ctx)
	w.must(err)
	for _, s := range list {
		for _, b := range servers {
			if s.Addresses[0] == b.node.Addr().String() {
				b.id = s.ID
			}
		}
	}
	return w, servers
}

// tally is what a storm says that each server did.
type tally struct{ established, failed float64 }

// Through a storm with two failovers, Prometheus has for each server what the
// storm counted itself; and still after lictord was killed and restarted.
func TestSeriesEqualTheStormsTally(t *testing.T) {
	w, servers := newStormWorld(t, time.Minute)
	w.watch(nil)
	vips := w.registerAll(names("proxy", 30), "host-1")
	want := map[string]tally{}
	for _, victim := range servers[:2] {
		w.storm(vips, servers, victim, want)
	}
	if want[servers[0].id].failed == 0 || want[servers[1].id].failed == 0 {
		t.Errorf("no connect met a server that was away: %v", want)
	}
	same := func() error {
		var errs []error
		for id, n := range want {
			for result, v := range map[string]float64{"established": n.established, "failed": n.failed} {
				errs = append(errs, w.is(fmt.Sprintf(`lictor_server_connections_total{server=%q, result=%q}`, id, result), v))
			}
			errs = append(errs,
				w.is(fmt.Sprintf(`lictor_server_connections_active{server=%q}`, id), 0),
				w.is(fmt.Sprintf(`lictor_server_connect_seconds_count{server=%q}`, id), n.established))
		}
		return errors.Join(append(errs, w.is(`sum(lictor_denied_total)`, 0))...)
	}
	w.eventually(10*time.Second, same)
	t.Logf("by server: %v", want)

	began := time.Now()
	w.must(w.lictor.Kill())
	w.must(w.lictor.Start())
	w.must(w.lictor.WaitReady(w.ctx))
	w.eventually(10*time.Second, func() error {
		return w.is(fmt.Sprintf("process_start_time_seconds > bool %d", began.Unix()-1), 1)
	})
	w.eventually(10*time.Second, same)
}

// storm connects for a while, in which a server is killed and comes back, and
// adds what became of the connects.
func (w *world) storm(to []netip.AddrPort, servers []*backend, victim *backend, sum map[string]tally) {
	w.Helper()
	s, err := w.host.StartStorm(bed.StormOptions{To: to, Workers: 4, Banner: true, Pause: time.Millisecond})
	w.must(err)
	time.Sleep(time.Second)
	w.must(victim.kill())
	time.Sleep(time.Second)
	w.must(victim.open())
	time.Sleep(time.Second)
	r, err := s.End()
	w.must(err)
	const refused = "connection refused"
	for _, b := range servers {
		t := sum[b.id]
		t.established += float64(r.Banners[string(b.banner()[:bannerRead])])
		if b == victim { // whatever else befell a connect was its end
			t.failed += float64(r.Errnos[refused])
			t.established += float64(r.Banners[""])
			for errno, n := range r.Errnos {
				if errno != refused {
					t.established += float64(n)
				}
			}
		}
		sum[b.id] = t
	}
	w.Logf("%s was killed: %d connects, %d ended well, others: %v", victim.name, r.Connects, r.OK, r.Errnos)
}
