package bed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/lictor-mesh/lictor/tools/testbed/pki"
)

// Ports of every server, unless its configuration says otherwise.
const (
	HTTPPort        = 8500
	DefaultGRPCPort = 8502
	DNSPort         = 8600
)

// Server is a real Consul server. Its methods may be called concurrently, those
// which start and end it one at a time.
type Server struct {
	*Node
	cluster *Cluster
	tls     *pki.Files // nil without TLS

	mu     sync.Mutex
	config map[string]any // the server's own, over the cluster's
	proc   *Process
}

// start writes the configuration, which may have changed, and runs Consul.
func (s *Server) start() error {
	path := filepath.Join(s.Dir, "consul.json")
	text, err := json.MarshalIndent(s.configuration(), "", "  ")
	if err != nil {
		return fmt.Errorf("configure %s: %w", s.Name, err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return fmt.Errorf("configure %s: %w", s.Name, err)
	}
	p, err := s.Node.Start(Command{
		Name: "consul", Path: s.cluster.binary, Args: []string{"agent", "-config-file=" + path},
		Env: []string{"GOMAXPROCS=2", "GOMEMLIMIT=256MiB"}, // many servers share the machine
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.proc = p
	s.mu.Unlock()
	return nil
}

// configuration is what Consul reads. It is made anew at each start, as the
// addresses of the others may have changed.
func (s *Server) configuration() map[string]any {
	bind, client := s.Addr().String(), s.Addr().String()+" 127.0.0.1"
	if s.Addr6().IsValid() {
		client += " " + s.Addr6().String()
		if s.cluster.options.IPv6 {
			bind = s.Addr6().String()
		}
	}
	var others []string
	for _, o := range s.cluster.Servers() {
		if o != s {
			others = append(others, o.bindAddr())
		}
	}
	c := map[string]any{
		"node_name": s.Name, "datacenter": "dc1", "server": true,
		"data_dir":  filepath.Join(s.Dir, "data"),
		"bind_addr": bind, "advertise_addr": bind, "client_addr": client,
		"retry_join": others, "retry_interval": "500ms",
		"log_level": "warn", "disable_update_check": true,
		"leave_on_terminate": false, "skip_leave_on_interrupt": true,
		"connect":     map[string]any{"enabled": true},
		"performance": map[string]any{"raft_multiplier": 1, "leave_drain_time": "1s"},
		"telemetry":   map[string]any{"disable_hostname": true, "prefix_filter": []string{"-consul"}},
		"ports":       map[string]any{"http": HTTPPort, "grpc": DefaultGRPCPort, "grpc_tls": -1, "dns": DNSPort, "serf_wan": -1},
	}
	if s.cluster.expect > 0 {
		c["bootstrap_expect"] = s.cluster.expect
	}
	overlay(c, s.tlsConfiguration())
	overlay(c, s.cluster.aclConfiguration())
	overlay(c, s.cluster.options.Config)
	s.mu.Lock()
	own := s.config
	s.mu.Unlock()
	overlay(c, own)
	return c
}

// bindAddr is where the other servers reach it.
func (s *Server) bindAddr() string {
	if s.cluster.options.IPv6 && s.Addr6().IsValid() {
		return s.Addr6().String()
	}
	return s.Addr().String()
}

// overlay writes src over dst, going into objects that both have.
func overlay(dst, src map[string]any) {
	for k, v := range src {
		from, ok := v.(map[string]any)
		if into, both := dst[k].(map[string]any); ok && both {
			merged := maps.Clone(into)
			overlay(merged, from)
			v = merged
		}
		dst[k] = v
	}
}

// GRPCPort is the gRPC port of the server's configuration: the plain one, or the
// one with TLS where there is no plain one.
func (s *Server) GRPCPort() uint16 {
	ports, _ := s.configuration()["ports"].(map[string]any)
	for _, name := range []string{"grpc", "grpc_tls"} {
		var port uint16
		if _, err := fmt.Sscan(fmt.Sprint(ports[name]), &port); err == nil && port != 0 { // -1 is switched off
			return port
		}
	}
	return 0
}

// XDS is where the server's xDS service listens.
func (s *Server) XDS() netip.AddrPort { return netip.AddrPortFrom(s.Addr(), s.GRPCPort()) }

// Process is the server's process, as of its last start.
func (s *Server) Process() *Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proc
}

// Kill ends the server with SIGKILL; its data stays.
func (s *Server) Kill() error { return s.Process().Kill() }

// Stop freezes the server with SIGSTOP.
func (s *Server) Stop() error { return s.Process().Stop() }

// Cont lets a frozen server go on.
func (s *Server) Cont() error { return s.Process().Cont() }

// Term ends the server with SIGTERM; it does not leave the cluster.
func (s *Server) Term(ctx context.Context) error {
	// Consul exits with 1 after a signal on which it does not leave.
	if err := s.Process().Term(ctx); err != nil && ctx.Err() != nil {
		return err
	}
	return nil
}

// Restart starts the server with its data, after a kill if it is alive, and
// waits until it answers.
func (s *Server) Restart(ctx context.Context) error {
	if err := s.Kill(); err != nil {
		return err
	}
	if err := s.start(); err != nil {
		return err
	}
	return s.WaitReady(ctx)
}

// Reconfigure restarts the server with these settings over its own; nested
// objects are merged.
func (s *Server) Reconfigure(ctx context.Context, settings map[string]any) error {
	s.mu.Lock()
	merged := maps.Clone(s.config)
	if merged == nil {
		merged = map[string]any{}
	}
	overlay(merged, settings)
	s.config = merged // a new map: the old one may be being read
	s.mu.Unlock()
	return s.Restart(ctx)
}

// Move restarts the server, data and identity kept, under a new address. It
// leaves the cluster in between: of a member that failed, the others accept no
// other address for 30 s (Consul's DeadNodeReclaimTime).
func (s *Server) Move(ctx context.Context) error {
	if err := s.leave(ctx); err != nil {
		return err
	}
	if err := s.readdress(); err != nil {
		return err
	}
	if err := s.start(); err != nil {
		return err
	}
	return s.WaitReady(ctx)
}

// leave lets the server leave the cluster and waits for its end.
func (s *Server) leave(ctx context.Context) error {
	// An answer may or may not come before the process has ended.
	left := s.Client().Agent().Leave()
	if err := s.Process().Wait(ctx); ctx.Err() != nil {
		return fmt.Errorf("leave %s: %w", s.Name, errors.Join(left, err))
	}
	return nil
}

// Remove lets the server leave the cluster and takes it out of the bed.
func (s *Server) Remove(ctx context.Context) error {
	if err := s.leave(ctx); err != nil {
		return err
	}
	c := s.cluster
	c.mu.Lock()
	c.servers = slices.DeleteFunc(c.servers, func(o *Server) bool { return o == s })
	c.mu.Unlock()
	return s.Node.Remove()
}

// Client is an API client that speaks to this server from its own namespace,
// so that partitions do not matter to it.
func (s *Server) Client() *api.Client { return s.client(nil) }

func (s *Server) client(change func(*api.Config)) *api.Client {
	cfg := &api.Config{
		Address:    fmt.Sprintf("127.0.0.1:%d", HTTPPort),
		Token:      s.cluster.options.Token,
		HttpClient: s.HTTPClient(),
		// The environment of whoever runs the tests is not meant.
		Scheme: "http",
	}
	cfg.HttpClient.Timeout = 11 * time.Minute // blocking queries last up to ten
	if change != nil {
		change(cfg)
	}
	client, err := api.NewClient(cfg)
	if err != nil {
		panic(err) // only for a malformed address, which it is not
	}
	return client
}

// WaitReady waits until the server answers and knows a leader.
func (s *Server) WaitReady(ctx context.Context) error {
	return until(ctx, s.Name+" knows a leader", func() error {
		if err := s.Process().ended(); err != nil {
			return err
		}
		leader, err := s.Client().Status().LeaderWithQueryOptions((&api.QueryOptions{}).WithContext(ctx))
		if err == nil && leader == "" {
			err = errors.New("no leader")
		}
		return err
	})
}
