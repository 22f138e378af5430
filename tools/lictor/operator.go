package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/spf13/cobra"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

// consulTimeout bounds what is asked of Consul at a time; its client has no limit
// of its own.
const consulTimeout = 30 * time.Second

// operator is how a command asks Consul itself, with a token that lictord never
// sees.
type operator struct {
	tokenFile string
}

func (o *operator) flags(c *cobra.Command) {
	c.Flags().StringVar(&o.tokenFile, "token-file", "", "file with an ACL token of yours; CONSUL_HTTP_TOKEN or CONSUL_HTTP_TOKEN_FILE is used without it")
}

// given says whether there is a token to ask with.
func (o *operator) given(a *app) bool {
	return o.tokenFile != "" || a.getenv(api.HTTPTokenEnvName) != "" || a.getenv(api.HTTPTokenFileEnvName) != ""
}

// client asks where the environment says, or else where lictord does, verifying
// as it does.
func (o *operator) client(a *app, at v1.FleetConsul) (*api.Client, error) {
	config := api.DefaultConfig() // with what the environment says
	if a.getenv(api.HTTPAddrEnvName) == "" {
		scheme, address, ok := strings.Cut(at.URL, "://")
		if !ok {
			return nil, errors.New("lictord has no contact with Consul; say where it is by CONSUL_HTTP_ADDR")
		}
		config.Scheme, config.Address = scheme, address
		config.TLSConfig = api.TLSConfig{
			Address: at.ServerName, CertFile: at.Cert, KeyFile: at.Key,
			CAFile: at.CACerts,
		}
		if info, err := os.Stat(at.CACerts); err == nil && info.IsDir() {
			config.TLSConfig.CAFile, config.TLSConfig.CAPath = "", at.CACerts
		}
	}
	if o.tokenFile != "" {
		text, err := os.ReadFile(o.tokenFile)
		if err != nil {
			return nil, fmt.Errorf("read the file of --token-file: %w", err)
		}
		config.Token, config.TokenFile = strings.TrimSpace(string(text)), ""
	}
	client, err := api.NewClient(config)
	if err != nil {
		return nil, fmt.Errorf("reach Consul at %s: %w", config.Address, err)
	}
	return client, nil
}

// leftover is what a host that does not report has left in Consul.
type leftover struct {
	Host     string      `json:"host"`
	Reported bool        `json:"reported"`       // once, as its node in the catalog says
	Node     string      `json:"node,omitempty"` // that one
	Tokens   []leftToken `json:"tokens"`
}

// leftToken is an ACL token that a proxy got by login.
type leftToken struct {
	Accessor   string    `json:"accessor"`
	Proxy      string    `json:"proxy,omitempty"`
	AuthMethod string    `json:"auth_method"`
	Created    time.Time `json:"created_at"`
	Expires    time.Time `json:"expires_at,omitzero"`
}

// Names that lictord writes into Consul: the meta of a login, the prefix of a
// host's node and the node's meta.
const (
	metaHost   = "lictor-host"
	metaProxy  = "lictor-proxy"
	nodePrefix = "lictor-"
)

// leftovers lists what hosts that do not report have left, by host.
func (a *app) leftovers(ctx context.Context, o operator, fleet v1.Fleet) ([]leftover, error) {
	client, err := o.client(a, fleet.Consul)
	if err != nil {
		return nil, err
	}
	var tokens []*api.ACLTokenListEntry
	var nodes []*api.Node
	err = a.await("Consul", func() (err error) {
		ctx, cancel := context.WithTimeout(ctx, consulTimeout)
		defer cancel()
		query := (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx)
		if tokens, _, err = client.ACL().TokenList(query); err != nil {
			return fmt.Errorf("list ACL tokens, for which the token needs acl:read: %w", err)
		}
		if nodes, _, err = client.Catalog().Nodes(query); err != nil {
			return fmt.Errorf("list the nodes of the catalog: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	// A host may have reported since lictord was asked.
	now, err := ask(a, func(c *v1.Client) (v1.Fleet, error) { return c.Fleet(ctx) })
	if err != nil {
		return nil, err
	}
	reports := func(host string) bool {
		is := func(h v1.FleetHost) bool { return h.Node == host }
		return slices.ContainsFunc(fleet.Hosts, is) || slices.ContainsFunc(now.Hosts, is)
	}
	byHost := map[string]*leftover{}
	of := func(host string) *leftover {
		if byHost[host] == nil {
			byHost[host] = &leftover{Host: host, Tokens: []leftToken{}}
		}
		return byHost[host]
	}
	for _, t := range tokens {
		if host, left, ok := loginOf(t); ok && !reports(host) {
			l := of(host)
			l.Tokens = append(l.Tokens, left)
		}
	}
	for _, n := range nodes {
		if host := n.Meta[metaHost]; host != "" && n.Node == nodePrefix+host && !reports(host) {
			l := of(host)
			l.Node, l.Reported = n.Node, true
		}
	}
	var out []leftover
	for _, l := range byHost {
		slices.SortFunc(l.Tokens, func(x, y leftToken) int { return x.Created.Compare(y.Created) })
		out = append(out, *l)
	}
	slices.SortFunc(out, func(x, y leftover) int { return cmp.Compare(x.Host, y.Host) })
	return out, nil
}

// loginOf reads which host made a token. Consul writes the meta of a login into
// the token's description, as JSON after some words.
func loginOf(t *api.ACLTokenListEntry) (host string, left leftToken, ok bool) {
	at := strings.IndexByte(t.Description, '{')
	if at < 0 || t.AuthMethod == "" {
		return "", left, false
	}
	var meta map[string]string
	if json.Unmarshal([]byte(t.Description[at:]), &meta) != nil || meta[metaHost] == "" {
		return "", left, false
	}
	left = leftToken{Accessor: t.AccessorID, Proxy: meta[metaProxy], AuthMethod: t.AuthMethod, Created: t.CreateTime.UTC()}
	if t.ExpirationTime != nil {
		left.Expires = t.ExpirationTime.UTC()
	}
	return meta[metaHost], left, true
}

// deleteLeftovers deletes what was shown, and says what it did.
func (a *app) deleteLeftovers(ctx context.Context, o operator, fleet v1.Fleet, left []leftover) (reaped, error) {
	done := reaped{Tokens: []leftToken{}, Nodes: []string{}}
	client, err := o.client(a, fleet.Consul)
	if err != nil {
		return done, err
	}
	err = a.await("Consul", func() error {
		for _, l := range left {
			if err := done.delete(ctx, client, l); err != nil {
				return err
			}
		}
		return nil
	})
	return done, err
}

// delete deletes what one host has left.
func (r *reaped) delete(ctx context.Context, client *api.Client, l leftover) error {
	write := func(do func(*api.WriteOptions) error) error {
		ctx, cancel := context.WithTimeout(ctx, consulTimeout)
		defer cancel()
		return do((&api.WriteOptions{}).WithContext(ctx))
	}
	for _, t := range l.Tokens {
		err := write(func(w *api.WriteOptions) error {
			_, err := client.ACL().TokenDelete(t.Accessor, w)
			return err
		})
		if err != nil {
			return fmt.Errorf("delete token %s of %s on %s, for which the token needs acl:write: %w", t.Accessor, t.Proxy, l.Host, err)
		}
		r.Tokens = append(r.Tokens, t)
	}
	if l.Node == "" {
		return nil
	}
	err := write(func(w *api.WriteOptions) error {
		_, err := client.Catalog().Deregister(&api.CatalogDeregistration{Node: l.Node}, w)
		return err
	})
	if err != nil {
		return fmt.Errorf("deregister node %s, for which the token needs node:write: %w", l.Node, err)
	}
	r.Nodes = append(r.Nodes, l.Node)
	return nil
}

// showLeftovers lists what is left, a line for each token.
func (a *app) showLeftovers(left []leftover) {
	t := table{heads: []string{"GONE HOST", "TOKEN OF", "ACCESSOR", "AUTH METHOD", "MADE", "EXPIRES"}}
	for _, l := range left {
		name := l.Host
		if !l.Reported {
			name += " (never reported)"
		}
		for _, token := range l.Tokens {
			expires := "never"
			if !token.Expires.IsZero() {
				expires = a.clock(token.Expires)
			}
			t.add(name, token.Proxy, token.Accessor, token.AuthMethod, a.age(token.Created)+" ago", expires)
		}
		if len(l.Tokens) == 0 {
			t.add(name, "none; node "+l.Node, "", "", "", "")
		}
	}
	t.print(a.stdout)
}
