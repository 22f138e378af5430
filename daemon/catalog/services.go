package catalog

import (
	"context"
	"fmt"
	"net/url"
)

// nodeServicesPath lists what is registered on one node.
const nodeServicesPath = "/v1/catalog/node-services/"

// defaultTenancy is what Consul calls the namespace and the partition that a
// query without one means. Only Consul Enterprise takes the parameters.
const defaultTenancy = "default"

// Node names a node of Consul's catalog, as seen from a namespace.
type Node struct {
	Name, Namespace, Partition string
}

// Services lists the ids of the services that Consul's catalog has on a node; a
// node that is not there has none. It asks the server that is followed. An
// answer that ACLs have filtered is an error: what is missing in it may be there.
func (c *Catalog) Services(ctx context.Context, n Node) ([]string, error) {
	services, hidden, err := c.onNode(ctx, n)
	if err != nil {
		return nil, err
	}
	if hidden {
		return nil, &Problem{Sentence: fmt.Sprintf("ACLs hide services of node %s: give the token node:read and service:read, or its proxies are never reaped", n.Name)}
	}
	ids := make([]string, 0, len(services))
	for _, s := range services {
		ids = append(ids, s.ID)
	}
	return ids, nil
}

// nodeService is a service instance as the catalog lists it.
type nodeService struct{ ID, Kind string }

// onNode lists a node's services, and says whether ACLs hide some.
func (c *Catalog) onNode(ctx context.Context, n Node) (services []nodeService, hidden bool, err error) {
	target := c.Status().Server
	if target == "" {
		return nil, false, &Problem{Sentence: "no Consul server answers, so it is not known what the catalog has"}
	}
	query := url.Values{"stale": {""}}
	if n.Namespace != "" && n.Namespace != defaultTenancy {
		query.Set("ns", n.Namespace)
	}
	if n.Partition != "" && n.Partition != defaultTenancy {
		query.Set("partition", n.Partition)
	}
	ctx, cancel := context.WithTimeout(ctx, c.timing.answer)
	defer cancel()
	var answer struct{ Services []nodeService }
	header, err := c.get(ctx, target, nodeServicesPath+url.PathEscape(n.Name), query, &answer)
	if err != nil {
		return nil, false, err
	}
	if !knownLeader(header) {
		return nil, false, lostLeader(target)
	}
	return answer.Services, filtered(header), nil
}
