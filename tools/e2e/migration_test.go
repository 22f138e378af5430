package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
	"github.com/lictor-mesh/lictor/tools/testbed/binaries"
)

// A service and its callers are moved from consul-dataplane to Lictor and back,
// one pod at a time and in place, while requests flow: none is lost. Before a
// pod's proxy is replaced it is taken out of the load, as anybody does who
// restarts one: a server by its health check, a caller by whoever gives it
// work. Where no consul-dataplane is given, an Envoy with a hand-made
// bootstrap and a server's own address is in its place.
func TestAServiceMovesToLictorAndBack(t *testing.T) {
	w := newWorld(t, 3, 3*time.Minute)
	g := &migration{world: w, callers: map[string]bool{}}
	if _, err := binaries.Dataplane(); errors.Is(err, binaries.ErrNoDataplane) {
		t.Log(err)
		g.before = g.startPlain
	} else {
		w.must(err)
		g.before = g.startDataplane
	}
	w.registerAbsent(12) // so that any server may have all of the streams
	w.must(w.cluster.SetConfig(w.ctx, &api.ServiceConfigEntry{Kind: api.ServiceDefaults, Name: "echo", Protocol: "http"}))
	// Envoy 1.38.2 goes on trying an endpoint of which Consul says that it is
	// critical, once another one has come back from that. As in any mesh in which
	// pods are replaced, what could not be sent is sent again.
	w.must(w.cluster.SetConfig(w.ctx, &api.ServiceRouterConfigEntry{Kind: api.ServiceRouter, Name: "echo", Routes: []api.ServiceRoute{{
		Destination: &api.ServiceRouteDestination{NumRetries: 5, RetryOnConnectFailure: true, RetryOn: []string{"reset"}},
	}}}))
	w.must(w.cluster.Intend(w.ctx, "caller", "echo", api.IntentionActionAllow))
	for i := range 3 {
		g.servers = append(g.servers, g.deploy(bed.Service{Name: "echo", ID: fmt.Sprintf("echo-%d", i)}))
	}
	upstream := []api.Upstream{{DestinationName: "echo", LocalBindPort: 5000}}
	for i := range 2 {
		g.clients = append(g.clients, g.deploy(bed.Service{Name: "caller", ID: fmt.Sprintf("caller-%d", i), Upstreams: upstream}))
	}
	for _, i := range append(g.servers, g.clients...) {
		i.envoy = g.before(i)
		g.up(i)
	}
	for _, s := range g.servers {
		g.offered(s, true)
	}
	stop := g.flow()
	g.move("to Lictor", g.startLictor)
	if n := len(w.proxies()); n != 5 {
		t.Errorf("lictord has %d proxies, want 5", n)
	}
	g.move("back", g.before)
	stop()
	if n := len(w.proxies()); n != 0 {
		t.Errorf("lictord has %d proxies still", n)
	}
}

// migration is a service and its callers.
type migration struct {
	*world
	before           func(*instance) *bed.Envoy
	servers, clients []*instance

	mu      sync.Mutex
	callers map[string]bool // those that are given work, by name
	sent    map[string]int
	lost    []string
}

// instance is a pod of the service or of its callers.
type instance struct {
	bed.Service
	proxy bed.Proxy
	envoy *bed.Envoy
}

// deploy makes a pod with an application, and registers it with Consul.
func (g *migration) deploy(s bed.Service) *instance {
	g.Helper()
	pod, err := g.host.NewPod(s.ID)
	g.must(err)
	s.Pod = pod
	_, err = pod.StartApp(g.ctx, bed.AppOptions{})
	g.must(err)
	i := &instance{Service: s}
	i.proxy, err = g.cluster.Register(g.ctx, s)
	g.must(err)
	return i
}

func (g *migration) startLictor(i *instance) *bed.Envoy {
	g.Helper()
	e, err := g.lictor.Exec(g.ctx, i.Pod.Node, bed.ExecOptions{Proxy: i.proxy})
	g.must(err)
	return e
}

func (g *migration) startPlain(i *instance) *bed.Envoy {
	g.Helper()
	var doc map[string]any
	g.must(json.Unmarshal(i.proxy.Bootstrap(g.cluster.Server(0).XDS()), &doc))
	doc["layered_runtime"] = map[string]any{"layers": []any{map[string]any{ // for the pattern of Consul's intentions on HTTP
		"name": "base", "static_layer": map[string]any{"re2.max_program_size.error_level": 1 << 20},
	}}}
	text, err := json.Marshal(doc)
	g.must(err)
	e, err := i.Pod.StartEnvoy(g.ctx, bed.EnvoyOptions{Bootstrap: text})
	g.must(err)
	return e
}

func (g *migration) startDataplane(i *instance) *bed.Envoy {
	g.Helper()
	e, err := i.Pod.StartDataplane(g.ctx, bed.DataplaneOptions{Cluster: g.cluster, Proxy: i.proxy})
	g.must(err)
	return e
}

// begun is how long a request that was begun may take.
const begun = 500 * time.Millisecond

// move replaces the proxies of all pods, one after the other.
func (g *migration) move(where string, start func(*instance) *bed.Envoy) {
	g.Helper()
	began := time.Now()
	for _, s := range g.servers {
		g.ready(s, api.HealthCritical)
		g.offered(s, false)
		time.Sleep(begun)
		g.replace(s, start)
		g.ready(s, api.HealthPassing)
		g.offered(s, true)
	}
	for _, c := range g.clients {
		g.work(c, false)
		time.Sleep(begun)
		g.replace(c, start)
		for _, s := range g.servers {
			g.offered(s, true)
		}
		g.work(c, true)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.Logf("moved %s in %v; requests by caller: %v, lost: %d", where, time.Since(began).Round(100*time.Millisecond), g.sent, len(g.lost))
	if len(g.lost) > 0 {
		g.Errorf("moved %s: %d requests were lost:\n%s", where, len(g.lost), strings.Join(g.lost, "\n"))
	}
}

// ready tells Consul whether a pod's proxy is, as whatever looks after pods does.
func (g *migration) ready(i *instance, status string) {
	g.Helper()
	client, err := g.cluster.Client(g.ctx)
	g.must(err)
	_, err = client.Catalog().Register(&api.CatalogRegistration{
		Node: i.Pod.Host.Name + "-virtual", SkipNodeUpdate: true,
		Check: &api.AgentCheck{
			Node: i.Pod.Host.Name + "-virtual", CheckID: i.ID + "-ready", Name: "ready", Status: status, ServiceID: i.proxy.ID,
		},
	}, nil)
	g.must(err)
}

// replace ends a pod's proxy, and starts another in its place.
func (g *migration) replace(i *instance, start func(*instance) *bed.Envoy) {
	g.Helper()
	g.must(i.envoy.Signal(syscall.SIGTERM))
	select {
	case <-i.envoy.Done():
	case <-time.After(20 * time.Second):
		g.Fatalf("the proxy of %s has not ended", i.ID)
	}
	if _, registered := g.proxies()[i.proxy.ID]; registered {
		g.cli("deregister", i.proxy.ID)
	}
	i.envoy = start(i)
	g.up(i)
}

// offered waits until all callers' Envoys take a server for one that can be
// reached, or for one that cannot.
func (g *migration) offered(s *instance, want bool) {
	g.Helper()
	endpoint := fmt.Sprintf("::%s:20000::health_flags::healthy", s.Pod.Addr())
	for _, c := range g.clients {
		g.eventually(15*time.Second, func() error {
			text, err := c.envoy.Admin(g.ctx, http.MethodGet, "/clusters")
			if err != nil {
				return err
			}
			return expect("whether "+c.ID+" has "+s.ID, strings.Contains(string(text), endpoint), want)
		})
	}
}

func (g *migration) up(i *instance) {
	g.Helper()
	ctx, cancel := context.WithTimeout(g.ctx, 20*time.Second)
	defer cancel()
	g.must(i.envoy.WaitUp(ctx))
}

// work says whether a caller is to send requests.
func (g *migration) work(c *instance, on bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.callers[c.ID] = on
}

// flow lets all callers send requests until it is stopped.
func (g *migration) flow() (stop func()) {
	g.Helper()
	g.sent = map[string]int{}
	ctx, cancel := context.WithCancel(g.ctx)
	var wg sync.WaitGroup
	for _, c := range g.clients {
		g.work(c, true)
		wg.Go(func() {
			for ; ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
				g.mu.Lock()
				on := g.callers[c.ID]
				g.mu.Unlock()
				if !on {
					continue
				}
				err := echo(c.Pod)
				g.mu.Lock()
				if g.sent[c.ID]++; err != nil {
					g.lost = append(g.lost, fmt.Sprintf("%s at %s: %v", c.ID, time.Now().Format("15:04:05.000"), err))
				}
				g.mu.Unlock()
			}
		})
	}
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	g.Cleanup(stop)
	return stop
}

func echo(from *bed.Pod) error {
	resp, err := from.HTTPClient().Get("http://127.0.0.1:5000/")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && !strings.HasPrefix(string(body), "hello from echo-") {
		err = fmt.Errorf("%s: %q", resp.Status, body)
	}
	return err
}
