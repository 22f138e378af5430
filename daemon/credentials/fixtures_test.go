package credentials

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/daemon/catalog"
	"github.com/lictor-mesh/lictor/daemon/registry"
	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

const boot = "this-boot"

// book is a registry: a fold of what was journaled.
type book struct {
	mu      sync.Mutex
	s       state.State
	journal []state.Event
	broken  error // of the disk
}

func newBook() *book { return &book{s: state.New()} }

func (b *book) Snapshot(context.Context) (registry.Snapshot, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return registry.Snapshot{State: b.s.Clone()}, nil
}

func (b *book) Note(_ context.Context, fact state.Body) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.broken != nil {
		return b.broken
	}
	b.add(fact)
	return nil
}

func (b *book) add(fact state.Body) {
	e := state.Event{Seq: uint64(len(b.journal) + 1), Time: time.Now().UTC(), Body: fact}
	b.journal = append(b.journal, e)
	b.s = state.Fold(b.s, e)
}

func (b *book) do(facts ...state.Body) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range facts {
		b.add(f)
	}
}

func (b *book) breakDisk(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.broken = err
}

// of lists what was journaled of one kind.
func (b *book) of(kind state.Kind) []state.Body {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []state.Body
	for _, e := range b.journal {
		if e.Body.Kind() == kind {
			out = append(out, e.Body)
		}
	}
	return out
}

// logins are the tokens that are journaled and not logged out.
func (b *book) logins() map[string]state.LoginRecord {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.s.Logins)
}

func (b *book) proxy(id string) state.Proxy {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.s.Proxies[id]; p != nil {
		return *p
	}
	return state.Proxy{}
}

// servers is Consul: tokens, and what is refused.
type servers struct {
	mu      sync.Mutex
	tokens  map[string]bool // by secret
	issued  []issue
	ended   []string // secrets logged out
	n       int
	life    time.Duration // 0: for ever
	silent  bool          // does not tell when a token ends, as over gRPC
	refuse  error         // of logins
	logouts error         // of logouts
	params  error         // of questions with a valid token
	rights  error         // of questions about the rights of one
	wanted  int           // such questions
	asked   []netip.AddrPort
}

type issue struct {
	at     time.Time
	query  catalog.LoginQuery
	secret string
}

func newServers() *servers { return &servers{tokens: map[string]bool{}} }

func (s *servers) Login(_ context.Context, q catalog.LoginQuery) (catalog.Token, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != nil {
		return catalog.Token{}, s.refuse
	}
	s.n++
	t := catalog.Token{SecretID: fmt.Sprintf("secret-%d-of-a-login", s.n), AccessorID: fmt.Sprintf("accessor-%d", s.n)}
	if s.life > 0 && !s.silent {
		t.Expires = time.Now().Add(s.life)
	}
	t.ExpiryUnknown = s.silent
	s.tokens[t.SecretID] = true
	s.issued = append(s.issued, issue{time.Now(), q, t.SecretID})
	if s.life > 0 {
		time.AfterFunc(s.life, func() { s.revoke(t.SecretID) })
	}
	return t, nil
}

func (s *servers) Logout(_ context.Context, secret, _ string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.logouts != nil {
		return s.logouts
	}
	delete(s.tokens, secret)
	s.ended = append(s.ended, secret)
	return nil
}

func (s *servers) BootstrapParams(_ context.Context, ask catalog.ParamsQuery) (catalog.Params, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, ask.Server)
	if !s.tokens[ask.Token] {
		return catalog.Params{}, &catalog.Problem{Sentence: "the token does not exist", Err: fmt.Errorf("%w: ACL not found", catalog.ErrToken)}
	}
	return catalog.Params{Service: "the-service", Namespace: "default", Partition: "default"}, s.params
}

func (s *servers) Rights(_ context.Context, q catalog.RightsQuery) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanted++
	if !s.tokens[q.Token] || q.Service != "the-service" || q.Node != "n" || q.ProxyID == "" {
		return fmt.Errorf("asked for the rights of %+v", q)
	}
	return s.rights
}

// know makes tokens valid that nobody logged in for.
func (s *servers) know(secrets ...string) {
	s.set(func(s *servers) {
		for _, secret := range secrets {
			s.tokens[secret] = true
		}
	})
}

// left lists the valid tokens.
func (s *servers) left() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.tokens))
}

func (s *servers) revoke(secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tokens, secret)
}

func (s *servers) set(change func(s *servers)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *servers) logins() []issue {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.issued)
}

func (s *servers) out() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ended)
}

// closed counts how often a proxy's streams were closed.
type closed struct {
	mu    sync.Mutex
	times []string
	at    []time.Time
}

func (c *closed) Close(p state.Proxy) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.times, c.at = append(c.times, p.ID), append(c.at, time.Now())
	return nil
}

func (c *closed) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.times)
}
