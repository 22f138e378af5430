package catalog

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Errors of calls to Consul's KV store, its sessions and its catalog, wrapped in
// a *Problem.
var (
	// ErrDenied: the ACL token may not do it.
	ErrDenied = errors.New("ACLs do not permit it")
	// ErrNoServer: no Consul server answers at the moment.
	ErrNoServer = errors.New("no server is followed")
	// ErrSession: the session is no more.
	ErrSession = errors.New("the session has ended")
)

// KVPair is a key of Consul's KV store.
type KVPair struct {
	Key     string
	Value   []byte
	Session string // that holds it, "" for none
	// ModifyIndex is Consul's index of the change that made it so.
	ModifyIndex uint64
}

// KVList is what the KV store has under a prefix.
type KVList struct {
	Pairs []KVPair // by key
	// Index is what the next query that is to block waits for.
	Index uint64
	// Filtered says that ACLs hid some: what is missing may be there.
	Filtered bool
}

// KVList lists what is under a prefix, as the server that is followed knows it,
// which may be a moment behind. With index, unless 0, it blocks until something
// there has another one, five minutes at most, and ends with an error when
// another server is followed.
func (c *Catalog) KVList(ctx context.Context, prefix string, index uint64) (KVList, error) {
	query := url.Values{"recurse": {""}, "stale": {""}}
	limit := c.timing.answer
	if index > 0 {
		query.Set("index", strconv.FormatUint(index, 10))
		query.Set("wait", c.timing.wait.String())
		limit += c.timing.wait + c.timing.wait/16
	}
	var found []KVPair
	a, err := c.ask(ctx, limit, http.MethodGet, "/v1/kv/"+escapeKey(prefix), query, nil, &found)
	if err != nil && !a.notFound {
		return KVList{}, err
	}
	if !knownLeader(a.header) {
		return KVList{}, lostLeader(a.target)
	}
	got, _ := strconv.ParseUint(a.header.Get("X-Consul-Index"), 10, 64) // 0: nextIndex knows
	return KVList{Pairs: found, Index: nextIndex(index, got), Filtered: filtered(a.header)}, nil
}

// KVGet reads a key, as the leader knows it. found is false where there is none,
// and ModifyIndex says then as of which change of the store that is so: the last
// one, which in the life of a Consul never goes back.
func (c *Catalog) KVGet(ctx context.Context, key string) (pair KVPair, found bool, err error) {
	var pairs []KVPair
	a, err := c.ask(ctx, c.timing.answer, http.MethodGet, "/v1/kv/"+escapeKey(key), url.Values{"consistent": {""}}, nil, &pairs)
	if a.notFound {
		index, _ := strconv.ParseUint(a.header.Get("X-Consul-Index"), 10, 64) // 0 is none
		return KVPair{Key: key, ModifyIndex: index}, false, nil
	}
	if err != nil || len(pairs) == 0 {
		return KVPair{}, false, err
	}
	return pairs[0], true, nil
}

// KVPut writes a key. With ifAbsent it does so only where there is none, with a
// session only where no other session holds it, which the session then does.
// done is false when that was not so. An ended session is ErrSession.
func (c *Catalog) KVPut(ctx context.Context, key string, value []byte, ifAbsent bool, session string) (done bool, err error) {
	query := url.Values{}
	if ifAbsent {
		query.Set("cas", "0")
	}
	if session != "" {
		query.Set("acquire", session)
	}
	_, err = c.ask(ctx, c.timing.answer, http.MethodPut, "/v1/kv/"+escapeKey(key), query, value, &done)
	return done, err
}

// KVDelete deletes a key; one that is not there is success.
func (c *Catalog) KVDelete(ctx context.Context, key string) error {
	_, err := c.ask(ctx, c.timing.answer, http.MethodDelete, "/v1/kv/"+escapeKey(key), nil, nil, nil)
	return err
}

// escapeKey escapes a key for a path, its slashes being the path's.
func escapeKey(key string) string {
	parts := strings.Split(key, "/")
	for i, part := range parts {
		parts[i] = url.PathEscape(part)
	}
	return strings.Join(parts, "/")
}

// CreateSession makes a session on a node of the catalog, which has no check to
// fail: it ends when it was not renewed for ttl (Consul takes up to twice that),
// or with the node, and deletes the keys that it holds. Consul takes a ttl of 10
// seconds to a day.
func (c *Catalog) CreateSession(ctx context.Context, name, node string, ttl time.Duration) (id string, err error) {
	body := map[string]any{
		"Name": name, "Node": node, "TTL": ttl.String(), "Behavior": "delete", "LockDelay": "0s",
		// Without these Consul asks for a check that only an agent's node has.
		"Checks": []string{}, "NodeChecks": []string{},
	}
	var made struct{ ID string }
	_, err = c.ask(ctx, c.timing.answer, http.MethodPut, "/v1/session/create", nil, body, &made)
	return made.ID, err
}

// RenewSession keeps a session for another ttl. One that has ended is ErrSession.
func (c *Catalog) RenewSession(ctx context.Context, id string) error {
	a, err := c.ask(ctx, c.timing.answer, http.MethodPut, "/v1/session/renew/"+url.PathEscape(id), nil, nil, nil)
	if a.notFound {
		return &Problem{Sentence: "the session of this host in Consul has ended", Err: ErrSession}
	}
	return err
}

// DestroySession ends a session; one that has ended is success.
func (c *Catalog) DestroySession(ctx context.Context, id string) error {
	_, err := c.ask(ctx, c.timing.answer, http.MethodPut, "/v1/session/destroy/"+url.PathEscape(id), nil, nil, nil)
	return err
}

// RegisterNode puts a node without services and checks into the catalog, or
// leaves it as it is where it is the same.
func (c *Catalog) RegisterNode(ctx context.Context, name, addr string, meta map[string]string) error {
	body := map[string]any{"Node": name, "Address": addr, "NodeMeta": meta}
	_, err := c.ask(ctx, c.timing.answer, http.MethodPut, "/v1/catalog/register", nil, body, nil)
	return err
}

// URL is where the HTTP API of the server is that is followed, "" while none
// answers.
func (c *Catalog) URL() string {
	target := c.Status().Server
	if target == "" || c.cfg.WatchDisabled || c.cfg.GRPCOnly {
		return ""
	}
	return c.scheme() + "://" + target
}
