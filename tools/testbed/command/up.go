package command

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/spf13/cobra"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// plan is what `up` builds.
type plan struct {
	servers, hosts, pods int
	ipv6, envoy, lictor  bool
}

func up() *cobra.Command {
	var p plan
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Build a testbed and keep it until Ctrl-C or testbed down",
		Long: `Build a testbed and keep it until Ctrl-C or testbed down.

Pods are named web-1, web-2 and so on; in each listens an application on
127.0.0.1:8080 that says who it is, registered as service web. With --envoy each
pod has an Envoy with an upstream to web on 127.0.0.1:5000.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return p.run(cmd) },
	}
	f := cmd.Flags()
	f.IntVar(&p.servers, "servers", 3, "number of Consul servers")
	f.IntVar(&p.hosts, "hosts", 1, "number of hosts")
	f.IntVar(&p.pods, "pods", 2, "number of pods on each host")
	f.BoolVar(&p.ipv6, "ipv6", false, "let the servers advertise IPv6 addresses")
	f.BoolVar(&p.envoy, "envoy", false, "run an Envoy in each pod, connected to a server directly")
	f.BoolVar(&p.lictor, "lictor", false, "run bin/lictord on each host")
	return cmd
}

func (p plan) run(cmd *cobra.Command) (err error) {
	if p.servers < 1 || p.hosts < 0 || p.pods < 0 {
		return errors.New("--servers must be at least 1, --hosts and --pods at least 0")
	}
	ctx, out := cmd.Context(), cmd.OutOrStdout()
	started := time.Now()
	b, err := bed.Open(bed.Options{Progress: cmd.ErrOrStderr()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	fmt.Fprintf(cmd.ErrOrStderr(), "starting %d Consul servers (usually 3 seconds)\n", p.servers)
	cluster, err := b.StartCluster(ctx, bed.ClusterOptions{Servers: p.servers, IPv6: p.ipv6})
	if err != nil {
		return err
	}
	for i := range p.hosts {
		if err := p.host(cmd, b, cluster, i); err != nil {
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
func (p plan) host(cmd *cobra.Command, b *bed.Bed, cluster *bed.Cluster, i int) error {
	ctx := cmd.Context()
	h, err := b.NewHost(fmt.Sprintf("host-%d", i+1))
	if err != nil {
		return err
	}
	if p.lictor {
		l, err := h.StartLictor(bed.LictorOptions{Cluster: cluster})
		if err != nil {
			return err
		}
		if err := l.WaitReady(ctx); err != nil {
			return err
		}
	}
	for j := range p.pods {
		pod, err := h.NewPod(fmt.Sprintf("web-%d", i*p.pods+j+1))
		if err != nil {
			return err
		}
		if err := serve(pod); err != nil {
			return err
		}
		proxy, err := cluster.Register(ctx, bed.Service{
			Name: "web", Pod: pod,
			Upstreams: []api.Upstream{{DestinationName: "web", LocalBindPort: 5000}},
		})
		if err != nil {
			return err
		}
		if !p.envoy {
			continue
		}
		server := cluster.Server(j % p.servers)
		e, err := pod.StartEnvoy(ctx, bed.EnvoyOptions{Bootstrap: proxy.Bootstrap(server.XDS())})
		if err != nil {
			return err
		}
		if err := e.WaitUp(ctx); err != nil {
			return err
		}
	}
	return nil
}

// serve runs the application of a pod, in this process, until the bed is closed.
func serve(pod *bed.Pod) error {
	l, err := pod.Listen("tcp", "127.0.0.1:8080")
	if err != nil {
		return err
	}
	app := &http.Server{
		ReadHeaderTimeout: 5 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintln(w, "hello from", pod.Name)
		}),
	}
	go func() { _ = app.Serve(l) }() // ends with this process, as the bed does
	return nil
}
