package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// service is of all Envoys, so that one intention is a change for each.
const service = "web"

// register makes the catalog have the scenario's proxies and no others, and
// waits until the servers' limits are made of them.
func (r *round) register(ctx context.Context) error {
	client, err := r.cluster.Client(ctx)
	if err != nil {
		return err
	}
	have, _, err := client.Catalog().Service(service+"-sidecar-proxy", "", nil)
	if err != nil {
		return fmt.Errorf("list proxies: %w", err)
	}
	want := r.scenario.envoys() + r.absent()
	for i := want; i < len(have); i++ {
		if err := r.cluster.Deregister(ctx, instance(i)); err != nil {
			return err
		}
	}
	for i := range want {
		if _, err := r.cluster.Register(ctx, instance(i)); err != nil {
			return err
		}
	}
	if err := r.votes(ctx); err != nil {
		return err
	}
	return sleep(ctx, 2*time.Second) // servers count proxies once a second
}

// instance is the i-th instance of the service, whose Envoy listens wherever it is.
func instance(i int) bed.Service {
	return bed.Service{
		Name: service, ID: fmt.Sprintf("%s-%d", service, i), Node: "virtual", Addr: "10.66.255.1",
		Config: map[string]any{"bind_address": "0.0.0.0"},
	}
}

// votes waits until all servers have a vote and are ready: what limits are made of.
func (r *round) votes(ctx context.Context) error {
	for {
		err := r.haveVotes(ctx)
		if err == nil {
			return nil
		}
		if late := sleep(ctx, 100*time.Millisecond); late != nil {
			return errors.Join(late, err)
		}
	}
}

func (r *round) haveVotes(ctx context.Context) error {
	client, err := r.cluster.Client(ctx)
	if err != nil {
		return err
	}
	health, err := client.Operator().AutopilotServerHealth(nil)
	if err != nil {
		return fmt.Errorf("ask for the servers' health: %w", err)
	}
	if !health.Healthy || len(health.Servers) != len(r.cluster.Servers()) {
		return fmt.Errorf("%d servers, all healthy: %v", len(health.Servers), health.Healthy)
	}
	for _, s := range health.Servers {
		if !s.Voter {
			return fmt.Errorf("%s has no vote", s.Name)
		}
	}
	return nil
}

// start starts a host and the Envoys, and waits until each has its
// configuration and stays on its server.
func (r *round) start(ctx context.Context) (err error) {
	if r.host, err = r.bed.NewHost(fmt.Sprintf("host-%d", r.number)); err != nil {
		return err
	}
	r.lictor, err = r.host.StartLictor(bed.LictorOptions{Cluster: r.cluster})
	if err != nil {
		return err
	}
	if err := r.lictor.WaitReady(ctx); err != nil {
		return err
	}
	for i := range r.scenario.envoys() {
		e, err := r.startEnvoy(ctx, i)
		if err != nil {
			return err
		}
		r.envoys = append(r.envoys, e)
	}
	var group errgroup.Group
	for _, e := range r.envoys {
		group.Go(func() error { return e.waitUp(ctx) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return r.settle(ctx)
}

// settle waits until for three seconds no stream has moved.
func (r *round) settle(ctx context.Context) error {
	var last string
	since := time.Now()
	for time.Since(since) < 3*time.Second {
		var now string
		for _, e := range r.envoys {
			s, _, err := e.server(r.cluster)
			if err != nil {
				return err
			}
			if s == nil {
				now += time.Now().String() // on its way: not settled
			} else {
				now += s.Name + " "
			}
		}
		if now != last {
			last, since = now, time.Now()
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("streams do not settle: %w", err)
		}
	}
	return nil
}

func (r *round) startEnvoy(ctx context.Context, i int) (*envoy, error) {
	pod, err := r.host.NewPod(fmt.Sprintf("%s-%d", r.host.Name, i))
	if err != nil {
		return nil, err
	}
	s := instance(i)
	proxy := bed.Proxy{ID: s.ID + "-sidecar-proxy", Service: service, NodeName: s.Node}
	e := newEnvoy(pod)
	if r.setup == dataplane {
		_, err := pod.StartDataplane(ctx, bed.DataplaneOptions{Cluster: r.cluster, Proxy: proxy})
		return e, err
	}
	if _, err := r.lictor.CLI(ctx, pod.Node, "register", proxy.ID, "--node-name="+proxy.NodeName); err != nil {
		return nil, err
	}
	doc, err := r.lictor.CLI(ctx, pod.Node, "bootstrap", proxy.ID)
	if err != nil {
		return nil, err
	}
	if r.setup == list {
		if doc, err = listing(doc, r.cluster.Servers()); err != nil {
			return nil, err
		}
	}
	_, err = pod.StartEnvoy(ctx, bed.EnvoyOptions{Bootstrap: doc})
	return e, err
}

// listing puts all servers in the place of the VIP.
func listing(bootstrap []byte, servers []*bed.Server) ([]byte, error) {
	var doc map[string]any
	if err := json.Unmarshal(bootstrap, &doc); err != nil {
		return nil, fmt.Errorf("read bootstrap: %w", err)
	}
	var endpoints []any
	for _, s := range servers {
		endpoints = append(endpoints, map[string]any{"endpoint": map[string]any{"address": map[string]any{
			"socket_address": map[string]any{"address": s.XDS().Addr().String(), "port_value": s.XDS().Port()},
		}}})
	}
	static, _ := doc["static_resources"].(map[string]any)
	clusters, _ := static["clusters"].([]any)
	for _, c := range clusters {
		cluster, _ := c.(map[string]any)
		if cluster["name"] != "consul-servers" {
			continue
		}
		assignment, _ := cluster["load_assignment"].(map[string]any)
		assignment["endpoints"] = []any{map[string]any{"lb_endpoints": endpoints}}
		return json.Marshal(doc)
	}
	return nil, errors.New("the bootstrap has no cluster named consul-servers")
}

// victim is the server, not the leader, that has most streams: a change is made
// by the leader, which must be there.
func (r *round) victim(ctx context.Context) (victim, leader *bed.Server, err error) {
	if leader, err = r.cluster.Leader(ctx); err != nil {
		return nil, nil, err
	}
	streams := map[*bed.Server]int{}
	for _, e := range r.envoys {
		on, _, err := e.server(r.cluster)
		if err != nil {
			return nil, nil, err
		}
		streams[on]++
	}
	for _, s := range r.cluster.Servers() {
		if s != leader && streams[s] > 0 && (victim == nil || streams[s] > streams[victim]) {
			victim = s
		}
	}
	if victim == nil {
		return nil, nil, fmt.Errorf("no server but the leader has streams: %v", streams)
	}
	return victim, leader, nil
}

// clear takes the host away.
func (r *round) clear() error {
	if r.host == nil {
		return nil
	}
	var errs []error
	for _, p := range r.host.Pods() {
		errs = append(errs, p.Remove())
	}
	return errors.Join(append(errs, r.host.Remove(), os.RemoveAll(r.host.BPFFS))...)
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
