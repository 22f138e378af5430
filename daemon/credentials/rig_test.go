package credentials

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lictor-mesh/lictor/daemon/catalog"
	"github.com/lictor-mesh/lictor/daemon/process"
	"github.com/lictor-mesh/lictor/daemon/seal"
	"github.com/lictor-mesh/lictor/daemon/secrets"
	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

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
	testenv.Files(t)
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

// open makes the Manager of a host that starts.
func (r *rig) open() {
	r.t.Helper()
	store, err := seal.Open(r.dir, seal.Options{MachineID: "m"})
	if err != nil {
		r.t.Fatal(err)
	}
	r.cfg.Store = store
	r.m = New(r.cfg)
}

func (r *rig) start() {
	r.t.Helper()
	r.open()
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
