// Package mesh shows that a mesh under Lictor is one: requests flow through real
// Envoys that `lictor exec` became, with TLS and ACLs that deny by default, and
// what goes wrong is said in words. Each file is named after what it shows.
package mesh

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/tools/e2e/stage"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// upstreamPort is where a client's Envoy listens for what goes to its upstream.
const upstreamPort = 5000

// world is a mesh with one host on which lictord is ready.
type world struct {
	testing.TB
	ctx     context.Context
	bed     *bed.Bed
	cluster *bed.Cluster
	host    *bed.Host
	lictor  *bed.Lictor
	changes int
}

// newWorld makes a mesh; everything is gone, and checked to be, when the test ends.
func newWorld(t testing.TB, within time.Duration, o bed.ClusterOptions) *world {
	t.Helper()
	ctx, b := stage.New(t, within)
	w := &world{TB: t, ctx: ctx, bed: b}
	var err error
	w.cluster, err = w.bed.StartCluster(ctx, o)
	w.must(err)
	w.host, err = w.bed.NewHost("host-1")
	w.must(err)
	w.lictor = w.startLictor(w.host, bed.LictorOptions{Cluster: w.cluster})
	w.must(w.lictor.WaitReady(ctx))
	return w
}

// in is the world for a subtest, whose failures are its own.
func (w *world) in(t testing.TB) *world {
	sub := *w
	sub.TB = t
	return &sub
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// startLictor starts a lictord and waits until it answers.
func (w *world) startLictor(h *bed.Host, o bed.LictorOptions) *bed.Lictor {
	w.Helper()
	l, err := h.StartLictor(o)
	w.must(err)
	w.must(l.WaitSocket(w.ctx))
	return l
}

// newHost makes one more host.
func (w *world) newHost(name string) *bed.Host {
	w.Helper()
	h, err := w.bed.NewHost(name)
	w.must(err)
	return h
}

// member is a pod with an application, its service, its proxy and the Envoy that
// is the proxy.
type member struct {
	pod   *bed.Pod
	proxy bed.Proxy
	envoy *bed.Envoy
	pid   int // of the Envoy, as it was started
}

// deploy makes a pod with an application and registers its service, and its
// proxy with the upstreams, with Consul.
func (w *world) deploy(name string, upstreams ...string) *member {
	w.Helper()
	pod, err := w.host.NewPod(name)
	w.must(err)
	_, err = pod.StartApp(w.ctx, bed.AppOptions{})
	w.must(err)
	w.speakHTTP(name)
	return &member{pod: pod, proxy: w.enlist(name, pod, upstreams...)}
}

// enlist writes a pod's service and its proxy to Consul's catalog.
func (w *world) enlist(name string, pod *bed.Pod, upstreams ...string) bed.Proxy {
	w.Helper()
	s := bed.Service{Name: name, ID: name, Pod: pod}
	for i, to := range upstreams {
		s.Upstreams = append(s.Upstreams, api.Upstream{DestinationName: to, LocalBindPort: upstreamPort + i})
	}
	proxy, err := w.cluster.Register(w.ctx, s)
	w.must(err)
	return proxy
}

// exec starts the member's Envoy by `lictor exec`, in its pod and as nobody.
func (w *world) exec(m *member, o bed.ExecOptions) {
	w.Helper()
	o.Proxy = m.proxy
	var err error
	m.envoy, err = w.lictor.Exec(w.ctx, m.pod.Node, o)
	w.must(err)
	m.pid = m.envoy.PID()
}

// start is exec, and waits until the Envoy has its configuration.
func (w *world) start(m *member, o bed.ExecOptions) {
	w.Helper()
	w.exec(m, o)
	w.must(m.envoy.WaitUp(w.ctx))
}

// speakHTTP lets intentions and routes look into a service's requests.
func (w *world) speakHTTP(service string) {
	w.Helper()
	w.must(w.cluster.SetConfig(w.ctx, &api.ServiceConfigEntry{Kind: api.ServiceDefaults, Name: service, Protocol: "http"}))
}

func (w *world) intend(from, to string, action api.IntentionAction) {
	w.Helper()
	w.must(w.cluster.Intend(w.ctx, from, to, action))
}

// get sends a request from a pod, on a connection of its own.
func (w *world) get(from *bed.Pod, url string) (status int, body string, err error) {
	client := from.HTTPClient()
	client.Timeout = 2 * time.Second
	req, err := http.NewRequestWithContext(w.ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, string(text), err
}

// answers waits until a request of from's to its upstream is answered by to.
func (w *world) answers(from, to *member) {
	w.Helper()
	w.eventually(10*time.Second, func() error { return w.asks(from, to) })
}

// asks sends a request of from's to its upstream, which to must answer.
func (w *world) asks(from, to *member) error {
	status, body, err := w.get(from.pod, fmt.Sprintf("http://127.0.0.1:%d/", upstreamPort))
	if err == nil && (status != http.StatusOK || body != "hello from "+to.pod.Name+"\n") {
		err = fmt.Errorf("the answer is %d %s", status, body)
	}
	return err
}

// denied waits until a request of from's to its upstream is refused by the
// upstream's Envoy for want of an intention.
func (w *world) denied(from *member) {
	w.Helper()
	w.eventually(10*time.Second, func() error {
		status, body, err := w.get(from.pod, fmt.Sprintf("http://127.0.0.1:%d/", upstreamPort))
		if err == nil && (status != http.StatusForbidden || !strings.Contains(body, "RBAC: access denied")) {
			err = fmt.Errorf("the answer is %d %s, not a refusal", status, body)
		}
		return err
	})
}

// change makes a change to every sidecar's configuration and waits until each of
// these Envoys uses it. What Envoy itself says of its stream proves nothing.
func (w *world) change(within time.Duration, members ...*member) {
	w.Helper()
	w.changes++
	timeout := 5000 + int(time.Now().UnixMilli()%1_000_000) + w.changes // in ms, a number that was never there before
	w.must(w.cluster.SetConfig(w.ctx, &api.ProxyConfigEntry{
		Kind: api.ProxyDefaults, Name: api.ProxyConfigGlobal,
		Config: map[string]any{"local_connect_timeout_ms": timeout},
	}))
	want := fmt.Sprintf(`"connect_timeout": "%d.%03ds"`, timeout/1000, timeout%1000)
	started := time.Now()
	for _, m := range members {
		w.eventually(within, func() error {
			dump, err := m.envoy.Admin(w.ctx, http.MethodGet, "/config_dump?resource=dynamic_active_clusters")
			if err == nil && !strings.Contains(string(dump), want) {
				err = fmt.Errorf("a change has not reached %s", m.envoy.Name)
			}
			return err
		})
	}
	w.Logf("a change has reached %d Envoys after %v", len(members), time.Since(started).Round(time.Millisecond))
}

// sameProcess fails the test when the member's Envoy was restarted or has ended.
func (w *world) sameProcess(m *member) {
	w.Helper()
	if !m.envoy.Alive() || m.envoy.PID() != m.pid {
		w.Errorf("the Envoy of %s is not the process that was started", m.pod.Name)
	}
}

// noOtherProcess fails the test when there is another process in the pod than
// its application and its Envoy.
func (w *world) noOtherProcess(m *member) {
	w.Helper()
	text, err := os.ReadFile(filepath.Join(m.pod.Cgroup, "cgroup.procs"))
	w.must(err)
	var found []string
	for _, pid := range strings.Fields(string(text)) {
		name, err := os.ReadFile("/proc/" + pid + "/comm")
		if err == nil {
			found = append(found, strings.TrimSpace(string(name)))
		}
	}
	if len(found) != 2 {
		w.Errorf("in the pod %s run %v, want its application and Envoy alone", m.pod.Name, found)
	}
}

// assignment is what lictord says of a proxy.
func (w *world) assignment(id string) v1.Proxy {
	w.Helper()
	client := w.lictor.Client()
	defer client.Close()
	p, err := client.Proxy(w.ctx, id)
	w.must(err)
	return p
}

// file writes a file that Envoy's user may read into a pod's directory.
func (w *world) file(m *member, name, content string) string {
	w.Helper()
	path := filepath.Join(m.pod.Dir, name)
	w.must(os.WriteFile(path+".new", []byte(content), 0o600))
	w.must(os.Chown(path+".new", bed.Nobody, bed.Nobody))
	w.must(os.Rename(path+".new", path))
	return path
}

// eventually waits until ok says nil, and fails with its last complaint.
func (w *world) eventually(within time.Duration, ok func() error) {
	w.Helper()
	stage.Eventually(w.ctx, w, within, ok)
}
