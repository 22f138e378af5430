package credentials

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"time"

	"github.com/lictor-mesh/lictor/daemon/catalog"
	"github.com/lictor-mesh/lictor/state"
)

// Limits of what files may hold.
const (
	maxToken  = 4096
	maxBearer = 32 << 10
)

// held is a token that an auth method issued, as it is sealed.
type held struct {
	Proxy         string    `json:"proxy"`
	SecretID      string    `json:"secret_id"`
	Accessor      string    `json:"accessor"`
	AuthMethod    string    `json:"auth_method"`
	Datacenter    string    `json:"datacenter,omitempty"`
	Namespace     string    `json:"namespace,omitempty"`
	Partition     string    `json:"partition,omitempty"`
	Issued        time.Time `json:"issued"`
	Expires       time.Time `json:"expires,omitzero"`
	ExpiryUnknown bool      `json:"expiry_unknown,omitempty"`

	kept bool // sealed and journaled
}

func (h *held) of(l *state.Login) bool {
	return h.AuthMethod == l.AuthMethod && h.Datacenter == l.Datacenter && h.Namespace == l.Namespace && h.Partition == l.Partition
}

func (h *held) expired() bool { return !h.Expires.IsZero() && !time.Now().Before(h.Expires) }

// loginState is what a worker knows of its proxy's logins.
type loginState struct {
	held     *held
	former   []string // accessors that streams may still use
	searched bool     // tokens of a former process were looked for
	dead     bool     // the servers do not know the token in hand
	forced   bool     // log in at the next step, whatever the token in hand
	refused  int      // tokens in a row that the servers did not take

	failures int
	retryAt  time.Time
	problem  *trouble // of the last attempt
	renewAt  time.Time
	probeAt  time.Time // when a token of unknown expiry is looked at
	keepAt   time.Time // when a token is tried to be kept again
	// waitsForBearer: a login failed for the bearer, and a new one helps at once.
	waitsForBearer bool
	bearer         string // that was refused
}

// next is when something is due, zero for never.
func (l *loginState) next() time.Time {
	var next time.Time
	for _, t := range []time.Time{l.retryAt, l.probeAt, l.keepAt, l.renewAt} {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	if l.forced {
		next = time.Now()
	}
	if !l.retryAt.IsZero() && next.Before(l.retryAt) {
		next = l.retryAt // nothing is done before that
	}
	return next
}

func (w *worker) obtainByLogin(ctx context.Context, l *state.Login) (string, *trouble) {
	s := &w.login
	if s.held != nil && !s.held.of(l) {
		w.letGo()
	}
	if s.held == nil && !s.searched {
		s.searched = true
		h, older := w.m.adopt(ctx, w.id, l)
		if h != nil {
			w.hold(h)
		}
		if s.former = append(s.former, older...); len(older) > 0 {
			w.reopenSoon() // streams may still be under one of them
		}
	}
	w.probe(ctx)
	if s.held != nil && !s.held.kept && w.due(s.keepAt) {
		_ = w.keep(ctx, s.held) // it is said, and tried again
	}
	needed := s.held == nil || s.forced || s.dead || w.due(s.renewAt) || s.held.expired()
	usable := s.held != nil && !s.dead && !s.held.expired()
	if !needed {
		s.retryAt = time.Time{} // of a login that is no longer due
	} else if !time.Now().Before(s.retryAt) || w.newBearer(l) {
		if problem := w.logIn(ctx, l, usable); problem != nil {
			s.problem = problem
		} else {
			usable = true
		}
	}
	switch {
	case usable:
		return s.held.SecretID, nil
	case s.problem != nil:
		return "", s.problem
	}
	return "", &trouble{state: state.CredentialExpired, sentence: fmt.Sprintf("the ACL token of the proxy %s is no longer valid, and a login with the auth method %q is due", w.id, l.AuthMethod)}
}

// bearerOf reads the bearer token anew: whoever issues it replaces its file.
func (w *worker) bearerOf(l *state.Login) (string, error) {
	if l.BearerTokenFile == "" {
		g, err := w.m.givenTo(w.id)
		return g.Bearer, err
	}
	raw, err := w.view.Read(l.BearerTokenFile, maxBearer)
	bearer := strings.TrimSpace(string(raw))
	if err == nil && bearer == "" {
		err = fmt.Errorf("the bearer token file %s is empty", l.BearerTokenFile)
	}
	return bearer, err
}

// newBearer says whether a login that failed for its bearer has another one now.
func (w *worker) newBearer(l *state.Login) bool {
	if !w.login.waitsForBearer {
		return false
	}
	bearer, err := w.bearerOf(l)
	return err == nil && bearer != w.login.bearer
}

// logIn gets a new token, makes sure that the servers know it, and holds it. The
// one in hand, when it is usable, is let go after streams were opened with the
// new one.
func (w *worker) logIn(ctx context.Context, l *state.Login, usable bool) *trouble {
	s := &w.login
	bearer, err := w.bearerOf(l)
	if err != nil {
		w.m.stats.fail(ReasonBearer)
		return w.loginFailed(unreadable(fmt.Errorf("the bearer token for the auth method %q cannot be read: %w", l.AuthMethod, err)), "", usable)
	}
	if err := w.m.pace.wait(ctx); err != nil {
		return w.loginFailed(&trouble{state: state.CredentialExpired, sentence: err.Error()}, bearer, usable)
	}
	token, err := w.m.cfg.Consul.Login(ctx, catalog.LoginQuery{
		AuthMethod: l.AuthMethod, BearerToken: bearer, Datacenter: l.Datacenter, Namespace: l.Namespace, Partition: l.Partition,
		Meta: w.meta(l.Meta),
	})
	if err != nil {
		return w.loginFailed(w.m.explainLogin(err), bearer, usable)
	}
	h := &held{
		Proxy: w.id, SecretID: token.SecretID, Accessor: token.AccessorID,
		AuthMethod: l.AuthMethod, Datacenter: l.Datacenter, Namespace: l.Namespace, Partition: l.Partition,
		Issued: time.Now().UTC(), Expires: token.Expires, ExpiryUnknown: token.ExpiryUnknown,
	}
	w.claim(h.Accessor) // before it is journaled, or it would be logged out again
	if err := w.keep(ctx, h); err != nil && token.Expires.IsZero() {
		// It would be there for ever, known to nobody: better none.
		err = errors.Join(err, w.m.cfg.Consul.Logout(ctx, h.SecretID, h.Datacenter))
		return w.loginFailed(&trouble{
			state: state.CredentialLoginFailed, sentence: fmt.Sprintf("a token was issued, but not kept for its logout, so it was deleted again: %v", err),
		}, bearer, usable)
	}
	w.m.stats.add(&w.m.stats.logins)
	w.m.log.Info("logged in", "proxy", w.id, "auth_method", l.AuthMethod, "accessor", h.Accessor, "expires", h.Expires)
	w.known(ctx, h)
	if s.held != nil {
		s.former = append(s.former, s.held.Accessor)
	}
	w.hold(h)
	return nil
}

// hold makes a token the one in hand.
func (w *worker) hold(h *held) {
	s := &w.login
	*s = loginState{held: h, former: s.former, searched: true, refused: s.refused, keepAt: s.keepAt}
	lifetime := h.Expires.Sub(h.Issued)
	if h.Expires.IsZero() {
		lifetime = 0
		if h.ExpiryUnknown {
			lifetime = w.m.lifetime(h.AuthMethod)
			s.probeAt = time.Now().Add(jitter(probeEvery))
		}
	}
	if lifetime > 0 {
		s.renewAt = h.Issued.Add(lifetime*2/3 - lifetime/20).Add(jitter(lifetime / 20))
	}
}

// loginFailed notes a failure and when the next attempt is due. While the token
// in hand does, nothing is wrong with the proxy yet: it is only said.
func (w *worker) loginFailed(problem *trouble, bearer string, usable bool) *trouble {
	s := &w.login
	s.failures++
	s.forced = false
	s.retryAt = time.Now().Add(backoff(s.failures))
	s.waitsForBearer = problem.state == state.CredentialBadBearer || problem.state == state.CredentialUnreadable
	s.bearer = bearer
	if usable && s.failures == 1 {
		w.m.log.Warn("token cannot be renewed yet", "proxy", w.id, "problem", problem.sentence, "expires", s.held.Expires)
	}
	return problem
}

// explainLogin finds the state that a failed login leads to.
func (m *Manager) explainLogin(err error) *trouble {
	is, reason := state.CredentialLoginFailed, ReasonContact
	switch {
	case errors.Is(err, catalog.ErrBearer):
		is, reason = state.CredentialBadBearer, ReasonBearer
	case errors.Is(err, catalog.ErrAuthMethod):
		reason = ReasonAuthMethod
	case errors.Is(err, catalog.ErrBinding):
		reason = ReasonBinding
	case errors.Is(err, catalog.ErrNoACLs):
		reason = ReasonNoACLs
	case errors.Is(err, catalog.ErrLimited):
		reason = ReasonLimited
		m.pace.hold(jitter(time.Second))
	}
	if reason == ReasonContact {
		if _, t := judge(err); t != nil {
			is = t.state // of TLS
		}
	}
	m.stats.fail(reason)
	return &trouble{state: is, sentence: catalog.SentenceOf(err)}
}

// meta adds whose token it is, so that those of dead hosts can be found by their
// description.
func (w *worker) meta(own map[string]string) map[string]string {
	meta := map[string]string{"lictor-host": w.m.cfg.Host, "lictor-proxy": w.id}
	maps.Copy(meta, own)
	return meta
}

// keep seals a token for its logout and journals that there is one.
func (w *worker) keep(ctx context.Context, h *held) error {
	raw, err := json.Marshal(h)
	if err == nil {
		err = w.m.cfg.Store.Put(loginPrefix+h.Accessor, raw)
	}
	if err == nil {
		err = w.m.cfg.Registry.Note(ctx, state.LoggedIn{
			ID: w.id, Accessor: h.Accessor, AuthMethod: h.AuthMethod, Datacenter: h.Datacenter,
			Namespace: h.Namespace, Partition: h.Partition, Expires: h.Expires, Key: loginPrefix + h.Accessor,
		})
	}
	if h.kept = err == nil; h.kept {
		w.login.keepAt = time.Time{}
		return nil
	}
	w.m.stats.fail(ReasonDisk)
	w.m.log.Warn("token is not kept for its logout yet", "proxy", w.id, "accessor", h.Accessor, "err", err)
	w.login.keepAt = time.Now().Add(jitter(5 * time.Second))
	return err
}

// known waits until the servers that the proxy may use know a token: that takes
// up to 0.1 s after a login. One that does not answer is not waited for.
func (w *worker) known(ctx context.Context, h *held) {
	w.mu.Lock()
	p, own := w.reg, w.files.TLS
	w.mu.Unlock()
	snap, err := w.m.cfg.Registry.Snapshot(ctx)
	if err != nil {
		return // all is stopping
	}
	ctx, cancel := context.WithTimeout(ctx, learnWait)
	defer cancel()
	for _, id := range p.Ranked {
		s := snap.State.Servers[id]
		if s == nil {
			continue
		}
		addr := s.Addr4
		if !addr.IsValid() {
			addr = s.Addr6
		}
		for ctx.Err() == nil {
			what, problem := w.check(ctx, netip.AddrPortFrom(addr, s.Port), h.SecretID, own, p)
			if what != bad || !problem.unknownToken {
				break
			}
			_ = sleep(ctx, 50*time.Millisecond) // the loop looks at ctx
		}
	}
}

// refused says whether a new login may help against a token that the servers do
// not take. One that they do not know is replaced at once; one that may not do
// what it should, rarely: the next will have the same rights, unless somebody has
// changed the binding rules.
func (w *worker) refused(t trouble) (again bool) {
	s := &w.login
	if s.held == nil || t.state != state.CredentialRefused {
		return false
	}
	if s.forced && !t.unknownToken { // one is due already
		return false
	}
	s.refused++
	s.dead = s.dead || t.unknownToken
	var pause time.Duration
	switch {
	case !t.unknownToken:
		pause = jitter(min(time.Hour, time.Minute<<min(s.refused-1, 6)))
	case s.refused > 1:
		pause = backoff(s.refused)
	default:
		pause = jitter(200 * time.Millisecond) // many proxies may have lost theirs at once
	}
	if t.unknownToken && s.held.ExpiryUnknown && !s.held.expired() {
		w.m.learn(s.held.AuthMethod, time.Since(s.held.Issued))
	}
	s.forced, s.problem = true, &t
	s.retryAt = time.Now().Add(pause)
	return t.unknownToken
}

// probe looks at a token whose expiry Consul did not tell: so a lost one is
// noticed before its stream is, and its lifetime learned.
func (w *worker) probe(ctx context.Context) {
	s := &w.login
	if s.held == nil || !w.due(s.probeAt) {
		return
	}
	s.probeAt = time.Now().Add(jitter(probeEvery))
	w.mu.Lock()
	p, own := w.reg, w.files.TLS
	w.mu.Unlock()
	if what, problem := w.check(ctx, netip.AddrPort{}, s.held.SecretID, own, p); what == bad {
		w.refused(*problem)
	}
}

// letGo has a token that is no longer wanted logged out, after streams have a
// chance to use another.
func (w *worker) letGo() {
	s := &w.login
	if s.held != nil {
		s.former = append(s.former, s.held.Accessor)
	}
	former := s.former
	*s = loginState{former: former}
	if len(former) > 0 {
		w.reopenSoon()
	}
}

// lifetime is what was learned of an auth method's tokens, 0 for nothing.
func (m *Manager) lifetime(method string) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lifetimes[method]
}

func (m *Manager) learn(method string, lived time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if was := m.lifetimes[method]; was == 0 || lived < was {
		m.lifetimes[method] = lived
	}
}
