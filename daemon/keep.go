package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"strings"
	"sync"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/daemon/credentials"
	"github.com/lictor-mesh/lictor/daemon/lifecycle"
	"github.com/lictor-mesh/lictor/daemon/metrics"
	"github.com/lictor-mesh/lictor/daemon/registry"
	"github.com/lictor-mesh/lictor/daemon/seal"
	"github.com/lictor-mesh/lictor/daemon/secrets"
	"github.com/lictor-mesh/lictor/kernel"
)

// openSecrets readies what proxies' secrets are kept in: sealed beside the
// journal, and in the clear, for their Envoys alone, beside the socket.
func (d *Daemon) openSecrets(logger *slog.Logger) error {
	dir := secretsBeside(d.cfg.Socket)
	base, err := secrets.OpenBase(dir)
	if err != nil {
		return fmt.Errorf("open the directory of proxies' secrets: %w; the directory of --socket must be root's alone to write to", err)
	}
	d.secrets = base
	if !base.Volatile() {
		d.log.Warn("proxies' secrets are on a disk and outlast a reboot there; give a --socket below /run or another tmpfs", "dir", dir)
	}
	d.credentials = credentials.New(credentials.Config{
		Registry: d.registry, Consul: d.catalog, Store: &lateStore{dir: d.cfg.StateDir}, Base: base,
		Streams: credentials.KernelStreams{Sockets: d.kernel.Sockets, Destroy: kernel.Destroy},
		TLS:     d.catalogTLS(), BootID: d.resolver.BootID, Host: d.cfg.NodeName, Log: logger,
	})
	d.lifecycle = lifecycle.New(lifecycle.Config{Registry: d.registry, BootID: d.resolver.BootID, Log: logger})
	d.metrics.CollectCredentials(d.readCredentials)
	return nil
}

// secretsBeside is the directory of proxies' secrets: beside the socket, which no
// other lictord has, and of the socket's name, as others may have theirs there.
func secretsBeside(socket string) string {
	dir, name := filepath.Split(socket)
	if name = strings.TrimSuffix(name, ".sock"); name == "lictor" { // the default
		return filepath.Join(dir, "proxies")
	}
	return filepath.Join(dir, name+"-proxies")
}

// lateStore opens the sealed files when they are first needed: on a disk that is
// full at the start, redirects matter more. It is safe for concurrent use.
type lateStore struct {
	dir string

	mu    sync.Mutex
	store *seal.Store // nil: not opened yet
}

func (s *lateStore) open() (*seal.Store, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.store == nil {
		store, err := seal.Open(s.dir, seal.Options{})
		if err != nil {
			return nil, fmt.Errorf("open the sealed secrets below %s: %w", s.dir, err)
		}
		s.store = store
	}
	return s.store, nil
}

// Put implements credentials.Store.
func (s *lateStore) Put(name string, secret []byte) error {
	store, err := s.open()
	if err != nil {
		return err
	}
	return store.Put(name, secret)
}

// Get implements credentials.Store.
func (s *lateStore) Get(name string) ([]byte, error) {
	store, err := s.open()
	if err != nil {
		return nil, err
	}
	return store.Get(name)
}

// Delete implements credentials.Store.
func (s *lateStore) Delete(name string) error {
	store, err := s.open()
	if err != nil {
		return err
	}
	return store.Delete(name)
}

// List implements credentials.Store.
func (s *lateStore) List() ([]string, error) {
	store, err := s.open()
	if err != nil {
		return nil, err
	}
	return store.List()
}

// promise registers a proxy together with the secrets of its registration: they
// are sealed before it is promised, and in force for it afterwards.
func (b backend) promise(ctx context.Context, ask registry.Request, c *v1.Credential) (registry.View, error) {
	var token, bearer string
	if c != nil {
		token, bearer = c.Token, c.BearerToken
	}
	prepared, err := b.credentials.Prepare(ask.ID, ask.Credential, token, bearer)
	if err != nil {
		return registry.View{}, fmt.Errorf("%w, nothing was changed: %w", registry.ErrNotDurable, err)
	}
	view, err := b.registry.Register(ctx, ask)
	if err != nil {
		if aborted := prepared.Abort(); aborted != nil {
			b.log.Warn("secret of a refused registration is still there, sealed, until the next start", "proxy", ask.ID, "err", aborted)
		}
		return registry.View{}, err
	}
	b.lifecycle.Look()
	if err := prepared.Commit(); err != nil {
		return registry.View{}, fmt.Errorf("%w: the registration is in force, its secret is not; register again: %w", registry.ErrNotDurable, err)
	}
	return view, nil
}

// secretsDir is where a proxy finds its files, "" when it has none.
func (b backend) secretsDir(v registry.View) string {
	switch {
	case v.Envoy != nil && v.Envoy.SecretsDir != "":
		return v.Envoy.SecretsDir
	case v.Process == nil && v.Credential == nil:
		return ""
	}
	return b.secrets.Path(v.ID)
}

// maxTold bounds how many sentences of one kind a status has.
const maxTold = 3

// processStatus says what cannot be done for proxies' processes and files.
func (b backend) processStatus(st *v1.Status) {
	all := b.lifecycle.Problems()
	for _, problem := range all[:min(len(all), maxTold)] {
		st.Problems = append(st.Problems, "P"+strings.TrimPrefix(problem, "p"))
	}
	if more := len(all) - maxTold; more > 0 {
		st.Problems = append(st.Problems, fmt.Sprintf("%d more problems with proxies' processes are in lictord's log.", more))
	}
	stats := b.credentials.Stats()
	if stats.TLSProblem != "" {
		st.Problems = append(st.Problems, "The TLS files of --ca-certs, --tls-cert and --tls-key cannot be used, those read before stay in force: "+stats.TLSProblem)
	}
}

// readCredentials is what a scrape reads of credentials.
func (d *Daemon) readCredentials() metrics.Credentials {
	stats := d.credentials.Stats()
	failures := map[string]uint64{}
	for _, reason := range credentials.Reasons {
		failures[reason] = 0 // so that the first one is an increase
	}
	maps.Copy(failures, stats.Failures)
	return metrics.Credentials{
		Proxies: stats.Proxies, Logins: stats.Logins, Logouts: stats.Logouts, Reopened: stats.Reopened,
		Failures: failures, Leaving: stats.Leaving,
	}
}
