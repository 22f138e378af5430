// Package credentials gives every proxy its ACL token and its TLS files, keeps
// them fresh, and deletes in Consul what was issued for proxies that are gone.
//
// A token is given at the registration and kept sealed, or it is in a file that
// is followed, or an auth method issues it. Whatever it is, the proxy's Envoy
// reads it from a file in a directory of its own, and is made to open a new
// stream when it has changed: a stream goes on under the token that it began
// with, and when that one is deleted Consul says nothing for up to five minutes,
// and sends no change meanwhile.
package credentials

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/lictor-mesh/lictor/daemon/catalog"
	"github.com/lictor-mesh/lictor/daemon/registry"
	"github.com/lictor-mesh/lictor/daemon/secrets"
	"github.com/lictor-mesh/lictor/state"
)

// Registry is what a Manager needs of the registry.
type Registry interface {
	Snapshot(ctx context.Context) (registry.Snapshot, error)
	// Note journals LoggedIn, LoggedOut or CredentialChanged.
	Note(ctx context.Context, fact state.Body) error
}

// Consul is what a Manager needs of the servers.
type Consul interface {
	Login(ctx context.Context, q catalog.LoginQuery) (catalog.Token, error)
	Logout(ctx context.Context, secretID, datacenter string) error
	BootstrapParams(ctx context.Context, ask catalog.ParamsQuery) (catalog.Params, error)
	// Rights says what a token lacks that BootstrapParams does not ask for.
	Rights(ctx context.Context, q catalog.RightsQuery) error
}

// Store keeps secrets sealed.
type Store interface {
	Put(name string, secret []byte) error
	Get(name string) ([]byte, error) // fs.ErrNotExist for none
	Delete(name string) error
	List() ([]string, error)
}

// Streams makes a proxy's Envoy open a new stream.
type Streams interface {
	// Close closes the proxy's connections to servers. None is success.
	Close(p state.Proxy) error
}

// Config is what a Manager works with; all of it is required but Log.
type Config struct {
	Registry Registry
	Consul   Consul
	Store    Store
	Streams  Streams
	Base     *secrets.Base // directories of proxies that name none
	TLS      catalog.TLS   // the daemon's; its files are followed
	BootID   string
	Host     string // this host's name, for the description of tokens
	Log      *slog.Logger
}

// Waits. A login costs the servers a write: many proxies at once must not
// stampede.
const (
	refreshEvery = time.Second      // between looks at the registrations
	pollEvery    = 2 * time.Second  // between looks at followed files
	settle       = 2 * time.Second  // for Envoy to read a file that was swapped
	linger       = 10 * time.Second // before a token goes whose streams were closed
	learnWait    = 3 * time.Second  // at most, for every server to know a new token
	probeEvery   = 30 * time.Second
	retryFirst   = time.Second
	retryMost    = time.Minute
	rightsEvery  = 15 * time.Minute // between looks at the rights of a token that has them
	loginsPerSec = 20
)

// Manager is the credentials of a host. Prepare, Ready, Bounced and Stats may be
// called from anywhere while Run runs.
type Manager struct {
	cfg    Config
	log    *slog.Logger
	pace   pace
	linger time.Duration // shorter in a test
	stats  counters
	wake   chan struct{}      // asks for a refresh; a second request while one waits is the same
	asks   chan chan struct{} // the same for who waits until it is done, which closes what was sent

	given sync.Mutex // held while what came with registrations is put in force or dropped

	mu        sync.Mutex // guards what follows
	workers   map[string]*worker
	arriving  map[string]int       // secrets of registrations that are being made, by proxy
	asked     map[string]bool      // proxies without a credential that wanted files nevertheless
	leaving   map[string]time.Time // by accessor: tokens to be logged out, and not before
	outs      map[string]*logout   // by accessor: tokens being logged out
	orphans   map[string]state.LoginRecord
	lifetimes map[string]time.Duration // by auth method: as learned, where Consul does not tell
	tls       material
}

// New makes a Manager; it starts nothing.
func New(cfg Config) *Manager {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Manager{
		cfg: cfg, log: cfg.Log.With("component", "credentials"),
		linger: linger, pace: pace{every: time.Second / loginsPerSec, burst: loginsPerSec},
		wake: make(chan struct{}, 1), asks: make(chan chan struct{}), stats: newCounters(),
		workers: map[string]*worker{}, arriving: map[string]int{}, asked: map[string]bool{}, leaving: map[string]time.Time{},
		outs: map[string]*logout{}, orphans: map[string]state.LoginRecord{}, lifetimes: map[string]time.Duration{},
	}
}

// Run follows the registrations until ctx ends, and returns nil after all that
// it started has stopped. Nobody is logged out by that: Envoys run on.
func (m *Manager) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx) // also when it ends with an error
	defer cancel()
	if err := m.start(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	look, tls := time.NewTicker(refreshEvery), time.NewTicker(pollEvery)
	defer look.Stop()
	defer tls.Stop()
	var asked chan struct{} // who waits for this look; nil: nobody
	for {
		err := m.refresh(ctx, &wg)
		if asked != nil {
			close(asked) // also when it failed: nobody would ever be told
			asked = nil
		}
		if err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		case <-tls.C:
			m.followTLS(ctx)
		case <-m.wake:
		case asked = <-m.asks:
		}
	}
}

// start reads the daemon's TLS files and finds what a former process left.
func (m *Manager) start(ctx context.Context) error {
	m.followTLS(ctx)
	snap, err := m.cfg.Registry.Snapshot(ctx)
	if err != nil {
		return fmt.Errorf("read registrations: %w", err)
	}
	keep := map[string]bool{}
	m.mu.Lock()
	for id := range snap.State.Proxies {
		keep[id] = true
		if m.cfg.Base.Has(id) {
			m.asked[id] = true
		}
	}
	m.mu.Unlock()
	if n, err := m.cfg.Base.Sweep(keep); err != nil {
		m.log.Warn("left-over secrets cannot be removed", "err", err)
	} else if n > 0 {
		m.log.Info("left-over secrets removed", "directories", n)
	}
	if err := m.sweepStore(ctx); err != nil {
		m.log.Warn("sealed files cannot be swept", "err", err)
	}
	return nil
}

// refresh makes the workers follow the registrations, and the logouts what is no
// longer used.
func (m *Manager) refresh(ctx context.Context, wg *sync.WaitGroup) error {
	snap, err := m.cfg.Registry.Snapshot(ctx)
	if errors.Is(err, registry.ErrStopped) {
		return nil // all is stopping
	}
	if err != nil {
		return fmt.Errorf("read registrations: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, p := range snap.State.Proxies {
		w := m.workers[id]
		if w == nil && m.wanted(p) {
			w = newWorker(m, id, *p)
			m.workers[id] = w
			wg.Go(func() { w.run(ctx) })
		}
		if w != nil {
			w.follow(*p)
		}
	}
	for id, w := range m.workers {
		if snap.State.Proxies[id] == nil {
			delete(m.asked, id)
			w.leave() // it takes itself off the list when its files are gone
		}
	}
	m.logouts(ctx, wg, snap.State)
	return nil
}

// wanted says whether a proxy is in need of files: not one that was only given
// a VIP.
func (m *Manager) wanted(p *state.Proxy) bool {
	return p.Credential != nil && p.Credential.Type != state.CredentialNone ||
		p.Envoy != nil && p.Envoy.SecretsDir != "" || p.Process != nil || m.asked[p.ID]
}

// Files is what a proxy's bootstrap refers to.
type Files struct {
	Dir    string // as the proxy sees it
	Token  string // "" without a credential
	CA     bool   // whether there is a file of CAs: there is not with TLS disabled
	Client bool   // whether there is one of a client certificate
	// TLS of the proxy's own, for asking on its behalf; nil means the daemon's.
	TLS *catalog.ProxyTLS
}

// NotReadyError says why a proxy has no files yet.
type NotReadyError struct {
	// Sentence says what is wrong and what to do.
	Sentence string
	Err      error
}

// Error is the sentence.
func (e *NotReadyError) Error() string { return e.Sentence }

// Unwrap is the cause, nil when there is none.
func (e *NotReadyError) Unwrap() error { return e.Err }

// readyWait is how long Ready waits for what is under way.
const readyWait = 5 * time.Second

// Ready gives a registered proxy's files, once they are written. It waits for
// what is under way for a few seconds; what is wrong is a *NotReadyError.
func (m *Manager) Ready(ctx context.Context, id string) (Files, error) {
	ctx, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	m.mu.Lock()
	m.asked[id] = true
	m.mu.Unlock()
	looked := make(chan struct{})
	select {
	case m.asks <- looked:
		<-looked
	case <-ctx.Done():
		return Files{}, &NotReadyError{Sentence: fmt.Sprintf("the files of the proxy %s are not written yet: lictord is starting or stopping", id), Err: ctx.Err()}
	}
	m.mu.Lock()
	w := m.workers[id]
	if w == nil || !w.stays() {
		w = nil
		delete(m.asked, id)
	}
	m.mu.Unlock()
	if w == nil {
		return Files{}, &NotReadyError{Sentence: fmt.Sprintf("the proxy %s is not registered, or was a moment ago: ask again", id)}
	}
	return w.ready(ctx)
}

// Bounced says that a server ended a connection of a proxy soon after it began.
// Whether that is the token's fault is found out by asking that server. It
// returns at once.
func (m *Manager) Bounced(id string, server netip.AddrPort) {
	m.mu.Lock()
	w := m.workers[id]
	m.mu.Unlock()
	if w != nil {
		w.bounced(server)
	}
}

// Wake makes the Manager look at the registrations now.
func (m *Manager) Wake() {
	select {
	case m.wake <- struct{}{}:
	default: // one is waiting
	}
}

// jitter is a random time between three quarters of d and d and a quarter.
func jitter(d time.Duration) time.Duration {
	return d - d/4 + rand.N(d/2+1)
}
