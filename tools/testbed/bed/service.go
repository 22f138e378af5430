package bed

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

// Service is a service instance with a sidecar proxy and no agent, as consul-k8s
// registers one: both on a synthetic node of the catalog.
type Service struct {
	Name      string
	ID        string // default: Name-Pod
	Pod       *Pod   // where service and proxy listen
	Port      int    // of the service; default 8080
	ProxyPort int    // of the proxy's public listener; default 20000
	Upstreams []api.Upstream
	Config    map[string]any // of the proxy, opaque
	Node      string         // synthetic node; default: the host's name with "-virtual"
	// Addr is for an instance without a pod: many proxies that only speak xDS.
	Addr string
}

// Proxy is a registered sidecar proxy, by what its Envoy must say about itself.
type Proxy struct {
	ID       string // node.id
	Service  string // node.cluster
	NodeName string // node.metadata.node_name
}

// Register writes the service and its proxy to the catalog. Registering the same
// ID again changes it: another upstream, for one, is a configuration change that
// the proxy gets by xDS.
func (c *Cluster) Register(ctx context.Context, s Service) (Proxy, error) {
	s = s.withDefaults()
	proxy := Proxy{ID: s.ID + "-sidecar-proxy", Service: s.Name, NodeName: s.Node}
	for _, service := range []*api.AgentService{
		{ID: s.ID, Service: s.Name, Address: s.Addr, Port: s.Port},
		{
			Kind: api.ServiceKindConnectProxy,
			ID:   proxy.ID, Service: s.Name + "-sidecar-proxy", Address: s.Addr, Port: s.ProxyPort,
			Proxy: &api.AgentServiceConnectProxyConfig{
				DestinationServiceName: s.Name, DestinationServiceID: s.ID,
				LocalServiceAddress: "127.0.0.1", LocalServicePort: s.Port,
				Upstreams: s.Upstreams, Config: s.Config,
			},
		},
	} {
		if err := c.register(ctx, s.Node, s.Addr, service); err != nil {
			return Proxy{}, err
		}
	}
	return proxy, nil
}

// Deregister takes a service and its proxy out of the catalog.
func (c *Cluster) Deregister(ctx context.Context, s Service) error {
	s = s.withDefaults()
	write := (&api.WriteOptions{}).WithContext(ctx)
	for _, id := range []string{s.ID + "-sidecar-proxy", s.ID} {
		err := c.write(ctx, func(client *api.Client) error {
			_, err := client.Catalog().Deregister(&api.CatalogDeregistration{Node: s.Node, ServiceID: id}, write)
			return err
		})
		if err != nil {
			return fmt.Errorf("deregister %s: %w", id, err)
		}
	}
	return nil
}

// electionTime is how long a write waits for a leader: on a busy machine servers
// miss heartbeats and elect another one now and then.
const electionTime = 15 * time.Second

// write writes to the leader, and again to the next one when it has lost its
// office meanwhile; all writes here can be repeated.
func (c *Cluster) write(ctx context.Context, write func(*api.Client) error) error {
	for deadline := time.Now().Add(electionTime); ; {
		client, err := c.Client(ctx)
		lost := err != nil
		if err == nil {
			err = write(client)
			lost = err != nil && strings.Contains(err.Error(), "leader")
		}
		if !lost || time.Now().After(deadline) || ctx.Err() != nil {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (s Service) withDefaults() Service {
	if s.Pod != nil {
		if s.ID == "" {
			s.ID = s.Name + "-" + s.Pod.Name
		}
		if s.Addr == "" {
			s.Addr = s.Pod.Addr().String()
		}
		if s.Node == "" {
			s.Node = s.Pod.Host.Name + "-virtual"
		}
	}
	if s.ID == "" {
		s.ID = s.Name
	}
	if s.Addr == "" {
		s.Addr = "127.0.0.1"
	}
	if s.Node == "" {
		s.Node = "virtual"
	}
	if s.Port == 0 {
		s.Port = 8080
	}
	if s.ProxyPort == 0 {
		s.ProxyPort = 20000
	}
	return s
}

// SetConfig writes a config entry: service-defaults, service-intentions and so on.
func (c *Cluster) SetConfig(ctx context.Context, entry api.ConfigEntry) error {
	err := c.write(ctx, func(client *api.Client) error {
		_, _, err := client.ConfigEntries().Set(entry, (&api.WriteOptions{}).WithContext(ctx))
		return err
	})
	if err != nil {
		return fmt.Errorf("set config entry %s/%s: %w", entry.GetKind(), entry.GetName(), err)
	}
	return nil
}

// SetRawConfig writes a config entry as Consul's API has it: the client's types
// have fields that this Consul does not know, and what is wrong cannot be said in
// them.
func (c *Cluster) SetRawConfig(ctx context.Context, entry map[string]any) error {
	err := c.write(ctx, func(client *api.Client) error {
		_, err := client.Raw().Write("/v1/config", entry, nil, (&api.WriteOptions{}).WithContext(ctx))
		return err
	})
	if err != nil {
		return fmt.Errorf("set config entry %v/%v: %w", entry["Kind"], entry["Name"], err)
	}
	return nil
}

// Intend sets whether one service may call another; "*" is any.
func (c *Cluster) Intend(ctx context.Context, source, destination string, action api.IntentionAction) error {
	return c.SetConfig(ctx, &api.ServiceIntentionsConfigEntry{
		Kind: api.ServiceIntentions, Name: destination,
		Sources: []*api.SourceIntention{{Name: source, Action: action}},
	})
}
