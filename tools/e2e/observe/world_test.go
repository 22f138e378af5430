// Package observe shows that what Prometheus and Grafana say of a mesh is so:
// metrics equal what happened, alerts fire when their fault does and end after,
// panels draw. With a real Prometheus, real lictords, real Consul servers.
package observe

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/tools/e2e/stage"
	"github.com/lictor-mesh/lictor/tools/prometheus"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

const (
	job      = "lictor"
	listen   = "127.0.0.1:9090" // of Prometheus, in the host's namespace
	interval = 500 * time.Millisecond
)

// world is a host with a lictord that a Prometheus scrapes.
type world struct {
	testing.TB
	ctx     context.Context
	bed     *bed.Bed
	cluster *bed.Cluster // nil without Consul
	host    *bed.Host
	lictor  *bed.Lictor
	api     *v1.Client
	prom    prometheus.Client
}

func newWorld(t testing.TB, within time.Duration) *world {
	t.Helper()
	ctx, b := stage.New(t, within)
	w := &world{TB: t, ctx: ctx, bed: b}
	var err error
	w.host, err = w.bed.NewHost("host-1")
	w.must(err)
	return w
}

// withConsul starts Consul servers.
func (w *world) withConsul(servers int) *world {
	w.Helper()
	var err error
	w.cluster, err = w.bed.StartCluster(w.ctx, bed.ClusterOptions{Servers: servers})
	w.must(err)
	return w
}

// start starts lictord, and waits until it is ready.
func (w *world) start(args ...string) {
	w.Helper()
	var err error
	w.lictor, err = w.host.StartLictor(bed.LictorOptions{Cluster: w.cluster, Args: args})
	w.must(err)
	w.must(w.lictor.WaitReady(w.ctx))
	w.api = w.lictor.Client()
	w.Cleanup(w.api.Close)
}

// watch starts Prometheus, which scrapes this host's lictord and others.
func (w *world) watch(rules []byte, others ...prometheus.Target) {
	w.Helper()
	path, err := prometheus.Find(w.ctx, "prometheus")
	w.must(err)
	args, err := prometheus.Config{
		Dir: w.TempDir(), Listen: listen, Job: job, Every: interval, Rules: rules,
		Targets: append([]prometheus.Target{{Address: bed.LictorHTTP, Instance: w.host.Name}}, others...),
	}.Write()
	w.must(err)
	_, err = w.host.Start(bed.Command{Name: "prometheus", Path: path, Args: args})
	w.must(err)
	w.prom = prometheus.Client{HTTP: w.host.HTTPClient(), URL: "http://" + listen}
	w.eventually(20*time.Second, func() error { return w.is(`min(up{job="lictor"})`, 1) })
}

// fastRules are the rules with a minute that is a second.
func (w *world) fastRules() []byte {
	w.Helper()
	rules, err := os.ReadFile(filepath.Join("..", "..", "prometheus", "lictor.rules.yml"))
	w.must(err)
	return prometheus.Hasten(rules)
}

// is compares the one value that an expression has now.
func (w *world) is(expr string, want float64) error {
	got, err := w.prom.Query(w.ctx, expr)
	if err != nil {
		return err
	}
	if len(got) != 1 || got[0].Value.Value != want {
		return fmt.Errorf("%s is %v, want %v", expr, got, want)
	}
	return nil
}

// registerAll registers proxies whose VIPs anybody on the host may use.
func (w *world) registerAll(ids []string, node string) []netip.AddrPort {
	w.Helper()
	vips := make([]netip.AddrPort, len(ids))
	var group errgroup.Group
	group.SetLimit(64) // commits are shared
	for i, id := range ids {
		group.Go(func() error {
			r, err := w.api.Register(w.ctx, id, v1.RegisterRequest{NodeName: node, Owner: v1.OwnerAny})
			if err == nil {
				vips[i] = netip.AddrPortFrom(netip.MustParseAddr(r.VIP), r.Port)
			}
			return err
		})
	}
	w.must(group.Wait())
	return vips
}

func names(prefix string, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("%s-%d", prefix, i+1)
	}
	return all
}

// streams lets n proxies speak xDS with the servers through their VIPs. As many
// again are in the catalog only, so that there is room when a server is lost. The
// returned function lets all go and come anew, as pods of a rollout.
func (w *world) streams(n int) (rollout func()) {
	w.Helper()
	node := w.host.Name + "-virtual"
	known := make([]bed.Proxy, 2*n)
	var group errgroup.Group
	group.SetLimit(8)
	for i := range known {
		group.Go(func() (err error) {
			known[i], err = w.cluster.Register(w.ctx, bed.Service{Name: "web", ID: fmt.Sprintf("%s-web-%d", w.host.Name, i+1), Node: node})
			return err
		})
	}
	w.must(group.Wait())
	ids := make([]string, n)
	for i := range ids {
		ids[i] = known[i].ID
	}
	vips := w.registerAll(ids, node)
	time.Sleep(1500 * time.Millisecond) // servers count proxies, for their limits, once a second
	f, err := w.host.StartFleet()
	w.must(err)
	connect := func() {
		for i := range n {
			w.must(f.Add(known[i], vips[i], nil))
		}
		w.must(f.WaitUp(w.ctx, n))
	}
	connect()
	return func() {
		for _, id := range ids {
			w.must(f.Remove(id))
			w.must(w.api.Deregister(w.ctx, id))
		}
		vips = w.registerAll(ids, node)
		connect()
	}
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// eventually waits until ok says nil, and fails with its last complaint.
func (w *world) eventually(within time.Duration, ok func() error) {
	w.Helper()
	stage.Eventually(w.ctx, w, within, ok)
}
