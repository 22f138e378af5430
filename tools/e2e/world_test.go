// Package e2e shows that the promises of the README hold, with real Consul
// servers, real Envoys and the binaries that `make build` makes. Each file is
// named after what it shows.
package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/tools/e2e/stage"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// world is a mesh with one host on which lictord is ready.
type world struct {
	testing.TB
	ctx     context.Context
	bed     *bed.Bed
	cluster *bed.Cluster
	host    *bed.Host
	lictor  *bed.Lictor
}

// newWorld makes a mesh of that many Consul servers; everything is gone, and
// checked to be, when the test ends.
func newWorld(t testing.TB, servers int, within time.Duration, args ...string) *world {
	t.Helper()
	w := newBareWorld(t, within, bed.ClusterOptions{Servers: servers})
	w.startLictor(bed.LictorOptions{Cluster: w.cluster, Args: args})
	return w
}

// newBareWorld is newWorld with a host on which no lictord runs yet.
func newBareWorld(t testing.TB, within time.Duration, o bed.ClusterOptions) *world {
	t.Helper()
	ctx, b := stage.New(t, within)
	w := &world{TB: t, ctx: ctx, bed: b}
	var err error
	w.cluster, err = w.bed.StartCluster(ctx, o)
	w.must(err)
	w.host, err = w.bed.NewHost("host-1")
	w.must(err)
	return w
}

// startLictor starts the host's lictord and waits until it is ready.
func (w *world) startLictor(o bed.LictorOptions) {
	w.Helper()
	var err error
	w.lictor, err = w.host.StartLictor(o)
	w.must(err)
	w.must(w.lictor.WaitReady(w.ctx))
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// cli runs a command of lictor's in the host's namespace and returns its output.
func (w *world) cli(args ...string) string {
	w.Helper()
	out, err := w.lictor.CLI(w.ctx, w.host.Node, args...)
	w.must(err)
	return string(out)
}

// member is a pod with a service, its proxy, and what lictord promised it.
type member struct {
	pod   *bed.Pod
	proxy bed.Proxy
	v1.Registered
}

// vip is where the member's Envoy connects to.
func (m member) vip() netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(m.VIP), m.Port)
}

// join makes a pod, registers its service with Consul, and its proxy with
// lictord from the pod's own namespace.
func (w *world) join(name string) member {
	w.Helper()
	pod, err := w.host.NewPod(name)
	w.must(err)
	proxy, err := w.cluster.Register(w.ctx, bed.Service{Name: name, Pod: pod})
	w.must(err)
	return member{pod, proxy, w.register(pod.Node, proxy)}
}

// register registers a proxy with lictord from a node's namespace.
func (w *world) register(from *bed.Node, p bed.Proxy) v1.Registered {
	w.Helper()
	out, err := w.lictor.CLI(w.ctx, from, "register", p.ID, "--node-name", p.NodeName, "--json")
	w.must(err)
	var r v1.Registered
	w.must(json.Unmarshal(out, &r))
	return r
}

// registerAs registers a proxy with lictord by root, who may name its owner.
func (w *world) registerAs(id string, req v1.RegisterRequest) v1.Registered {
	w.Helper()
	client := w.lictor.Client()
	defer client.Close()
	r, err := client.Register(w.ctx, id, req)
	w.must(err)
	return r
}

// envoy starts a real Envoy with the bootstrap that lictord gives. The server that
// is asked for it may be a moment behind the one where the service was registered.
func (w *world) envoy(m member) *bed.Envoy {
	w.Helper()
	doc, err := w.lictor.CLI(w.ctx, m.pod.Node, "bootstrap", "--wait", m.proxy.ID)
	w.must(err)
	e, err := m.pod.StartEnvoy(w.ctx, bed.EnvoyOptions{Bootstrap: doc})
	w.must(err)
	return e
}

// eventually waits until ok says nil, and fails with its last complaint.
func (w *world) eventually(within time.Duration, ok func() error) {
	w.Helper()
	stage.Eventually(w.ctx, w, within, ok)
}

func expect[T comparable](what string, got, want T) error {
	if got != want {
		return fmt.Errorf("%s is %v, not %v", what, got, want)
	}
	return nil
}
