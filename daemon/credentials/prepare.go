package credentials

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/lictor-mesh/lictor/daemon/secrets"
	"github.com/lictor-mesh/lictor/state"
)

// Prefixes of the names of sealed files.
const (
	givenPrefix   = "given-"   // + the proxy's name: what came with its registration
	pendingPrefix = "pending-" // + the proxy's name and a random word: the same, while it is not promised yet
	loginPrefix   = "login-"   // + an accessor: a token that an auth method issued
)

// given are the secrets that came with a registration.
type given struct {
	Proxy  string `json:"proxy"`
	Token  string `json:"token,omitempty"`
	Bearer string `json:"bearer,omitempty"`
}

// Prepared is a secret that is on the disk, sealed, and in force for nobody yet.
// Either Commit or Abort is called once.
type Prepared struct {
	m       *Manager
	id      string
	pending string // name of the sealed file; "" when there is nothing to be put in force
	secret  []byte
	drop    bool // what an earlier registration came with is not needed any more
}

// Prepare seals the secrets of a registration before it is promised. Until
// Commit they change nothing: whether the caller may register the proxy is not
// known yet.
func (m *Manager) Prepare(id string, c *state.Credential, token, bearer string) (*Prepared, error) {
	p := &Prepared{m: m, id: id, drop: c != nil && token == "" && bearer == ""}
	if c == nil || token == "" && bearer == "" {
		return p, nil
	}
	var err error
	if p.secret, err = json.Marshal(given{Proxy: id, Token: token, Bearer: bearer}); err != nil {
		return nil, fmt.Errorf("keep the secret of proxy %s: it cannot be written as JSON", id) // err may quote it
	}
	if now, err := m.cfg.Store.Get(givenPrefix + secrets.Name(id)); err == nil && string(now) == string(p.secret) {
		return p, nil // it is kept already, as for a proxy that was restarted
	}
	p.pending = pendingPrefix + secrets.Name(id) + "-" + rand.Text()
	m.mu.Lock()
	m.arriving[id]++ // before it is there, or the sweep of the start would take it for one that a crash left
	m.mu.Unlock()
	if err := m.cfg.Store.Put(p.pending, p.secret); err != nil {
		p.settled()
		return nil, fmt.Errorf("keep the secret of proxy %s: %w", id, err)
	}
	return p, nil
}

// settled lets the proxy's worker go on.
func (p *Prepared) settled() {
	if p.pending == "" {
		return
	}
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if p.m.arriving[p.id]--; p.m.arriving[p.id] == 0 {
		delete(p.m.arriving, p.id)
	}
	if w := p.m.workers[p.id]; w != nil {
		w.nudge()
	}
}

func (m *Manager) isArriving(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.arriving[id] > 0
}

// Commit puts the secret in force, after the registration was promised.
func (p *Prepared) Commit() error {
	defer p.settled()
	defer p.m.Wake()
	name := givenPrefix + secrets.Name(p.id)
	p.m.given.Lock()
	defer p.m.given.Unlock()
	switch {
	case p.drop:
		return p.m.cfg.Store.Delete(name)
	case p.secret == nil:
		return nil
	}
	if now, err := p.m.cfg.Store.Get(name); err != nil || string(now) != string(p.secret) {
		if err := p.m.cfg.Store.Put(name, p.secret); err != nil {
			return fmt.Errorf("keep the secret of proxy %s: %w", p.id, err)
		}
	}
	p.m.mu.Lock()
	w := p.m.workers[p.id]
	p.m.mu.Unlock()
	if w != nil {
		w.replaced()
	}
	return p.discard()
}

// Abort removes what was prepared, after the registration was refused.
func (p *Prepared) Abort() error {
	defer p.settled()
	return p.discard()
}

func (p *Prepared) discard() error {
	if p.pending == "" {
		return nil
	}
	return p.m.cfg.Store.Delete(p.pending)
}

// dropGiven removes what came with a registration that has ended. It looks again
// whether it has: the proxy may have been registered anew, with the same secret.
func (m *Manager) dropGiven(ctx context.Context, id string) error {
	m.given.Lock()
	defer m.given.Unlock()
	snap, err := m.cfg.Registry.Snapshot(ctx)
	if err != nil || snap.State.Proxies[id] != nil {
		return err // the sweep of the next start will find it
	}
	return m.cfg.Store.Delete(givenPrefix + secrets.Name(id))
}

// givenTo is what came with a proxy's registration.
func (m *Manager) givenTo(id string) (g given, err error) {
	raw, err := m.cfg.Store.Get(givenPrefix + secrets.Name(id))
	if err == nil {
		if json.Unmarshal(raw, &g) != nil || g.Proxy != id {
			err = errors.New("it is another's") // the cause may quote it
		}
	}
	if err != nil {
		return given{}, fmt.Errorf("the secret that came with the registration cannot be read, register the proxy again with it: %w", err)
	}
	return g, nil
}

// sweepStore goes through what is sealed at the start: what a crash left between
// a seal and its promise is put in force when the proxy is registered and has
// nothing else, and removed otherwise; tokens of logins that were not journaled
// are to be logged out. Registrations are made meanwhile: it looks at them after
// it has listed what is sealed, and none is committed before it has ended.
func (m *Manager) sweepStore(ctx context.Context) error {
	m.given.Lock()
	defer m.given.Unlock()
	names, err := m.cfg.Store.List()
	if err != nil {
		return err
	}
	snap, err := m.cfg.Registry.Snapshot(ctx)
	if err != nil {
		return fmt.Errorf("read registrations: %w", err)
	}
	s := snap.State
	owners := map[string]string{} // sealed name → proxy
	for id, p := range s.Proxies {
		if p.Credential != nil && p.Credential.Type != state.CredentialNone {
			owners[givenPrefix+secrets.Name(id)] = id
		}
	}
	known := map[string]bool{}
	for _, rec := range s.Logins {
		known[rec.Key] = true
	}
	var errs []error
	for _, name := range names {
		switch {
		case strings.HasPrefix(name, givenPrefix) && owners[name] == "":
			errs = append(errs, m.cfg.Store.Delete(name))
		case strings.HasPrefix(name, pendingPrefix):
			errs = append(errs, m.settlePending(name, owners))
		case strings.HasPrefix(name, loginPrefix) && !known[name]:
			errs = append(errs, m.orphan(name))
		}
	}
	return errors.Join(errs...)
}

func (m *Manager) settlePending(name string, owners map[string]string) error {
	raw, err := m.cfg.Store.Get(name)
	var g given
	if err == nil && json.Unmarshal(raw, &g) == nil {
		if m.isArriving(g.Proxy) {
			return nil // whoever registers it settles it
		}
		kept := givenPrefix + secrets.Name(g.Proxy)
		_, err := m.cfg.Store.Get(kept)
		if owners[kept] == g.Proxy && errors.Is(err, fs.ErrNotExist) {
			if err := m.cfg.Store.Put(kept, raw); err != nil {
				return err
			}
		}
	}
	return m.cfg.Store.Delete(name)
}
