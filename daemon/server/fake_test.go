package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// fake is a Backend in memory. Its owner check is the server's to make.
type fake struct {
	mu      sync.Mutex
	proxies map[string]v1.Proxy
	callers []Caller          // of Register
	drained []string          // server=drained
	events  []v1.JournalEvent // of the journal
	fail    error             // every call returns it
	panics  any               // every call panics with it
	block   chan struct{}     // Status waits for it, or for its context

	feed chan v1.ConnectionEvent // handed to Connections; closed: it returns
	// connected gets a value when Connections was entered, and one when it left.
	connected chan struct{}
}

func newFake() *fake {
	return &fake{proxies: map[string]v1.Proxy{}, feed: make(chan v1.ConnectionEvent), connected: make(chan struct{}, 16)}
}

func (f *fake) enter() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.panics != nil {
		panic(f.panics)
	}
	return f.fail
}

func (f *fake) Register(_ context.Context, c Caller, id string, req v1.RegisterRequest) (v1.Registered, error) {
	if err := f.enter(); err != nil {
		return v1.Registered{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.callers = append(f.callers, c)
	owner := v1.Owner{Kind: "netns", ID: c.NetnsCookie, Resolved: true}
	if req.Owner == v1.OwnerAny {
		owner = v1.Owner{Kind: "any", Resolved: true}
	}
	if was, ok := f.proxies[id]; ok && was.Owner != owner {
		return v1.Registered{}, fmt.Errorf("proxy %q has another owner: %w", id, ErrConflict)
	}
	f.proxies[id] = v1.Proxy{ProxyID: id, NodeName: req.NodeName, VIP: "239.77.0.1", Owner: owner}
	return v1.Registered{
		ProxyID: id, VIP: "239.77.0.1", Port: 8702, Seq: 7,
		Server: &v1.ServerRef{ID: "s1", Address: netip.MustParseAddr("10.0.0.1"), GRPCPort: 8502},
	}, nil
}

func (f *fake) Deregister(_ context.Context, _ Caller, id string) error {
	if err := f.enter(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.proxies, id)
	return nil
}

func (f *fake) Proxies(context.Context) (all []v1.Proxy, err error) {
	if err := f.enter(); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.proxies {
		all = append(all, p)
	}
	return all, nil
}

func (f *fake) Proxy(_ context.Context, id string) (v1.Proxy, error) {
	if err := f.enter(); err != nil {
		return v1.Proxy{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	p, ok := f.proxies[id]
	if !ok {
		return p, fmt.Errorf("proxy %q is not registered: %w", id, ErrNotFound)
	}
	return p, nil
}

func (f *fake) History(_ context.Context, id string) (v1.History, error) {
	return v1.History{ProxyID: id, Oldest: 1}, f.enter()
}

func (f *fake) Bootstrap(_ context.Context, _ Caller, id string) ([]byte, error) {
	return fmt.Appendf(nil, `{"node":{"id":%q}}`, id), f.enter()
}

func (f *fake) Servers(context.Context) ([]v1.Server, error) { return nil, f.enter() }

func (f *fake) Fleet(context.Context) (v1.Fleet, error) { return v1.Fleet{Node: "n"}, f.enter() }

func (f *fake) Drain(_ context.Context, _ Caller, server string, drained, fleet bool) error {
	if err := f.enter(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	of := ""
	if fleet {
		of = " for the fleet"
	}
	f.drained = append(f.drained, fmt.Sprintf("%s=%v%s", server, drained, of))
	return nil
}

func (f *fake) StateAt(_ context.Context, seq uint64, at time.Time) ([]byte, error) {
	if seq == 666 {
		return nil, fmt.Errorf("event 666 is not kept, the oldest is 1000: %w", ErrGone)
	}
	return fmt.Appendf(nil, `{"seq":%d,"time":%q}`, seq, at.Format(time.RFC3339)), f.enter()
}

func (f *fake) Journal(ctx context.Context, since uint64, follow bool, fn func(v1.JournalEvent) error) error {
	if since == 666 {
		return fmt.Errorf("event 666 is not kept, the oldest is 1000: %w", ErrGone)
	}
	f.mu.Lock()
	events := f.events
	f.mu.Unlock()
	for _, event := range events {
		if event.Seq <= since {
			continue
		}
		if err := fn(event); err != nil {
			return err
		}
	}
	if err := f.enter(); err != nil {
		return err
	}
	if follow {
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

func (f *fake) Connections(ctx context.Context, fn func(v1.ConnectionEvent) error) error {
	if err := f.enter(); err != nil {
		return err
	}
	f.connected <- struct{}{}
	defer func() { f.connected <- struct{}{} }()
	for {
		select {
		case event, ok := <-f.feed:
			if !ok {
				return nil
			}
			if err := fn(event); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f *fake) Status(ctx context.Context) (v1.Status, error) {
	if err := f.enter(); err != nil {
		return v1.Status{}, err
	}
	if f.block != nil {
		select {
		case <-f.block:
		case <-ctx.Done():
			return v1.Status{}, ctx.Err()
		}
	}
	return v1.Status{Version: "test", Node: "host-1", Ready: true}, nil
}

// running is a server under test.
type running struct {
	*Server
	t      *testing.T
	socket string
	stop   func() error // ends it and gives what Run returned
}

// start runs a server until the test's end.
func start(t *testing.T, backend Backend, change ...func(*Server)) *running {
	t.Helper()
	testenv.NoLeaks(t)
	r := &running{t: t, socket: filepath.Join(socketDir(t), "lictor.sock")}
	r.Server = New(Config{Backend: backend, Socket: r.socket, HTTPAddr: "127.0.0.1:0"})
	for _, f := range change {
		f(r.Server)
	}
	if err := r.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- r.Run(ctx) }()
	r.stop = sync.OnceValue(func() error { cancel(); return <-ran })
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("Run() = %v", err)
		}
	})
	return r
}

// socketDir is a directory that every user may enter, with a short path:
// t.TempDir() is neither.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lictor-api-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// client is a client of the server, closed at the test's end.
func (r *running) client() *v1.Client {
	c := v1.NewClient(r.socket)
	r.t.Cleanup(c.Close)
	return c
}

// dial connects.
func (r *running) dial() net.Conn {
	r.t.Helper()
	conn, err := net.Dial("unix", r.socket)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	return conn
}

// over is an HTTP client that has just this connection.
func over(conn net.Conn) *http.Client {
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil },
	}}
}

// asRoot is for tests that ask for what is told to root alone.
func asRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		testenv.Privileged(t)
	}
}

// dialAs connects as another user.
func (r *running) dialAs(uid int) net.Conn {
	r.t.Helper()
	testenv.Privileged(r.t) // becomes another user
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		// On this thread alone, which is what the raw call is for.
		_, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid))
		if errno != 0 {
			done <- result{err: errno}
			return
		}
		conn, err := net.Dial("unix", r.socket)
		done <- result{conn, err}
	}()
	got := <-done
	if got.err != nil {
		r.t.Fatal(got.err)
	}
	r.t.Cleanup(func() { got.conn.Close() })
	return got.conn
}

// problem gives the document in an error of the client.
func problem(t *testing.T, err error) v1.Problem {
	t.Helper()
	var p *v1.ProblemError
	if !errors.As(err, &p) {
		t.Fatalf("error = %v (%T), want a problem document", err, err)
	}
	return p.Problem
}
