// Package fleet shows what hosts agree on through Consul: drains that hold for
// all of them, their reports, and what is left of those that never come back.
package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/tools/e2e/stage"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// world is a mesh of several hosts.
type world struct {
	testing.TB
	ctx     context.Context
	bed     *bed.Bed
	cluster *bed.Cluster
	hosts   []*host
}

// host is a machine with its lictord and, where there are some, its streams.
type host struct {
	*bed.Host
	lictor  *bed.Lictor
	options bed.LictorOptions
	streams *bed.Fleet
}

// newWorld makes three Consul servers, with ACLs that permit what no policy
// forbids, and so many hosts.
func newWorld(t *testing.T, hosts int) *world {
	t.Helper()
	w := newBareWorld(t, bed.ClusterOptions{Token: bed.ManagementToken, Config: map[string]any{
		"acl": map[string]any{
			"enabled": true, "default_policy": "allow",
			"tokens": map[string]any{"initial_management": bed.ManagementToken},
		},
	}})
	for range hosts {
		w.addHost("")
	}
	return w
}

// newBareWorld makes three Consul servers and no host.
func newBareWorld(t *testing.T, o bed.ClusterOptions) *world {
	t.Helper()
	ctx, b := stage.New(t, 2*time.Minute)
	w := &world{TB: t, ctx: ctx, bed: b}
	var err error
	w.cluster, err = w.bed.StartCluster(ctx, o)
	w.must(err)
	return w
}

// addHost makes a host whose lictord has a token of these rules, or none.
func (w *world) addHost(rules string) *host {
	w.Helper()
	made, err := w.bed.NewHost(fmt.Sprintf("host-%d", len(w.hosts)+1))
	w.must(err)
	h := &host{Host: made, options: bed.LictorOptions{Cluster: w.cluster}}
	if rules != "" {
		token, err := w.cluster.NewToken(w.ctx, bed.TokenOptions{Rules: rules})
		w.must(err)
		file := filepath.Join(made.Dir, "token")
		w.must(os.WriteFile(file, []byte(token.SecretID+"\n"), 0o600))
		h.options.Args = []string{"--consul-token-file=" + file}
	}
	h.lictor, err = made.StartLictor(h.options)
	w.must(err)
	w.must(h.lictor.WaitReady(w.ctx))
	w.hosts = append(w.hosts, h)
	return h
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// connect opens n xDS streams from a host, each by a VIP of its own.
func (w *world) connect(h *host, n int) {
	w.Helper()
	var err error
	h.streams, err = h.StartFleet()
	w.must(err)
	client := h.lictor.Client()
	defer client.Close()
	for i := range n {
		p, err := w.cluster.Register(w.ctx, bed.Service{Name: "web", ID: fmt.Sprintf("%s-web-%d", h.Name, i), Node: h.Name + "-virtual"})
		w.must(err)
		r, err := client.Register(w.ctx, p.ID, v1.RegisterRequest{NodeName: p.NodeName, Owner: v1.OwnerAny})
		w.must(err)
		w.must(h.streams.Add(p, netip.AddrPortFrom(netip.MustParseAddr(r.VIP), r.Port), nil))
	}
}

// cli runs a command of lictor's on a host and returns its output.
func (w *world) cli(h *host, args ...string) string {
	w.Helper()
	out, err := h.lictor.CLI(w.ctx, h.Node, args...)
	if err != nil {
		w.Fatalf("lictor %s on %s: %v", strings.Join(args, " "), h.Name, err)
	}
	return string(out)
}

// refused runs a command that must fail, and returns what it says.
func (w *world) refused(h *host, args ...string) string {
	w.Helper()
	out, err := h.lictor.CLI(w.ctx, h.Node, args...)
	if err == nil {
		w.Fatalf("lictor %s on %s is no failure: %s", strings.Join(args, " "), h.Name, out)
	}
	return err.Error()
}

// drained says what is drained on a host: "consul-2 by fleet: …, …".
func (w *world) drained(h *host) string {
	client := h.lictor.Client()
	defer client.Close()
	servers, err := client.Servers(w.ctx)
	if err != nil {
		return err.Error()
	}
	var all []string
	for _, s := range servers {
		if s.Drained {
			all = append(all, s.ID+" by "+s.DrainedBy)
		}
	}
	return strings.Join(all, ", ")
}

// allDrained waits until that is drained on every host.
func (w *world) allDrained(within time.Duration, want string) {
	w.Helper()
	for _, h := range w.hosts {
		w.eventually(within, "drained on "+h.Name, func() string { return w.drained(h) }, want)
	}
}

// fleet is what a host knows of the fleet.
func (w *world) fleet(h *host) v1.Fleet {
	w.Helper()
	var f v1.Fleet
	w.must(json.Unmarshal([]byte(w.cli(h, "fleet", "--json")), &f))
	return f
}

// reporting names the hosts that report, as a host sees them.
func (w *world) reporting(h *host) string {
	w.Helper()
	var names []string
	for _, r := range w.fleet(h).Hosts {
		if !r.Silent && r.Ready {
			names = append(names, r.Node)
		}
	}
	return strings.Join(names, " ")
}

func (w *world) status(h *host) v1.Status {
	w.Helper()
	client := h.lictor.Client()
	defer client.Close()
	s, err := client.Status(w.ctx)
	w.must(err)
	return s
}

// on counts a host's streams on a server.
func (w *world) on(h *host, id string) int {
	w.Helper()
	for _, s := range w.cluster.Servers() {
		if s.Name == id {
			return h.streams.Servers()[s.XDS()]
		}
	}
	w.Fatalf("there is no %s", id)
	return 0
}

// total counts a host's streams.
func total(h *host) (n int) {
	for _, up := range slices.Collect(maps.Values(h.streams.Servers())) {
		n += up
	}
	return n
}

// consul is an API client of an operator.
func (w *world) consul() *api.Client {
	w.Helper()
	client, err := w.cluster.Client(w.ctx)
	w.must(err)
	return client
}

// eventually waits until something is what it should be.
func (w *world) eventually(within time.Duration, what string, got func() string, want string) {
	w.Helper()
	stage.Eventually(w.ctx, w, within, func() error {
		if is := got(); is != want {
			return fmt.Errorf("%s is %q, want %q", what, is, want)
		}
		return nil
	})
}
