package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lictor-mesh/lictor/daemon/bootstrap"
	"github.com/lictor-mesh/lictor/daemon/catalog"
	"github.com/lictor-mesh/lictor/daemon/config"
	"github.com/lictor-mesh/lictor/daemon/credentials"
	"github.com/lictor-mesh/lictor/daemon/owners"
	"github.com/lictor-mesh/lictor/daemon/process"
	"github.com/lictor-mesh/lictor/daemon/registry"
	"github.com/lictor-mesh/lictor/daemon/server"
	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// self is this process, as a registration would have it.
func self(t *testing.T) *state.Process {
	t.Helper()
	boot, err := owners.BootID()
	if err != nil {
		t.Fatal(err)
	}
	start, err := process.Start(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	return &state.Process{PID: os.Getpid(), Start: start, BootID: boot, UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
}

// What a proxy asked for, what Consul says of it, and where its files are, come
// together in its bootstrap.
func TestWhatABootstrapIsMadeOf(t *testing.T) {
	p := self(t)
	b := backend{&Daemon{resolver: owners.Resolver{BootID: p.BootID}}}
	b.cfg = config.Config{VIPPort: 8702, TLS: config.TLS{ServerName: "of.the.daemon"}}
	v := view(only6)
	v.ID, v.Node, v.Process = "web", "pod-virtual", p
	v.Envoy = &state.EnvoySettings{AdminBind: "127.0.0.1:19001"}
	central := catalog.Params{Service: "web", Datacenter: "dc1", Config: map[string]any{"envoy_stats_bind_addr": "127.0.0.1:9"}}
	files := credentials.Files{Dir: "/run/secrets", Token: "the-token", CA: true, Client: true}

	got, err := b.params(t.Context(), v, files, central)
	if err != nil {
		t.Fatal(err)
	}
	if got.XDS.String() != "[ff05::7777:0:1]:8702" || got.TokenFile != "/run/secrets/token.json" ||
		got.TLS == nil || *got.TLS != (bootstrap.TLS{CAFile: "/run/secrets/ca.json", ClientFile: "/run/secrets/client.json", ServerName: "of.the.daemon"}) {
		t.Errorf("params %+v, TLS %+v", got, got.TLS)
	}
	if home, ok := got.Env("PATH"); !ok || home != os.Getenv("PATH") {
		t.Errorf("PATH of the process is %q", home)
	}
	document, err := bootstrap.Build(got)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"19001", "dc1", "/run/secrets/token.json", "pod-virtual"} {
		if !strings.Contains(string(document), want) {
			t.Errorf("no %s in the bootstrap", want)
		}
	}
	if strings.Contains(string(document), files.Token) || !json.Valid(document) {
		t.Error("the token is in the bootstrap, or it is no JSON")
	}

	another := *p
	another.Start-- // had the pid before
	v.Process = &another
	if got, err := b.params(t.Context(), v, files, central); err != nil || got.Env != nil {
		t.Errorf("the environment of another process is taken for the proxy's: %v", err)
	}
	v.Envoy.ServerName = "of.the.proxy"
	if got, err := b.params(t.Context(), v, files, central); err != nil || got.TLS.ServerName != "of.the.proxy" {
		t.Errorf("the proxy's own server name: %+v, %v", got.TLS, err)
	}
	v.Process = nil
	if got, err := b.params(t.Context(), v, credentials.Files{}, central); err != nil || got.TLS != nil || got.TokenFile != "" || got.Env != nil {
		t.Errorf("without files and process: %+v, %v", got, err)
	}
}

// The CA certificates for a proxy's metrics are read as the proxy sees them.
func TestCAsOfMetrics(t *testing.T) {
	testenv.Files(t)
	p := self(t)
	b := backend{&Daemon{resolver: owners.Resolver{BootID: p.BootID}}}
	dir := t.TempDir()
	for _, name := range []string{"a.pem", "b.pem"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	v := view(both)
	v.ID, v.Node = "web", "n"
	v.Envoy = &state.EnvoySettings{Prometheus: &state.PrometheusSettings{CACertsPath: dir}}
	for name, process := range map[string]*state.Process{"of a process": p, "of the host": nil} {
		v.Process = process
		got, err := b.params(t.Context(), v, credentials.Files{}, catalog.Params{})
		if err != nil || strings.Fields(string(got.PrometheusCAs))[1] != "b.pem" {
			t.Errorf("%s: %q, %v", name, got.PrometheusCAs, err)
		}
	}
	over, hangUp := context.WithCancel(t.Context())
	hangUp()
	if _, err := b.params(over, v, credentials.Files{}, catalog.Params{}); !errors.Is(err, context.Canceled) {
		t.Errorf("read for a caller that has hung up: %v", err)
	}
	v.Envoy.Prometheus.CACertsPath = filepath.Join(dir, "missing")
	if _, err := b.params(t.Context(), v, credentials.Files{}, catalog.Params{}); !errors.Is(err, server.ErrInvalid) || !strings.Contains(err.Error(), "ca_certs_path") {
		t.Errorf("a directory that is not there: %v", err)
	}
}

// What may be there soon is told from what is wrong, by its sentence alone.
func TestNotYet(t *testing.T) {
	cause := errors.New("rpc error: code = NotFound")
	for name, tc := range map[string]struct {
		err   error
		words string
	}{
		"Consul":  {&catalog.Problem{Sentence: "Consul does not know the proxy web yet", Err: cause}, "not yet: Consul does not know the proxy web yet"},
		"a token": {&credentials.NotReadyError{Sentence: "the bearer token is expired", Err: cause}, "not yet: the bearer token is expired"},
	} {
		if got := notYet(tc.err); !errors.Is(got, server.ErrNotYet) || got.Error() != tc.words {
			t.Errorf("%s: %v", name, got)
		}
	}
	if got := notYet(cause); errors.Is(got, server.ErrNotYet) {
		t.Errorf("a fault of ours is something to wait for: %v", got)
	}
}

// A store that cannot be opened at the start, as on a full disk, is opened when
// that is over.
func TestSealedSecretsAreOpenedLate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := &lateStore{dir: dir}
	if err := s.Put("a", []byte("secret")); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("Put() without a directory = %v", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Put("a", []byte("secret")); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get("a"); err != nil || string(got) != "secret" {
		t.Errorf("Get() = %q, %v", got, err)
	}
	if names, err := s.List(); err != nil || len(names) != 1 {
		t.Errorf("List() = %v, %v", names, err)
	}
	if err := s.Delete("a"); err != nil {
		t.Error(err)
	}
}

// Two daemons whose sockets are in one directory do not sweep away each other's
// secrets.
func TestWhereSecretsAre(t *testing.T) {
	for socket, want := range map[string]string{
		"/run/lictor/lictor.sock": "/run/lictor/proxies",
		"/run/lictor/b.sock":      "/run/lictor/b-proxies",
		"/tmp/s":                  "/tmp/s-proxies",
	} {
		if got := secretsBeside(socket); got != want {
			t.Errorf("%s: %s, want %s", socket, got, want)
		}
	}
}

// What was adopted from the kernel is not waited for: nobody will tell its node.
func TestWhatConsulCannotBeAsked(t *testing.T) {
	known := view(only6)
	known.Node = "pod-virtual"
	alone := known
	alone.Servers = nil
	for name, tc := range map[string]struct {
		v    registry.View
		want error
	}{"known": {known, nil}, "no server": {alone, server.ErrNotYet}, "adopted": {view(only6), server.ErrInvalid}} {
		if err := askable(tc.v); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
}
