package bed

import (
	"context"
	"fmt"

	"github.com/hashicorp/consul/api"
)

// Gateway is a gateway without an agent, in the catalog as consul-k8s writes
// it. What it does is said by config entries; see [Cluster.SetConfig].
type Gateway struct {
	Kind   api.ServiceKind // mesh-gateway, api-gateway, terminating-gateway, ingress-gateway
	Name   string          // of the service; default: the kind
	ID     string          // default: Name-Pod
	Pod    *Pod
	Port   int // default 8443
	Config map[string]any
	Node   string // synthetic node; default: the host's name with "-virtual"
}

// RegisterGateway writes the gateway to the catalog.
func (c *Cluster) RegisterGateway(ctx context.Context, g Gateway) (Proxy, error) {
	if g.Name == "" {
		g.Name = string(g.Kind)
	}
	if g.ID == "" {
		g.ID = g.Name + "-" + g.Pod.Name
	}
	if g.Port == 0 {
		g.Port = 8443
	}
	if g.Node == "" {
		g.Node = g.Pod.Host.Name + "-virtual"
	}
	err := c.register(ctx, g.Node, g.Pod.Addr().String(), &api.AgentService{
		Kind: g.Kind, ID: g.ID, Service: g.Name, Address: g.Pod.Addr().String(), Port: g.Port,
		Proxy: &api.AgentServiceConnectProxyConfig{Config: g.Config},
	})
	return Proxy{ID: g.ID, Service: g.Name, NodeName: g.Node}, err
}

// register writes one service to a synthetic node of the catalog.
func (c *Cluster) register(ctx context.Context, node, addr string, service *api.AgentService) error {
	err := c.write(ctx, func(client *api.Client) error {
		_, err := client.Catalog().Register(&api.CatalogRegistration{
			Node: node, Address: addr, SkipNodeUpdate: false,
			NodeMeta: map[string]string{"synthetic-node": "true"},
			Service:  service,
		}, (&api.WriteOptions{}).WithContext(ctx))
		return err
	})
	if err != nil {
		return fmt.Errorf("register %s: %w", service.ID, err)
	}
	return nil
}
