package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// member is a pod with a service, its proxy, and the Envoy that is it.
type member struct {
	name    string // of the pod, and id of the service
	service string
	calls   string // the service that it has as an upstream, or ""

	pod        *bed.Pod
	proxy      bed.Proxy
	vip        netip.AddrPort
	credential credential
	envoy      *bed.Envoy
}

// members of the mesh. Two pairs carry requests; the last one comes later.
func newMembers() []*member {
	return []*member{
		{name: "web", service: "web", calls: "api"},
		{name: "api", service: "api"},
		{name: "shop", service: "shop", calls: "stock"},
		{name: "stock", service: "stock"},
		{name: "job-1", service: "job"},
		{name: "job-2", service: "job"},
		{name: "job-3", service: "job"},
		{name: "job-4", service: "job"},
		{name: "late", service: "late"},
	}
}

// elsewhere is how many more proxies are in the catalog, as if on other hosts.
// Consul lets a server carry ceil(1.1 × proxies / servers) streams: with these
// it is 13, so that any server has room for all of this host.
const elsewhere = 25

// mesh is what the demo stands on. Its fields are set once, in order, before
// what reads them runs.
type mesh struct {
	bed     *bed.Bed
	cluster *bed.Cluster
	lictor  *bed.Lictor
	client  *v1.Client
	login   *bed.Login // the auth method of those who have no token of their own
	members []*member
	pairs   []*pair
	apps    []io.Closer

	mu      sync.Mutex
	changes int
}

// early are the members that are there from the beginning, late is the other.
func (m *mesh) early() []*member { return m.members[:len(m.members)-1] }
func (m *mesh) late() *member    { return m.members[len(m.members)-1] }

// makePods makes the pods and runs what listens in them.
func (m *mesh) makePods(host *bed.Host) error {
	for _, who := range m.members {
		pod, err := host.NewPod(who.name)
		if err != nil {
			return err
		}
		who.pod = pod
		app, err := serve(pod, who.name)
		if err != nil {
			return err
		}
		m.apps = append(m.apps, app)
	}
	for _, from := range m.members {
		if from.calls == "" {
			continue
		}
		i := slices.IndexFunc(m.members, func(to *member) bool { return to.name == from.calls })
		m.pairs = append(m.pairs, newPair(from, m.members[i]))
	}
	return nil
}

// fillCatalog writes to Consul what is about all of the mesh: HTTP, intentions,
// and the proxies elsewhere.
func (m *mesh) fillCatalog(ctx context.Context) error {
	for _, p := range m.pairs {
		for _, service := range []string{p.from.service, p.to.service} {
			entry := &api.ServiceConfigEntry{Kind: api.ServiceDefaults, Name: service, Protocol: "http"}
			if err := m.cluster.SetConfig(ctx, entry); err != nil {
				return err
			}
		}
		if err := m.cluster.Intend(ctx, p.from.service, p.to.service, api.IntentionActionAllow); err != nil {
			return err
		}
	}
	for i := range elsewhere {
		id := fmt.Sprintf("elsewhere-%d", i+1)
		s := bed.Service{Name: "elsewhere", ID: id, Node: "another-host", Addr: "10.66.255.1", Port: 8080, ProxyPort: 20000 + i}
		if _, err := m.cluster.Register(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// enlist makes a member known to Consul, and gives it what it gets its token by.
func (m *mesh) enlist(ctx context.Context, who *member) (err error) {
	s := bed.Service{Name: who.service, ID: who.name, Pod: who.pod}
	if who.calls != "" {
		s.Upstreams = []api.Upstream{{DestinationName: who.calls, LocalBindPort: upstreamPort}}
	}
	if who.proxy, err = m.cluster.Register(ctx, s); err != nil {
		return err
	}
	return m.provide(ctx, who)
}

// start starts a member's Envoy by lictor exec, in its pod and as a user without
// rights, and returns when it has its configuration, with the time that this took.
func (m *mesh) start(ctx context.Context, who *member) (time.Duration, error) {
	started := time.Now()
	envoy, err := m.lictor.Exec(ctx, who.pod.Node, bed.ExecOptions{Proxy: who.proxy, Credential: who.credential.Credential})
	if err != nil {
		return 0, err
	}
	if err := envoy.WaitUp(ctx); err != nil {
		return 0, err
	}
	took := time.Since(started)
	who.envoy = envoy
	p, err := m.client.Proxy(ctx, who.proxy.ID)
	if err != nil {
		return 0, err
	}
	return took, who.promised(p.VIP, p.Port)
}

// promised notes a member's VIP.
func (who *member) promised(vip string, port uint16) error {
	addr, err := netip.ParseAddr(vip)
	if err != nil {
		return fmt.Errorf("lictord promised %s the VIP %q: %w", who.name, vip, err)
	}
	who.vip = netip.AddrPortFrom(addr, port)
	return nil
}

// prepare registers a member that has a token of its own with lictord and returns
// its bootstrap: all that a lictor exec would need of lictord.
func (m *mesh) prepare(ctx context.Context, who *member) (bootstrap []byte, err error) {
	if err := m.enlist(ctx, who); err != nil {
		return nil, err
	}
	r, err := m.client.Register(ctx, who.proxy.ID, v1.RegisterRequest{
		NodeName: who.proxy.NodeName, Netns: who.pod.Netns.Path, Credential: who.credential.static(),
	})
	if err != nil {
		return nil, fmt.Errorf("register %s with lictord: %w", who.name, err)
	}
	if err := who.promised(r.VIP, r.Port); err != nil {
		return nil, err
	}
	return bootstrap, eventually(ctx, func() error { // lictord asks Consul with the token first
		bootstrap, err = m.client.Bootstrap(ctx, who.proxy.ID)
		return err
	})
}

// startWith starts a member's Envoy with a bootstrap that is there already.
func (m *mesh) startWith(ctx context.Context, who *member, bootstrap []byte) (time.Duration, error) {
	started := time.Now()
	envoy, err := who.pod.StartEnvoy(ctx, bed.EnvoyOptions{Bootstrap: bootstrap})
	if err != nil {
		return 0, err
	}
	who.envoy = envoy
	err = envoy.WaitUp(ctx)
	return time.Since(started), err
}

// running are the members whose Envoy has been started.
func (m *mesh) running() (out []*member) {
	for _, who := range m.members {
		if who.envoy != nil {
			out = append(out, who)
		}
	}
	return out
}

// memberOf names the member whose proxy that is.
func memberOf(proxyID string) string {
	return strings.TrimSuffix(proxyID, "-sidecar-proxy")
}

// streams counts a member's connections to each server, as the kernel has them.
func (m *mesh) streams(who *member) (map[string]int, error) {
	count, err := m.cluster.XDSServers(who.pod.Node)
	if err != nil {
		return nil, err
	}
	out := map[string]int{}
	for server, n := range count {
		out[server.Name] = n
	}
	return out, nil
}

// close ends what is not a process of the bed, and then the bed.
func (m *mesh) close() error {
	var errs []error
	for _, app := range m.apps {
		errs = append(errs, app.Close())
	}
	if m.client != nil {
		m.client.Close()
	}
	return errors.Join(append(errs, m.bed.Close())...)
}
