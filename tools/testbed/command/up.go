package command

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/spf13/cobra"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// plan is what `up` builds.
type plan struct {
	servers, hosts, pods int
	ipv6, envoy, lictor  bool
	tls, acl             bool
}

// mesh is what run has built of it.
type mesh struct {
	plan
	bed     *bed.Bed
	cluster *bed.Cluster
	lictor  *bed.Lictor // of the host that is being made; nil without
}

func up() *cobra.Command {
	var p plan
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Build a testbed and keep it until Ctrl-C or testbed down",
		Long: `Build a testbed and keep it until Ctrl-C or testbed down.

Pods are named web-1, web-2 and so on; in each listens an application on
127.0.0.1:8080 that says who it is, registered as service web. With --envoy each
pod has an Envoy with an upstream to web on 127.0.0.1:5000: connected to a server
directly, or with --lictor by lictor exec, through its VIP.

With --tls servers and clients verify each other, with --acl everything is denied
to whom has no token; the management token is printed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return p.run(cmd) },
	}
	f := cmd.Flags()
	f.IntVar(&p.servers, "servers", 3, "number of Consul servers")
	f.IntVar(&p.hosts, "hosts", 1, "number of hosts")
	f.IntVar(&p.pods, "pods", 2, "number of pods on each host")
	f.BoolVar(&p.ipv6, "ipv6", false, "let the servers advertise IPv6 addresses")
	f.BoolVar(&p.envoy, "envoy", false, "run an Envoy in each pod")
	f.BoolVar(&p.lictor, "lictor", false, "run bin/lictord on each host")
	f.BoolVar(&p.tls, "tls", false, "servers speak TLS, and ask clients for a certificate")
	f.BoolVar(&p.acl, "acl", false, "ACLs deny by default")
	return cmd
}

func (p plan) run(cmd *cobra.Command) (err error) {
	if p.servers < 1 || p.hosts < 0 || p.pods < 0 {
		return errors.New("--servers must be at least 1, --hosts and --pods at least 0")
	}
	if (p.tls || p.acl) && p.envoy && !p.lictor {
		return errors.New("--envoy connects to a server directly, plainly and without a token: with --tls or --acl add --lictor")
	}
	ctx, out := cmd.Context(), cmd.OutOrStdout()
	started := time.Now()
	b, err := bed.Open(bed.Options{Progress: cmd.ErrOrStderr()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	fmt.Fprintf(cmd.ErrOrStderr(), "starting %d Consul servers (usually 3 seconds)\n", p.servers)
	o := bed.ClusterOptions{Servers: p.servers, IPv6: p.ipv6, ACL: p.acl}
	if p.tls {
		o.TLS = bed.MutualTLS
	}
	m := mesh{plan: p, bed: b}
	if m.cluster, err = b.StartCluster(ctx, o); err != nil {
		return err
	}
	for i := range p.hosts {
		if err := m.host(ctx, i); err != nil {
			return err
		}
	}
	if err := b.Describe(); err != nil {
		return err
	}
	fmt.Fprintf(out, "testbed %s is up after %s\n", b.ID(), time.Since(started).Round(100*time.Millisecond))
	d, err := bed.ReadDescription(b.ID())
	if err != nil {
		return err
	}
	if err := table(cmd, d); err != nil {
		return err
	}
	fmt.Fprint(out, tryThis)
	if p.acl {
		fmt.Fprintf(out, "\nCONSUL_HTTP_TOKEN=%s may do everything.\n", bed.ManagementToken)
	}
	<-ctx.Done()
	fmt.Fprintln(out, "taking it down")
	return nil
}

const tryThis = `
try, in another terminal:
  go run ./tools/testbed exec consul-1 -- curl -s 127.0.0.1:8500/v1/status/leader
  go run ./tools/testbed exec consul-1 -- .cache/bin/consul members
Ctrl-C, or go run ./tools/testbed down, takes everything away.
`

// host makes the i-th host with its pods.
func (m *mesh) host(ctx context.Context, i int) error {
	h, err := m.bed.NewHost(fmt.Sprintf("host-%d", i+1))
	if err != nil {
		return err
	}
	if m.plan.lictor {
		if m.lictor, err = h.StartLictor(bed.LictorOptions{Cluster: m.cluster}); err != nil {
			return err
		}
		if err := m.lictor.WaitReady(ctx); err != nil {
			return err
		}
	}
	for j := range m.pods {
		if err := m.pod(ctx, h, i*m.pods+j); err != nil {
			return err
		}
	}
	return nil
}

// pod makes the n-th pod.
func (m *mesh) pod(ctx context.Context, h *bed.Host, n int) error {
	pod, err := h.NewPod(fmt.Sprintf("web-%d", n+1))
	if err != nil {
		return err
	}
	if _, err := pod.StartApp(ctx, bed.AppOptions{}); err != nil {
		return err
	}
	proxy, err := m.cluster.Register(ctx, bed.Service{
		Name: "web", Pod: pod,
		Upstreams: []api.Upstream{{DestinationName: "web", LocalBindPort: 5000}},
	})
	if err != nil || !m.envoy {
		return err
	}
	e, err := m.startEnvoy(ctx, pod, proxy, n)
	if err != nil {
		return err
	}
	return e.WaitUp(ctx)
}

func (m *mesh) startEnvoy(ctx context.Context, pod *bed.Pod, proxy bed.Proxy, n int) (*bed.Envoy, error) {
	if m.lictor == nil {
		server := m.cluster.Server(n % m.servers)
		return pod.StartEnvoy(ctx, bed.EnvoyOptions{Bootstrap: proxy.Bootstrap(server.XDS())})
	}
	o := bed.ExecOptions{Proxy: proxy}
	if m.acl {
		token, err := m.cluster.NewToken(ctx, bed.TokenOptions{Services: []string{proxy.Service}})
		if err != nil {
			return nil, err
		}
		o.Token = token.SecretID
	}
	return m.lictor.Exec(ctx, pod.Node, o)
}
