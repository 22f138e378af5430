package catalog

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// rightsPath answers what a token may do. It takes no right to be asked, and
// reads nothing but the server's memory.
const rightsPath = "/v1/internal/acl/authorize"

// rightsAtOnce is how many such questions of this host are under way at most.
// The pods of a host start within the same second, and servers count the
// connections of an address.
const rightsAtOnce = 2

// ErrRightsUntold comes of Rights when nobody will say: HTTP is not open to us,
// ACLs are disabled, or the server does not have, or blocks, this question.
var ErrRightsUntold = errors.New("no server tells the rights of a token")

// RightsQuery asks for the rights of a proxy's token.
type RightsQuery struct {
	Token   string // of the proxy; "" for none
	ProxyID string
	Node    string // that it is registered on
	Service string // that the proxy stands for, or the gateway's own: Params.Service
	// Namespace and Partition are those of the proxy, as Params has them.
	Namespace, Partition string
}

// Rights says whether a token has the rights without which Consul sends its
// proxy nothing; nil when it has them. BootstrapParams does not tell: it asks
// for service:read. A *Problem of ErrToken names the right that is missing; one
// of ErrRightsUntold means that it will not be known. Every other means that it
// is not known now. It asks the server that is followed, or else any.
//
// Consul wants service:write for the service of a sidecar, or for the gateway's
// own (agent/proxycfg/config_snapshot_glue.go, Authorize). To a sidecar whose
// token lacks it Consul 1.20 says nothing at all, and keeps the stream. An API
// gateway gets an empty list of listeners without mesh:read, for it may not see
// its routes. A mesh gateway needs no such right. All that is measured.
func (c *Catalog) Rights(ctx context.Context, q RightsQuery) error {
	if c.overGRPC() {
		return &Problem{Sentence: "the rights of a token can be asked over HTTP only", Err: ErrRightsUntold}
	}
	ctx, cancel := context.WithTimeout(ctx, c.timing.answer)
	defer cancel()
	select {
	case c.rights <- struct{}{}:
		defer func() { <-c.rights }()
	case <-ctx.Done():
		return &Problem{Sentence: "the rights of a token are not known yet: others are being asked for", Err: ctx.Err()}
	}
	write, mesh, err := c.askRights(ctx, q)
	switch {
	case err != nil:
		return err
	case !write:
		return q.lacksWrite()
	case mesh:
		return nil
	}
	kind, err := c.kindOf(ctx, Node{Name: q.Node, Namespace: q.Namespace, Partition: q.Partition}, q.ProxyID)
	if err != nil || kind != "api-gateway" {
		return err
	}
	return &Problem{
		Sentence: fmt.Sprintf("the ACL token of the API gateway %s has no right mesh:read, so that Consul sends it no routes and no listeners: "+
			`add mesh = "read" to a policy of that token`, q.ProxyID),
		Err: fmt.Errorf("%w: lacks mesh:read", ErrToken),
	}
}

// right is one as Consul asks for it and answers (ACLAuthorizationRequest and
// ACLAuthorizationResponse in agent/structs/acl.go).
type right struct {
	Resource  string
	Segment   string `json:",omitempty"`
	Access    string
	Namespace string `json:",omitempty"`
	Partition string `json:",omitempty"`
	Allow     bool   `json:",omitempty"`
}

// askRights puts the question to one server, with the proxy's token.
func (c *Catalog) askRights(ctx context.Context, q RightsQuery) (write, mesh bool, err error) {
	order, err := c.serversToAsk()
	if err != nil {
		return false, false, err
	}
	namespace, partition := q.Namespace, q.Partition
	if namespace == defaultTenancy {
		namespace = ""
	}
	if partition == defaultTenancy {
		partition = ""
	}
	wanted := []right{
		{Resource: "service", Segment: q.Service, Access: "write", Namespace: namespace, Partition: partition},
		{Resource: "mesh", Access: "read", Partition: partition},
	}
	var told []right
	said, err := c.postACL(ctx, order[0], question{path: rightsPath, token: q.Token, body: wanted, into: &told})
	if err != nil {
		return false, false, withoutSecret(untold(order[0], said, err), q.Token)
	}
	for i, r := range wanted {
		if len(told) != len(wanted) || told[i].Resource != r.Resource || told[i].Access != r.Access || told[i].Segment != r.Segment {
			return false, false, untoldBy(order[0], errors.New("it answers something else"))
		}
	}
	return told[0].Allow, told[1].Allow, nil
}

// untold tells a server that will never answer from one that does not answer
// now. A token that is new to a server is known to it in a moment.
func untold(target, said string, err error) error {
	var refused statusError
	if !errors.As(err, &refused) || refused.status >= http.StatusInternalServerError || strings.Contains(said, "ACL not found") {
		return err
	}
	return untoldBy(target, refused)
}

func untoldBy(target string, err error) error {
	return &Problem{
		Sentence: fmt.Sprintf("the Consul server at %s does not tell the rights of a token", target),
		Err:      fmt.Errorf("%w: %w", ErrRightsUntold, err),
	}
}

// lacksWrite is a token that xDS refuses.
func (q RightsQuery) lacksWrite() error {
	sentence := fmt.Sprintf("the ACL token of the proxy %s has no right service:write for %s, so that Consul sends its Envoy no configuration: "+
		"give that token a service identity or a policy for %[2]s, or give the proxy the token of %[2]s", q.ProxyID, q.Service)
	if q.Token == "" {
		sentence = fmt.Sprintf("the proxy %s has no ACL token, and without one that has the right service:write for %s Consul sends its Envoy no configuration: "+
			"give it one, by a token, a token file or a login", q.ProxyID, q.Service)
	}
	return &Problem{Sentence: sentence, Err: fmt.Errorf("%w: lacks service:write", ErrToken)}
}

// kindOf finds the kind of a proxy in the catalog, with the daemon's own token;
// "" when it is not there, or ACLs hide it.
func (c *Catalog) kindOf(ctx context.Context, n Node, id string) (string, error) {
	services, _, err := c.onNode(ctx, n)
	if err != nil {
		return "", err
	}
	for _, s := range services {
		if s.ID == id {
			return s.Kind, nil
		}
	}
	return "", nil
}
