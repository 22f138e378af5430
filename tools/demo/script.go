package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// soon is the limit of a change's way to every Envoy. It is well below the 5 s
// after which Consul's catalog knows that a server died: what arrives in it did
// not wait for that.
const soon = 3 * time.Second

// script is what the demo does, in this order. The steps share the demo's
// fields; a step that sets what later ones read is needed.
func (d *demo) script() []step {
	var s scene
	on := func(do func(*scene, context.Context) (finding, error)) func(context.Context) (finding, error) {
		s.demo = d
		return func(ctx context.Context) (finding, error) { return do(&s, ctx) }
	}
	return []step{
		{"three Consul servers have elected a leader, under TLS and ACLs", time.Minute, true, on((*scene).startServers)},
		{"lictord is ready: a connect of its own has tried the hook", 20 * time.Second, true, d.startLictor},
		{"eight Envoys by lictor exec are configured, each through its VIP", time.Minute, true, on((*scene).startEnvoys)},
		{"they are spread evenly, and lictord counts what the kernel has", 5 * time.Second, false, on((*scene).spread)},
		{"a VIP is its owner's: a connect from another pod is not permitted", 5 * time.Second, false, on((*scene).strangers)},
		{"HTTP requests go from web to api and from shop to stock", 20 * time.Second, true, d.startRequests},
		{"a change of configuration reaches every Envoy", soon, false, on((*scene).change)},
		{"a token replaced, the old deleted: a change reaches every Envoy", 10 * time.Second, false, on((*scene).rotateToken)},
		{"kill -9 of a Consul server: a change then reaches every Envoy", soon, false, on((*scene).killServer)},
		{"the catalog drops the server; requests had gone on", 20 * time.Second, false, on((*scene).dropServer)},
		{"kill -9 of lictord: a new Envoy gets its configuration", 10 * time.Second, true, on((*scene).killLictor)},
		{"while lictord is dead a change reaches all nine Envoys", soon, false, on((*scene).change)},
		{"lictord is started again: the assignments are the same", 20 * time.Second, true, on((*scene).restartLictor)},
		{"the counts are intact, with what happened while it was dead", 5 * time.Second, false, on((*scene).compareCounts)},
		{"the killed server is back, and the next connects go to it", 45 * time.Second, false, on((*scene).restartServer)},
		{"a last change reaches all nine Envoys", soon, false, on((*scene).change)},
		{"no request failed, from the first to the last", 5 * time.Second, false, d.requestsHeld},
	}
}

// scene is what the steps tell each other.
type scene struct {
	demo   *demo
	victim *bed.Server // killed
	killed time.Time
	// answered are the requests that had been when the server was killed.
	answered int
	before   books // lictord's, as it was killed
}

func (s *scene) startServers(ctx context.Context) (finding, error) {
	m := s.demo.mesh
	var err error
	if m.cluster, err = m.bed.StartCluster(ctx, bed.ClusterOptions{Servers: 3, TLS: bed.MutualTLS, ACL: true}); err != nil {
		return finding{}, err
	}
	leader, err := m.cluster.Leader(ctx)
	if err != nil {
		return finding{}, err
	}
	if m.login, err = m.cluster.NewLogin(ctx, bed.LoginOptions{}); err != nil {
		return finding{}, err
	}
	return finding{note: "the leader is " + leader.Name + "; TLS is mutual, and without a token nothing is allowed"}, nil
}

func (d *demo) startLictor(ctx context.Context) (finding, error) {
	m := d.mesh
	host, err := m.bed.NewHost("host-1")
	if err != nil {
		return finding{}, err
	}
	if err := m.makePods(host); err != nil {
		return finding{}, err
	}
	started := time.Now()
	if m.lictor, err = host.StartLictor(bed.LictorOptions{Cluster: m.cluster}); err != nil {
		return finding{}, err
	}
	m.client = m.lictor.Client()
	if err := m.lictor.WaitReady(ctx); err != nil {
		return finding{}, err
	}
	took := time.Since(started)
	d.look()
	status, err := m.client.Status(ctx)
	if err == nil && !status.Attachment.InEffect {
		err = errors.New(status.Attachment.Problem)
	}
	return finding{took, "VIPs are in " + strings.Join(status.Pools, " and ")}, err
}

func (s *scene) startEnvoys(ctx context.Context) (finding, error) {
	m := s.demo.mesh
	if err := m.fillCatalog(ctx); err != nil {
		return finding{}, err
	}
	s.demo.feed.say("demo     %d more in the catalog, so that any server has room for all", elsewhere)
	took := make([]time.Duration, len(m.early()))
	var all errgroup.Group
	all.SetLimit(4) // there may be two cores only
	for i, who := range m.early() {
		all.Go(func() (err error) {
			if err := m.enlist(ctx, who); err != nil {
				return err
			}
			took[i], err = m.start(ctx, who)
			return err
		})
	}
	err := all.Wait()
	slices.Sort(took)
	return finding{note: fmt.Sprintf("each %s to %s after its lictor exec, as a user without rights", seconds(took[0]), seconds(took[len(took)-1]))}, err
}

func (s *scene) spread(ctx context.Context) (finding, error) {
	books, err := s.demo.mesh.agree(ctx)
	if err != nil {
		return finding{}, err
	}
	var loads []int
	var text []string
	for _, server := range s.demo.mesh.cluster.Servers() {
		loads = append(loads, books.streams[server.Name])
		text = append(text, fmt.Sprintf("%s %d", server.Name, books.streams[server.Name]))
	}
	if slices.Max(loads)-slices.Min(loads) > 1 {
		return finding{}, fmt.Errorf("streams differ by more than one: %s", strings.Join(text, ", "))
	}
	return finding{note: "streams: " + strings.Join(text, ", ")}, nil
}

// strangers connects to a VIP as its owner and as somebody else.
func (s *scene) strangers(ctx context.Context) (finding, error) {
	m := s.demo.mesh
	owner, stranger := m.members[0], m.members[1]
	own, err := connect(ctx, owner, owner.vip)
	if err != nil {
		return finding{}, err
	}
	if own.Peer != owner.vip || own.Server == own.Peer {
		return finding{}, fmt.Errorf("a connect from %s to its VIP %v came to %v, which getpeername calls %v", owner.name, owner.vip, own.Server, own.Peer)
	}
	_, err = connect(ctx, stranger, owner.vip)
	if err == nil {
		return finding{}, fmt.Errorf("%s could connect to the VIP of %s", stranger.name, owner.name)
	}
	if !errors.Is(err, unix.EPERM) {
		return finding{}, fmt.Errorf("a stranger is to get EPERM: %w", err)
	}
	return finding{note: fmt.Sprintf("%s reaches %v and sees its VIP, %v; %s: EPERM", owner.name, own.Server, own.Peer, stranger.name)}, nil
}

func (d *demo) startRequests(ctx context.Context) (finding, error) {
	for _, p := range d.mesh.pairs {
		if err := p.waitAnswer(ctx); err != nil {
			return finding{}, err
		}
		d.beside(p.run)
	}
	return finding{note: fmt.Sprintf("each pair sends one every %d ms from now on, on a new connection", requestsEvery.Milliseconds())}, nil
}

func (s *scene) change(ctx context.Context) (finding, error) {
	took, err := s.demo.mesh.change(ctx, time.Now())
	return finding{took: took.last()}, err
}

func (d *demo) requestsHeld(context.Context) (finding, error) {
	ok, failed := d.mesh.requests()
	if failed > 0 || ok == 0 {
		return finding{}, fmt.Errorf("%s were answered, %d failed: %s", plural(ok, "request"), failed, d.mesh.failures())
	}
	return finding{note: plural(ok, "request")}, nil
}

// connect connects from a member's pod, once.
func connect(ctx context.Context, who *member, to netip.AddrPort) (bed.Connected, error) {
	done, err := who.pod.Connect(ctx, bed.Connect{To: to})
	if err == nil && done.Errno != 0 {
		err = fmt.Errorf("connect from %s to %v: %w", who.name, to, done.Errno)
	}
	return done, err
}

// eventually calls try until it succeeds or the context ends, and then says
// what failed last.
func eventually(ctx context.Context, try func() error) error {
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(lookEvery):
		}
	}
}
