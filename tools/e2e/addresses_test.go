package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// file writes a file of the host's.
func (w *world) file(name, text string, mode os.FileMode) string {
	w.Helper()
	path := filepath.Join(w.host.Dir, name)
	w.must(os.WriteFile(path, []byte(text), mode))
	return path
}

// servers are the ids of those that lictord lists, sorted.
func (w *world) servers() (ids []string) {
	w.Helper()
	client := w.lictor.Client()
	defer client.Close()
	list, err := client.Servers(w.ctx)
	w.must(err)
	for _, s := range list {
		if s.Listed {
			ids = append(ids, s.ID)
		}
	}
	slices.Sort(ids)
	return ids
}

// One server is enough to find the others by, whether its address is given, a
// name that DNS knows, or what a command prints.
func TestTheFirstServerIsFound(t *testing.T) {
	w := newBareWorld(t, time.Minute, bed.ClusterOptions{Servers: 3})
	one := w.cluster.Server(1).Addr()
	hosts := w.file("hosts", fmt.Sprintf("127.0.0.1 localhost\n%s consul.test\n", one), 0o644)
	command := w.file("servers", fmt.Sprintf("#!/bin/sh\necho %s\n", one), 0o755)
	for name, o := range map[string]bed.LictorOptions{
		"address":           {Args: []string{"--consul-addresses=" + one.String()}},
		"DNS name":          {Args: []string{"--consul-addresses=consul.test"}, Files: map[string]string{"/etc/hosts": hosts}},
		"command":           {Args: []string{"--consul-addresses=exec=" + command}},
		"from environment":  {Env: []string{"LICTOR_CONSUL_ADDRESSES=" + one.String()}},
		"with one not here": {Args: []string{"--consul-addresses=10.66.255.9," + one.String()}},
	} {
		t.Run(name, func(t *testing.T) {
			on := *w // a host of its own, on which nobody knows anything
			on.TB = t
			var err error
			on.host, err = w.bed.NewHost(strings.ReplaceAll(name, " ", "-"))
			w.must(err)
			on.startLictor(o)
			on.eventually(10*time.Second, func() error {
				if got := on.servers(); !slices.Equal(got, []string{"consul-1", "consul-2", "consul-3"}) {
					return fmt.Errorf("servers are %v", got)
				}
				return nil
			})
		})
	}
}

// A name that does not resolve, and a command that fails, are said with what to
// do; lictord goes on trying and finds the servers when it is mended.
func TestServersThatCannotBeFoundAreSaid(t *testing.T) {
	w := newBareWorld(t, time.Minute, bed.ClusterOptions{Servers: 1})
	script := w.file("servers", "#!/bin/sh\necho no inventory today >&2\nexit 3\n", 0o755)
	var err error
	w.lictor, err = w.host.StartLictor(bed.LictorOptions{Args: []string{"--consul-addresses=exec=" + script}})
	w.must(err)
	w.must(w.lictor.WaitSocket(w.ctx))
	w.eventually(10*time.Second, func() error { return said(w.status(), "no inventory today") })
	if _, err := w.lictor.Get(w.ctx, "/readyz"); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("readyz = %v, want 503", err)
	}
	w.file("servers", fmt.Sprintf("#!/bin/sh\necho %s\n", w.cluster.Server(0).Addr()), 0o755)
	w.must(w.lictor.WaitReady(w.ctx))
	w.eventually(5*time.Second, w.isInContact)
}

// With --server-watch-disabled Consul is not asked: the addresses given are the
// servers, as for a load balancer, and a proxy gets its stream through its VIP.
func TestWithoutAWatchTheGivenAddressesAreUsed(t *testing.T) {
	w := newBareWorld(t, time.Minute, bed.ClusterOptions{Servers: 3})
	balancer := w.cluster.Server(2)
	w.startLictor(bed.LictorOptions{Args: []string{
		"--server-watch-disabled", "--consul-addresses=" + balancer.Addr().String(),
		fmt.Sprintf("--consul-grpc-port=%d", balancer.GRPCPort()),
	}})
	if got, want := w.servers(), []string{balancer.XDS().String()}; !slices.Equal(got, want) {
		t.Errorf("servers are %v, want %v", got, want)
	}
	m := w.join("web")
	e := w.envoy(m)
	w.must(e.WaitUp(w.ctx))
	streams, err := w.cluster.XDSServers(m.pod.Node)
	w.must(err)
	if len(streams) != 1 || streams[balancer] != 1 {
		t.Errorf("streams are on %v, want one on %s", streams, balancer.Name)
	}
	w.must(w.cluster.Server(0).Remove(w.ctx)) // whatever Consul says of others
	time.Sleep(time.Second)
	if got := w.servers(); len(got) != 1 {
		t.Errorf("servers are %v", got)
	}
	if len(w.status().Problems) > 0 {
		t.Errorf("problems: %q", w.status().Problems)
	}
}
