package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/daemon/owners"
	"github.com/lictor-mesh/lictor/daemon/process"
	"github.com/lictor-mesh/lictor/daemon/registry"
	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/tools/testbed/reexec"
	"github.com/lictor-mesh/lictor/tools/testbed/sandbox"
)

// A process that becomes another with SIGTERM blocked, as lictor exec does.
func init() {
	reexec.Handle("blocked", func() error {
		runtime.LockOSThread()
		var mask unix.Sigset_t
		mask.Val[0] = 1 << (unix.SIGTERM - 1)
		if err := unix.PthreadSigmask(unix.SIG_BLOCK, &mask, nil); err != nil {
			return err
		}
		path, err := exec.LookPath(os.Args[1])
		if err != nil {
			return err
		}
		return syscall.Exec(path, os.Args[1:], os.Environ())
	})
}

func blocked(args ...string) *exec.Cmd {
	return &exec.Cmd{Path: reexec.Path, Args: append([]string{reexec.Argv0("blocked")}, args...), Stderr: os.Stderr}
}

// child runs a command in a namespace, in the test's own for nil, until the
// test's end.
type child struct {
	*exec.Cmd
	ended chan struct{}
}

func start(t *testing.T, ns *sandbox.Netns, cmd *exec.Cmd) *child {
	t.Helper()
	c := &child{cmd, make(chan struct{})}
	begin := cmd.Start
	if ns != nil {
		begin = func() error { return ns.Do(cmd.Start) }
	}
	if err := begin(); err != nil {
		t.Fatal(err)
	}
	go func() { defer close(c.ended); _ = cmd.Wait() }()
	t.Cleanup(c.kill)
	return c
}

func (c *child) kill() {
	_ = c.Process.Kill()
	<-c.ended
}

func (c *child) alive() bool {
	select {
	case <-c.ended:
		return false
	default:
		return true
	}
}

func sleeper() *exec.Cmd { return exec.Command("sleep", "600") }

func bootID(t testing.TB) string {
	t.Helper()
	id, err := owners.BootID()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func processOf(t testing.TB, pid int) *state.Process {
	t.Helper()
	began, err := process.Start(pid)
	if err != nil {
		t.Fatal(err)
	}
	return &state.Process{PID: pid, Start: began, BootID: bootID(t)}
}

// fakeRegistry is a registry of one proxy, "web-1", at most.
type fakeRegistry struct {
	mu       sync.Mutex
	proxy    *state.Proxy
	fail     error
	released []state.Process
}

func (r *fakeRegistry) Snapshot(context.Context) (registry.Snapshot, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	snap := registry.Snapshot{State: state.State{Proxies: map[string]*state.Proxy{}}}
	if r.proxy != nil {
		p := *r.proxy
		snap.State.Proxies[p.ID] = &p
	}
	return snap, nil
}

func (r *fakeRegistry) Release(_ context.Context, id string, p state.Process) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.fail != nil:
		return r.fail
	case r.proxy == nil || r.proxy.ID != id:
		return registry.ErrNotRegistered
	case *r.proxy.Process == p:
		r.proxy = nil
		r.released = append(r.released, p)
	}
	return nil
}

func (r *fakeRegistry) register(p *state.Process, s state.EnvoySettings, owner state.Owner) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.proxy = &state.Proxy{Registration: state.Registration{ID: "web-1", Owner: owner, Envoy: &s, Process: p}}
}

func (r *fakeRegistry) releases() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.released)
}

// manage runs a manager until the test's end, or until stop is called.
func manage(t *testing.T, r Registry, hold time.Duration) (m *Manager, stop func()) {
	t.Helper()
	return manageWith(t, Config{Registry: r, Hold: hold, HoldBoot: 3 * hold})
}

func manageWith(t *testing.T, cfg Config) (m *Manager, stop func()) {
	t.Helper()
	cfg.BootID = bootID(t)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(testWriter{t}, nil))
	}
	m = New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return m, stop
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// eventually waits until something holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not come to be that %s", what)
		}
	}
}

func phase(m *Manager) Phase {
	info, _ := m.Info("web-1")
	return info.Phase
}

// fakeEnvoy is an admin interface in a namespace.
type fakeEnvoy struct {
	mu      sync.Mutex
	asked   []string
	ready   bool
	quit    func()
	metrics string
}

func (e *fakeEnvoy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if r.URL.Path != "/ready" {
		e.asked = append(e.asked, r.Method+" "+r.URL.RequestURI())
	}
	switch r.URL.Path {
	case "/ready":
		if !e.ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	case "/quitquitquit":
		if e.quit != nil {
			go e.quit()
		}
	case "/stats/prometheus":
		_, _ = io.WriteString(w, e.metrics)
	case "/config_dump":
		_, _ = io.WriteString(w, strings.Repeat("{config}", 2000))
	}
}

func (e *fakeEnvoy) requests() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]string(nil), e.asked...)
}

// listenIn serves on an address in a namespace until the test's end.
func listenIn(t *testing.T, ns *sandbox.Netns, at string, handler http.Handler) {
	t.Helper()
	var l net.Listener
	err := ns.Do(func() (err error) { l, err = net.Listen("tcp", at); return err })
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close(); <-done })
}

// clientIn speaks HTTP from inside a namespace, a connection a request.
func clientIn(ns *sandbox.Netns) *http.Client {
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (c net.Conn, err error) {
			err = ns.Do(func() (err error) { c, err = (&net.Dialer{}).DialContext(ctx, network, address); return err })
			return c, err
		},
	}}
}

func get(c *http.Client, url string) (body string, err error) {
	answer, err := c.Get(url)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", answer.Status, text)
	}
	return string(text), err
}

func ownerOf(t *testing.T, ns *sandbox.Netns) state.Owner {
	t.Helper()
	cookie, err := ns.Cookie()
	if err != nil {
		t.Fatal(err)
	}
	return state.Owner{Kind: state.OwnerNetns, ID: cookie, BootID: bootID(t)}
}

var errDisk = errors.New("the disk is full")
