package credentials

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/lictor-mesh/lictor/daemon/catalog"
	"github.com/lictor-mesh/lictor/state"
)

// logout is a token on its way out.
type logout struct {
	failures int
	busy     bool
	next     time.Time
}

// maxLogouts bounds those under way at a time.
const maxLogouts = 4

// adopt finds the newest token that a former process of lictord got for a proxy,
// nil for none, and names the others.
func (m *Manager) adopt(ctx context.Context, id string, l *state.Login) (best *held, others []string) {
	snap, err := m.cfg.Registry.Snapshot(ctx)
	if err != nil {
		return nil, nil // all is stopping
	}
	for accessor, rec := range snap.State.Logins {
		if rec.ProxyID != id || m.leaves(accessor) {
			continue
		}
		others = append(others, accessor)
		h, err := m.unseal(rec.Key)
		if err != nil {
			m.log.Warn("token of an earlier login cannot be used, logging in anew", "proxy", id, "accessor", accessor, "err", err)
			continue
		}
		h.kept = true
		if h.of(l) && !h.expired() && (best == nil || h.Issued.After(best.Issued)) {
			best = h
		}
	}
	if best != nil {
		others = slices.DeleteFunc(others, func(a string) bool { return a == best.Accessor })
	}
	return best, others
}

func (m *Manager) leaves(accessor string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, leaves := m.leaving[accessor]
	return leaves
}

func (m *Manager) unseal(key string) (*held, error) {
	raw, err := m.cfg.Store.Get(key)
	if err != nil {
		return nil, err
	}
	h := &held{}
	if json.Unmarshal(raw, h) != nil || h.SecretID == "" {
		return nil, fmt.Errorf("unseal %s: there is no token in it", key) // the cause may quote it
	}
	return h, nil
}

// orphan has a token logged out that was sealed but not journaled.
func (m *Manager) orphan(key string) error {
	h, err := m.unseal(key)
	if err != nil {
		return errors.Join(err, m.cfg.Store.Delete(key)) // it says nothing to anybody
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.orphans[h.Accessor] = state.LoginRecord{
		Accessor: h.Accessor, ProxyID: h.Proxy, AuthMethod: h.AuthMethod, Datacenter: h.Datacenter, Expires: h.Expires, Key: key,
	}
	return nil
}

// release has tokens logged out that no stream uses any more, in a while: one
// that was opened as the token was swapped may have begun with it.
func (m *Manager) release(accessors []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, a := range accessors {
		m.leaving[a] = time.Now().Add(m.linger)
	}
}

// logouts starts what is due of logging out. The caller holds mu.
func (m *Manager) logouts(ctx context.Context, wg *sync.WaitGroup, s state.State) {
	used := map[string]bool{}
	undecided := map[string]bool{} // proxies of which it is not known yet what they use
	for id, w := range m.workers {
		accessors, known := w.uses()
		if !known {
			undecided[id] = true
		}
		maps.Copy(used, accessors)
	}
	records := map[string]state.LoginRecord{}
	for accessor, rec := range s.Logins {
		p := s.Proxies[rec.ProxyID]
		waits := p != nil && (m.workers[rec.ProxyID] == nil && m.wanted(p) || undecided[rec.ProxyID])
		if !used[accessor] && !waits {
			records[accessor] = rec
		}
	}
	for accessor, rec := range m.orphans {
		records[accessor] = rec
	}
	busy := 0
	for accessor := range m.leaving {
		if _, still := records[accessor]; !still && !used[accessor] {
			delete(m.leaving, accessor)
			delete(m.outs, accessor)
		}
	}
	for _, out := range m.outs {
		if out.busy {
			busy++
		}
	}
	now := time.Now()
	for accessor, rec := range records {
		at, waits := m.leaving[accessor]
		if !waits {
			m.leaving[accessor] = now
			at = now
		}
		out := m.outs[accessor]
		if out == nil {
			out = &logout{}
			m.outs[accessor] = out
		}
		if out.busy || busy >= maxLogouts || now.Before(at) || now.Before(out.next) {
			continue
		}
		out.busy = true
		busy++
		wg.Go(func() { m.logOut(ctx, rec, out) })
	}
}

// logOut deletes a token in Consul, journals that, and removes what was sealed.
func (m *Manager) logOut(ctx context.Context, rec state.LoginRecord, out *logout) {
	err := m.caught(rec.ProxyID, func() error { return m.logOutNow(ctx, rec) })
	m.mu.Lock()
	defer m.mu.Unlock()
	out.busy = false
	if err == nil {
		delete(m.orphans, rec.Accessor)
		m.Wake() // there may be more
		return
	}
	if ctx.Err() != nil {
		return
	}
	out.failures++
	out.next = time.Now().Add(backoff(out.failures))
	m.stats.fail(ReasonLogout)
	if out.failures == 1 {
		m.log.Warn("token cannot be logged out yet", "proxy", rec.ProxyID, "accessor", rec.Accessor, "problem", catalog.SentenceOf(err))
	}
}

func (m *Manager) logOutNow(ctx context.Context, rec state.LoginRecord) error {
	ended := !rec.Expires.IsZero() && time.Now().After(rec.Expires)
	h, err := m.unseal(rec.Key)
	switch {
	case err != nil && !ended:
		return fmt.Errorf("%w; delete the token by its accessor: consul acl token delete -accessor-id %s", err, rec.Accessor)
	case err == nil:
		if err := m.pace.wait(ctx); err != nil {
			return err
		}
		// Also where its time is over: this host's clock may be ahead.
		if err := m.cfg.Consul.Logout(ctx, h.SecretID, rec.Datacenter); err != nil && !ended {
			return err
		}
	}
	if err := m.cfg.Registry.Note(ctx, state.LoggedOut{ID: rec.ProxyID, Accessor: rec.Accessor}); err != nil {
		return err
	}
	m.stats.add(&m.stats.logouts)
	m.log.Info("logged out", "proxy", rec.ProxyID, "accessor", rec.Accessor)
	return m.cfg.Store.Delete(rec.Key)
}
