package credentials

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/lictor-mesh/lictor/daemon/catalog"
	"github.com/lictor-mesh/lictor/daemon/process"
	"github.com/lictor-mesh/lictor/daemon/registry"
	"github.com/lictor-mesh/lictor/daemon/seal"
	"github.com/lictor-mesh/lictor/daemon/secrets"
	"github.com/lictor-mesh/lictor/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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
	return catalog.Params{}, s.params
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

// rig is a host: its Manager may be stopped and started again.
type rig struct {
	t       *testing.T
	book    *book
	consul  *servers
	streams *closed
	base    *secrets.Base
	dir     string
	cfg     Config
	m       *Manager
	log     *lines
	stop    func()
}

type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// bubble runs a test under a clock that goes on when nothing else does.
func bubble(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		test(t, r)
		r.stop()
		r.noSecrets()
	})
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, book: newBook(), consul: newServers(), streams: &closed{}, dir: t.TempDir(), log: &lines{}}
	base, err := secrets.OpenBase(filepath.Join(r.dir, "run", "proxies"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = base.Close() })
	r.base = base
	r.cfg = Config{
		Registry: r.book, Consul: r.consul, Streams: r.streams, Base: base,
		TLS: catalog.TLS{Disabled: true}, BootID: boot, Host: "host-1",
		Log: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	return r
}

func (r *rig) start() {
	r.t.Helper()
	store, err := seal.Open(r.dir, seal.Options{MachineID: "m"})
	if err != nil {
		r.t.Fatal(err)
	}
	r.cfg.Store = store
	r.m = New(r.cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.m.Run(ctx) }()
	r.stop = func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("Run: %v", err)
		}
	}
}

// me is this process, as one that registers.
func me(t *testing.T) *state.Process {
	t.Helper()
	start, err := process.Start(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	return &state.Process{PID: os.Getpid(), Start: start, BootID: boot, UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
}

// register does what the API does: seal, promise, put in force.
func (r *rig) register(id string, c state.Credential, token, bearer string) {
	r.t.Helper()
	prepared, err := r.m.Prepare(id, &c, token, bearer)
	if err != nil {
		r.t.Fatal(err)
	}
	if r.book.proxy(id).ID == "" {
		r.book.do(state.ProxyRegistered{Proxy: state.Registration{ID: id, Node: "n", Index: 1, Credential: &c, Process: me(r.t)}})
	} else {
		r.book.do(state.ProxyChanged{ID: id, Credential: &c})
	}
	if err := prepared.Commit(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) deregister(id string) {
	r.book.do(state.ProxyDeregistered{ID: id, Reason: state.LeaveOperator})
	r.m.Wake()
}

// login registers a proxy that logs in, with a bearer in a file.
func (r *rig) login(id string) (bearerFile string) {
	r.t.Helper()
	bearerFile = filepath.Join(r.dir, "bearer-"+id)
	r.write(bearerFile, "bearer-of-"+id)
	r.register(id, state.Credential{Type: state.CredentialLogin, Login: &state.Login{
		AuthMethod: "mesh", BearerTokenFile: bearerFile, Meta: map[string]string{"pod": id},
	}}, "", "")
	return bearerFile
}

func (r *rig) write(path, content string) {
	r.t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// files waits for a proxy's files.
func (r *rig) files(id string) Files {
	r.t.Helper()
	files, err := r.m.Ready(r.t.Context(), id)
	if err != nil {
		r.t.Fatal(err)
	}
	return files
}

// inFile is the token that Envoy finds, "" for none.
func (r *rig) inFile(id string) string {
	r.t.Helper()
	return tokenIn(r.t, filepath.Join(r.base.Path(id), "token.json"))
}

func tokenIn(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	var doc struct {
		Resources []struct {
			GenericSecret struct {
				Secret struct {
					Inline string `json:"inline_string"`
				}
			} `json:"generic_secret"`
		}
	}
	if err != nil || json.Unmarshal(raw, &doc) != nil || len(doc.Resources) != 1 {
		t.Fatalf("%s: %q, %v", path, raw, err)
	}
	return doc.Resources[0].GenericSecret.Secret.Inline
}

// pass lets time go by, in steps that let files be looked at.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (r *rig) wantState(id string, is state.CredentialState) {
	r.t.Helper()
	if p := r.book.proxy(id); p.CredentialState != is {
		r.t.Errorf("%s is %q (%s), want %q", id, p.CredentialState, p.CredentialProblem, is)
	}
}

func (r *rig) wantFile(id, token string) {
	r.t.Helper()
	if got := r.inFile(id); got != token {
		r.t.Errorf("file of %s has %q, want %q", id, got, token)
	}
}

// noSecrets looks for secrets where none may be.
func (r *rig) noSecrets() {
	r.t.Helper()
	r.book.mu.Lock()
	defer r.book.mu.Unlock()
	journal, err := json.Marshal(r.book.journal)
	if err != nil {
		r.t.Fatal(err)
	}
	for where, text := range map[string]string{"journal": string(journal), "log": r.log.String()} {
		for _, secret := range []string{"secret-", "bearer-of-", "static-token"} {
			for line := range strings.Lines(strings.ReplaceAll(text, r.dir, "")) {
				if strings.Contains(strings.ReplaceAll(line, "/bearer-", ""), secret) {
					r.t.Errorf("a secret is in the %s: %s", where, line)
				}
			}
		}
	}
}

func netipAddr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
