package bed

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/lictor-mesh/lictor/tools/testbed/pki"
)

// ManagementToken may do everything in a cluster with ACLs.
const ManagementToken = "11111111-2222-3333-4444-555555555555"

// aclConfiguration denies by default. The agent token is for the servers' own
// entries in the catalog.
func (c *Cluster) aclConfiguration() map[string]any {
	if !c.options.ACL {
		return nil
	}
	return map[string]any{"acl": map[string]any{
		"enabled": true, "default_policy": "deny", "enable_token_persistence": true,
		"tokens": map[string]any{"initial_management": ManagementToken, "agent": ManagementToken},
	}}
}

// LictorPolicy is all that a lictord needs, in Consul's words, as the README has
// it.
const LictorPolicy = `# to follow the servers, and to see which proxies Consul no longer knows
node_prefix    "" { policy = "read" }
service_prefix "" { policy = "read" }
# what hosts tell each other through Consul; without these a host keeps out of ` + "`lictor fleet`" + `
key_prefix     "lictor/drains/" { policy = "read" }  # write, where ` + "`lictor drain --fleet`" + ` is to work
key_prefix     "lictor/hosts/"  { policy = "write" }
node_prefix    "lictor-"        { policy = "write" }
session_prefix "lictor-"        { policy = "write" }
`

// TokenOptions of a token.
type TokenOptions struct {
	// Services whose proxies may use it: a service identity for each.
	Services []string
	// Rules of a policy of its own, "" for none.
	Rules string
	// Lifetime, a minute at least; 0 for ever.
	Lifetime time.Duration
}

// NewToken makes an ACL token that every server that is up knows when it returns.
func (c *Cluster) NewToken(ctx context.Context, o TokenOptions) (*api.ACLToken, error) {
	token := &api.ACLToken{Description: "testbed", ExpirationTTL: o.Lifetime}
	for _, service := range o.Services {
		token.ServiceIdentities = append(token.ServiceIdentities, &api.ACLServiceIdentity{ServiceName: service})
	}
	err := c.write(ctx, func(client *api.Client) error {
		write := (&api.WriteOptions{}).WithContext(ctx)
		if o.Rules != "" && len(token.Policies) == 0 {
			policy, _, err := client.ACL().PolicyCreate(&api.ACLPolicy{Name: "testbed-" + uuid(), Rules: o.Rules}, write)
			if err != nil {
				return fmt.Errorf("make policy: %w", err)
			}
			token.Policies = []*api.ACLTokenPolicyLink{{ID: policy.ID}}
		}
		made, _, err := client.ACL().TokenCreate(token, write)
		if err == nil {
			token = made
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make token: %w", err)
	}
	return token, c.waitToken(ctx, token.SecretID)
}

// waitToken waits until the token has been replicated to every server.
func (c *Cluster) waitToken(ctx context.Context, secret string) error {
	for _, s := range c.Servers() {
		if p := s.Process(); p == nil || !p.Alive() {
			continue
		}
		err := until(ctx, s.Name+" knows a new token", func() error {
			ctx, cancel := context.WithTimeout(ctx, shortCall)
			defer cancel()
			q := (&api.QueryOptions{Token: secret, AllowStale: true}).WithContext(ctx)
			_, _, err := s.Client().ACL().TokenReadSelf(q)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// DeleteToken revokes a token.
func (c *Cluster) DeleteToken(ctx context.Context, accessor string) error {
	err := c.write(ctx, func(client *api.Client) error {
		_, err := client.ACL().TokenDelete(accessor, (&api.WriteOptions{}).WithContext(ctx))
		return err
	})
	if err != nil {
		return fmt.Errorf("delete token %s: %w", accessor, err)
	}
	return nil
}

// Tokens are all tokens that were made by logins of an auth method.
func (c *Cluster) Tokens(ctx context.Context, method string) ([]*api.ACLTokenListEntry, error) {
	client, err := c.Client(ctx)
	if err != nil {
		return nil, err
	}
	list, _, err := client.ACL().TokenListFiltered(api.ACLTokenFilterOptions{AuthMethod: method}, (&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("list tokens of %s: %w", method, err)
	}
	return list, nil
}

// Login is an auth method of type jwt: a bearer token with the claim `service`
// is exchanged for a token of that service's identity.
type Login struct {
	Name   string
	signer *pki.Signer
}

// LoginOptions of an auth method.
type LoginOptions struct {
	Name string // default testbed-jwt
	// TokenLifetime of what a login gives, a minute at least; 0 for ever.
	TokenLifetime time.Duration
}

// NewLogin makes an auth method with a key of its own, and its binding rule.
func (c *Cluster) NewLogin(ctx context.Context, o LoginOptions) (*Login, error) {
	if o.Name == "" {
		o.Name = "testbed-jwt"
	}
	signer, err := pki.NewSigner("testbed", "consul")
	if err != nil {
		return nil, err
	}
	key, err := signer.PublicKey()
	if err != nil {
		return nil, err
	}
	err = c.write(ctx, func(client *api.Client) error {
		write := (&api.WriteOptions{}).WithContext(ctx)
		_, _, err := client.ACL().AuthMethodCreate(&api.ACLAuthMethod{
			Name: o.Name, Type: "jwt", MaxTokenTTL: o.TokenLifetime, TokenLocality: "local",
			Config: map[string]any{
				"JWTValidationPubKeys": []string{key},
				"BoundIssuer":          signer.Issuer,
				"BoundAudiences":       []string{signer.Audience},
				"ClaimMappings":        map[string]string{"service": "service"},
				"ExpirationLeeway":     -1, // ns: an expired bearer is expired; 0 would mean 150 s
				"ClockSkewLeeway":      -1,
			},
		}, write)
		if err != nil {
			return err
		}
		_, _, err = client.ACL().BindingRuleCreate(&api.ACLBindingRule{
			AuthMethod: o.Name, BindType: api.BindingRuleBindTypeService, BindName: "${value.service}",
		}, write)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make auth method %s: %w", o.Name, err)
	}
	return &Login{Name: o.Name, signer: signer}, nil
}

// Bearer is a token to log in with as a service, good for that long; a lifetime
// below zero gives one that has expired.
func (l *Login) Bearer(service string, lifetime time.Duration) (string, error) {
	return l.signer.Sign(map[string]any{"service": service}, lifetime)
}
