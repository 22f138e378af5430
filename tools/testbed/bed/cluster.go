package bed

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/lictor-mesh/lictor/tools/testbed/binaries"
)

// ClusterOptions of a cluster.
type ClusterOptions struct {
	Servers int            // default 3
	IPv6    bool           // servers advertise their IPv6 addresses
	Config  map[string]any // laid over every server's configuration, as Consul's agent reads it
	TLS     TLS            // of HTTPS and gRPC; default none
	ACL     bool           // deny by default
	Token   string         // that the API clients use; default, with ACL: [ManagementToken]
}

// Cluster is a set of real Consul servers. Its methods may be called concurrently.
type Cluster struct {
	bed     *Bed
	binary  string
	options ClusterOptions
	expect  int // bootstrap_expect, 0 once there is a leader

	mu        sync.Mutex
	servers   []*Server
	made      int // servers ever, for names
	authority authority
}

// StartCluster starts Consul servers and waits until they have elected a leader
// and all are in the catalog and passing.
func (b *Bed) StartCluster(ctx context.Context, o ClusterOptions) (*Cluster, error) {
	if o.Servers == 0 {
		o.Servers = 3
	}
	binary, err := binaries.Consul(ctx, b.progress)
	if err != nil {
		return nil, err
	}
	if o.ACL && o.Token == "" {
		o.Token = ManagementToken
	}
	c := &Cluster{bed: b, binary: binary, options: o, expect: o.Servers}
	if err := c.startTLS(); err != nil {
		return nil, err
	}
	for range o.Servers { // all before the first starts: each joins all others
		if _, err := c.newServer(); err != nil {
			return nil, err
		}
	}
	for _, s := range c.Servers() {
		if err := s.start(); err != nil {
			return nil, err
		}
	}
	if err := c.WaitLeader(ctx); err != nil {
		return nil, err
	}
	c.expect = 0
	return c, c.WaitServers(ctx, o.Servers)
}

func (c *Cluster) newServer() (*Server, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.made++
	name := fmt.Sprintf("consul-%d", c.made)
	node, err := c.bed.newNode("server", name, "servers", name)
	if err != nil {
		return nil, err
	}
	s := &Server{Node: node, cluster: c}
	if err := s.prepareTLS(c.authority); err != nil {
		return nil, err
	}
	c.servers = append(c.servers, s)
	return s, nil
}

// Servers returns the servers in the order of their making.
func (c *Cluster) Servers() []*Server {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.servers)
}

// Server returns the i-th server, counted from 0.
func (c *Cluster) Server(i int) *Server { return c.Servers()[i] }

// Addresses are the servers' addresses, separated by commas, as
// --consul-addresses takes them.
func (c *Cluster) Addresses() string {
	var out []string
	for _, s := range c.Servers() {
		out = append(out, s.bindAddr())
	}
	return strings.Join(out, ",")
}

// AddServer starts one more server and waits until it is a passing member.
func (c *Cluster) AddServer(ctx context.Context) (*Server, error) {
	s, err := c.newServer()
	if err != nil {
		return nil, err
	}
	if err := s.start(); err != nil {
		return nil, err
	}
	if err := s.WaitReady(ctx); err != nil {
		return nil, err
	}
	return s, c.WaitServers(ctx, len(c.Servers()))
}

// Leader returns the server that is the leader, as a majority of the servers
// say it, or an error.
func (c *Cluster) Leader(ctx context.Context) (*Server, error) {
	votes := map[string]int{}
	servers := c.Servers()
	for _, s := range servers {
		if p := s.Process(); p == nil || !p.Alive() {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, shortCall)
		leader, err := s.Client().Status().LeaderWithQueryOptions((&api.QueryOptions{}).WithContext(ctx))
		cancel()
		if err == nil && leader != "" {
			votes[leader]++
		}
	}
	for leader, n := range votes {
		if n <= len(servers)/2 {
			continue
		}
		for _, s := range servers {
			if leader == hostPort(s.bindAddr(), 8300) {
				return s, nil
			}
		}
		return nil, fmt.Errorf("leader %s is none of the servers", leader)
	}
	return nil, fmt.Errorf("find leader: votes are %v", votes)
}

// WaitLeader waits until a majority of the servers agree on a leader that
// answers consistent reads.
func (c *Cluster) WaitLeader(ctx context.Context) error {
	return until(ctx, "there is a leader", func() error {
		for _, s := range c.Servers() {
			if err := s.Process().ended(); err != nil && c.expect > 0 {
				return err // of a cluster that is starting, none may die
			}
		}
		ctx, cancel := context.WithTimeout(ctx, 2*shortCall)
		defer cancel()
		leader, err := c.Leader(ctx)
		if err != nil {
			return err
		}
		q := (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx)
		_, _, err = leader.Client().Catalog().Nodes(q)
		return err
	})
}

// WaitServers waits until the catalog has exactly n passing servers with their
// gRPC ports.
func (c *Cluster) WaitServers(ctx context.Context, n int) error {
	return until(ctx, fmt.Sprintf("the catalog has %d passing servers", n), func() error {
		have, err := c.passing(ctx)
		if err == nil && len(have) != n {
			err = fmt.Errorf("it has %v", have)
		}
		return err
	})
}

// passing names the servers that the catalog lists as passing.
func (c *Cluster) passing(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*shortCall) // the leader may be lost meanwhile
	defer cancel()
	client, err := c.Client(ctx)
	if err != nil {
		return nil, err
	}
	entries, _, err := client.Health().Service("consul", "", true, (&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return nil, err
	}
	var have []string
	for _, e := range entries {
		if e.Service.Meta["grpc_port"] != "" || e.Service.Meta["grpc_tls_port"] != "" {
			have = append(have, e.Node.Node)
		}
	}
	return have, nil
}

// Client is an API client of the leader, so that nothing it reads is stale. A
// server that was cut off and still takes itself for the leader is not chosen.
func (c *Cluster) Client(ctx context.Context) (*api.Client, error) {
	leader, err := c.Leader(ctx)
	if err != nil {
		return nil, err
	}
	return leader.Client(), nil
}

func hostPort(addr string, port int) string {
	if strings.Contains(addr, ":") {
		addr = "[" + addr + "]"
	}
	return addr + ":" + strconv.Itoa(port)
}

// shortCall bounds a question to a server that may be stopped or cut off.
const shortCall = time.Second
