// Package page shows that the status page tells the truth, soon and to
// everybody: in a real browser, from a real lictord, with real Consul servers.
package page

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/tools/browser"
	"github.com/lictor-mesh/lictor/tools/e2e/stage"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// world is a host on which lictord is ready, with proxies that are connected,
// and a browser.
type world struct {
	testing.TB
	ctx     context.Context
	cluster *bed.Cluster
	host    *bed.Host
	lictor  *bed.Lictor
	fleet   *bed.Fleet
	browser *browser.Browser
	url     string // of the page, as the browser reaches it
}

// services have three proxies each.
var services = []string{"cart", "checkout", "frontend", "inventory", "orders", "payments", "search", "shipping"}

const proxies = 24 // that are connected

func newWorld(t testing.TB, within time.Duration) *world {
	t.Helper()
	ctx, b := stage.New(t, within)
	w := &world{TB: t, ctx: ctx, browser: browser.ForTest(t)}
	var err error
	w.cluster, err = b.StartCluster(ctx, bed.ClusterOptions{Servers: 3})
	w.must(err)
	w.host, err = b.NewHost("host-1")
	w.must(err)
	w.lictor, err = w.host.StartLictor(bed.LictorOptions{Cluster: w.cluster})
	w.must(err)
	w.must(w.lictor.WaitReady(ctx))
	w.connect()
	w.url = w.forward()
	return w
}

// connect registers the proxies and lets them connect. As many again are in the
// catalog only: so there is room on the servers when one is lost.
func (w *world) connect() {
	w.Helper()
	var err error
	w.fleet, err = w.host.StartFleet()
	w.must(err)
	client := w.lictor.Client()
	defer client.Close()
	var group errgroup.Group
	group.SetLimit(8)
	vips := make([]netip.AddrPort, proxies)
	known := make([]bed.Proxy, proxies)
	for i := range 2 * proxies {
		group.Go(func() (err error) {
			service := services[i%len(services)]
			p, err := w.cluster.Register(w.ctx, bed.Service{
				Name: service, ID: fmt.Sprintf("%s-%d", service, i/len(services)+1), Node: "host-1-virtual",
			})
			if err != nil || i >= proxies {
				return err
			}
			r, err := client.Register(w.ctx, p.ID, v1.RegisterRequest{NodeName: p.NodeName, Owner: v1.OwnerAny})
			if err == nil {
				known[i], vips[i] = p, netip.AddrPortFrom(netip.MustParseAddr(r.VIP), r.Port)
			}
			return err
		})
	}
	w.must(group.Wait())
	time.Sleep(1500 * time.Millisecond) // servers count proxies, for their limits, once a second
	for i := range proxies {
		w.must(w.fleet.Add(known[i], vips[i], nil))
	}
	w.must(w.fleet.WaitUp(w.ctx, proxies))
}

// forward makes lictord's address one of this process's own loopback, where the
// browser is. It has nothing to say when lictord is away.
func (w *world) forward() string {
	w.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	w.must(err)
	var all sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	all.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer in.Close()
				out, err := w.host.DialContext(ctx, "tcp", bed.LictorHTTP)
				if err != nil {
					return
				}
				defer out.Close()
				stop := context.AfterFunc(ctx, func() { _ = errors.Join(in.Close(), out.Close()) })
				defer stop()
				var both sync.WaitGroup
				both.Go(func() { pass(out, in) })
				both.Go(func() { pass(in, out) })
				both.Wait()
			})
		}
	})
	w.Cleanup(func() { cancel(); _ = l.Close(); all.Wait() })
	return "http://" + l.Addr().String() + "/"
}

// pass copies until one side ends. It hides what the connections are: splice
// keeps pipes, which would look left behind.
func pass(to, from net.Conn) {
	_, _ = io.Copy(struct{ io.Writer }{to}, struct{ io.Reader }{from})
	_ = to.Close()
}

// open opens the page and waits until it is live.
func (w *world) open(v browser.View) *tab {
	w.Helper()
	t := w.blank(v)
	w.must(t.Load(w.ctx, w.url))
	t.until(10*time.Second, `document.documentElement.dataset.live === "true"`)
	return t
}

// blank opens a tab that has shown nothing yet.
func (w *world) blank(v browser.View) *tab {
	w.Helper()
	t, err := w.browser.Open(w.ctx, v)
	w.must(err)
	w.Cleanup(func() { _ = t.Close(context.WithoutCancel(w.ctx)) })
	return &tab{t, w}
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// victim is a server that does not lead and has proxies.
func (w *world) victim() *bed.Server {
	w.Helper()
	leader, err := w.cluster.Leader(w.ctx)
	w.must(err)
	for _, s := range w.cluster.Servers() {
		if s != leader && w.fleet.Servers()[s.XDS()] > 0 {
			return s
		}
	}
	w.Fatal("no server but the leader has proxies")
	return nil
}

// tab is a tab with the page.
type tab struct {
	*browser.Tab
	w *world
}

// until waits until an expression is true in the page.
func (t *tab) until(within time.Duration, expression string) {
	t.w.Helper()
	ctx, cancel := context.WithTimeout(t.w.ctx, within)
	defer cancel()
	if err := t.Wait(ctx, expression); err != nil {
		text := t.text("document.body.innerText")
		t.w.Fatalf("%v; the browser complains %q, the page says:\n%s", err, t.Complaints(), text)
	}
}

// text evaluates an expression that is a string.
func (t *tab) text(expression string) (s string) {
	t.w.Helper()
	t.w.must(t.Eval(t.w.ctx, "String("+expression+")", &s))
	return s
}

// calm fails the test when the page or the browser has complained of something
// else than lictord being away.
func (t *tab) calm() {
	t.w.Helper()
	for _, c := range t.Complaints() {
		if !away.MatchString(c) {
			t.w.Errorf("the browser complains: %s", c)
		}
	}
}
