package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/consul/proto-public/pbserverdiscovery"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// traffic is HTTP through the mesh, from a client's Envoy to a service's.
type traffic struct {
	ok, failed atomic.Int64
	lastFailed atomic.Value // string
	stop       func()
}

// startTraffic makes a service and a client of it, both with Envoys, and sends
// requests all the time until stop.
func startTraffic(w *world) *traffic {
	w.Helper()
	w.must(w.cluster.Intend(w.ctx, "client", "echo", api.IntentionActionAllow))
	server := w.join("echo")
	l, err := server.pod.Listen("tcp", ":8080")
	w.must(err)
	echo := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(rw, "hello")
	})}
	served := make(chan struct{})
	go func() { defer close(served); _ = echo.Serve(l) }()

	pod, err := w.host.NewPod("client")
	w.must(err)
	p, err := w.cluster.Register(w.ctx, bed.Service{
		Name: "client", Pod: pod,
		Upstreams: []api.Upstream{{DestinationName: "echo", LocalBindPort: 5000}},
	})
	w.must(err)
	client := member{pod, p, w.register(pod.Node, p)}
	w.must(w.envoy(server).WaitUp(w.ctx))
	w.must(w.envoy(client).WaitUp(w.ctx))

	t := &traffic{}
	ctx, cancel := context.WithCancel(w.ctx)
	get := func() error {
		resp, err := pod.HTTPClient().Get("http://127.0.0.1:5000/")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err == nil && string(body) != "hello" {
			err = fmt.Errorf("%s: %q", resp.Status, body)
		}
		return err
	}
	w.eventually(10*time.Second, get)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if err := get(); err != nil {
				t.failed.Add(1)
				t.lastFailed.Store(err.Error())
			} else {
				t.ok.Add(1)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	t.stop = func() {
		cancel()
		<-done
		_ = echo.Close()
		<-served
	}
	w.Cleanup(t.stop)
	return t
}

// A Consul server is killed, and the others have no room: by their own limit
// they take so many of its streams, and the rest once Consul has taken the
// dead server from its catalog. Meanwhile status says what is waited for, and
// requests through the mesh go on.
func TestWithoutRoomProxiesWaitForCapacity(t *testing.T) {
	t.Run("lictord alive", func(t *testing.T) { withoutRoom(t, nil) })
	t.Run("lictord stopped", func(t *testing.T) { withoutRoom(t, (*bed.Lictor).Stop) })
}

// withoutRoom takes lictord away before, unless away is nil.
func withoutRoom(t *testing.T, away func(*bed.Lictor) error) {
	w := newWorld(t, 3, 3*time.Minute)
	flow := startTraffic(w)
	m := newMesh(w, fifteen-2, 0) // and the two of the traffic: the limit is 6 a server
	time.Sleep(3 * time.Second)
	leader, err := w.cluster.Leader(w.ctx)
	w.must(err)
	var victim *bed.Server
	for _, s := range w.cluster.Servers() {
		if s != leader {
			victim = s
		}
	}
	served, lost := m.on(victim), int(w.countsOf(victim.Name).Active)
	// The two of the traffic may be among those that are admitted.
	admitted := 2*limit(fifteen, 3) - (fifteen - lost) - (lost - len(served))
	ok, failed := flow.ok.Load(), flow.failed.Load()
	if away != nil {
		w.must(away(w.lictor))
	}
	w.must(victim.Kill())
	killed := time.Now()

	listed, published := make(chan time.Time, 1), make(chan time.Time, 1)
	go func() {
		_ = w.cluster.WaitServers(w.ctx, 2)
		listed <- time.Now()
	}()
	go func() {
		waitReadyServers(w.ctx, leader, 2)
		published <- time.Now()
	}()
	before, made := m.change()
	missing := map[*bed.Envoy]bool{}
	for _, e := range served {
		missing[e] = true
	}
	waitingSaid, statusSaid := away != nil, away != nil // there is nobody to say it
	var status string
	var smaller, last time.Time
	for len(missing) > 0 && time.Since(killed) < 30*time.Second {
		for e := range missing {
			n, err := e.Updates(w.ctx)
			w.must(err)
			if n > before[e] {
				delete(missing, e)
				last = time.Now()
				if smaller.IsZero() {
					admitted--
				}
				t.Logf("%s has the change after %v", e.Name, last.Sub(made).Round(time.Millisecond))
			}
		}
		if !waitingSaid || !statusSaid {
			st, err := w.lictor.Client().Status(w.ctx)
			w.must(err)
			if st.Proxies.Waiting > 0 {
				list, err := w.lictor.Client().Proxies(w.ctx)
				w.must(err)
				for _, p := range list {
					waitingSaid = waitingSaid || p.State == v1.ProxyWaiting
				}
				status = w.cli("status")
				statusSaid = statusSaid || strings.Contains(status, "waiting for capacity")
			}
		}
		select {
		case at := <-listed:
			t.Logf("the catalog lists two servers after %v", at.Sub(killed).Round(time.Millisecond))
		case smaller = <-published:
			t.Logf("Consul publishes two ready servers after %v", smaller.Sub(killed).Round(time.Millisecond))
		default:
		}
		time.Sleep(20 * time.Millisecond)
	}
	if len(missing) > 0 {
		t.Fatalf("%d of %d Envoys have no stream 30 s after the kill", len(missing), len(served))
	}
	if smaller.IsZero() { // the limits were in force before we heard of them
		select {
		case smaller = <-published:
		case <-time.After(10 * time.Second):
			t.Fatal("Consul has not published two ready servers")
		}
	}
	if admitted > 0 {
		t.Errorf("%d more Envoys had room under the limits of three servers, and waited", admitted)
	}
	if late := last.Sub(smaller); late > 3*time.Second {
		t.Errorf("the last Envoy has its stream %v after Consul published two ready servers, want 3s", late)
	}
	if !waitingSaid {
		t.Error("no proxy was ever said to be waiting for capacity")
	}
	if !statusSaid { // each time it is asked a moment after the API
		t.Errorf("status never says «waiting for capacity»:\n%s", status)
	}
	if n := flow.failed.Load() - failed; n > 0 {
		t.Errorf("%d requests through the mesh failed: %v", n, flow.lastFailed.Load())
	}
	if n := flow.ok.Load() - ok; n == 0 {
		t.Error("no request went through the mesh")
	}
	t.Logf("%d requests meanwhile", flow.ok.Load()-ok)
}

// waitReadyServers waits until a server publishes that many ready servers: what
// its limit of streams is made of. The catalog's list is up to two seconds ahead.
func waitReadyServers(ctx context.Context, s *bed.Server, n int) {
	conn, err := grpc.NewClient("passthrough:///"+netip.AddrPortFrom(s.Addr(), bed.DefaultGRPCPort).String(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return s.DialContext(ctx, "tcp", addr)
		}))
	if err != nil {
		return
	}
	defer conn.Close()
	stream, err := pbserverdiscovery.NewServerDiscoveryServiceClient(conn).
		WatchServers(ctx, &pbserverdiscovery.WatchServersRequest{})
	for err == nil {
		var ready *pbserverdiscovery.WatchServersResponse
		if ready, err = stream.Recv(); err == nil && len(ready.GetServers()) == n {
			return
		}
	}
	<-ctx.Done() // an error must not look like an early answer
}
