package catalog

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// elsewhere is where a fake redirects to: there it answers well.
const elsewhere = "/elsewhere"

// fake is a Consul server with faults.
type fake struct {
	*httptest.Server

	mu       sync.Mutex
	index    uint64
	nodes    []entry
	filtered bool
	noLeader bool
	status   int    // answered with, when not 0
	body     string // with status
	hang     bool   // nothing is answered any more, as by a stopped process
	restless bool   // no query blocks
	token    string // wanted, when not ""
	changed  chan struct{}
	asked    []string // index parameters of the health queries
	beats    int      // questions for the leader
	answered time.Time
}

func node(name, addr string, grpc int) entry {
	var e entry
	e.Node.Node, e.Node.Address, e.Node.ID = name, addr, "id-of-"+name
	e.Service.Meta = map[string]string{"grpc_port": strconv.Itoa(grpc), "grpc_tls_port": strconv.Itoa(grpc + 1), "version": "1.20.1"}
	return e
}

func newFake(t *testing.T, nodes ...entry) *fake {
	f := &fake{index: 10, nodes: nodes, changed: make(chan struct{})}
	f.Server = httptest.NewServer(f)
	t.Cleanup(func() {
		f.CloseClientConnections()
		f.Close()
	})
	return f
}

func (f *fake) addr() string { return f.Listener.Addr().String() }

// set changes something, and lets blocked queries see it.
func (f *fake) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	close(f.changed)
	f.changed = make(chan struct{})
}

// list replaces the servers, as a change in Consul does.
func (f *fake) list(nodes ...entry) {
	f.set(func() { f.nodes = nodes; f.index++ })
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.hang {
		f.mu.Unlock()
		<-r.Context().Done()
		f.mu.Lock()
		return
	}
	if f.token != "" && r.Header.Get("X-Consul-Token") != f.token {
		http.Error(w, "ACL not found", http.StatusForbidden)
		return
	}
	if r.URL.Path == "/v1/status/leader" {
		f.beats++
		if f.status != 0 {
			http.Error(w, f.body, f.status)
			return
		}
		leader := "127.0.0.1:8300"
		if f.noLeader {
			leader = ""
		}
		_ = json.NewEncoder(w).Encode(leader)
		return
	}
	if r.URL.Path == elsewhere {
		r.URL.RawQuery = "passing&stale&near"
	} else if !r.URL.Query().Has("passing") || !r.URL.Query().Has("stale") || r.URL.Path != healthPath {
		http.Error(w, "unexpected "+r.URL.String(), http.StatusBadRequest)
		return
	}
	f.asked = append(f.asked, r.URL.Query().Get("index"))
	index, _ := strconv.ParseUint(r.URL.Query().Get("index"), 10, 64)
	wait, _ := time.ParseDuration(r.URL.Query().Get("wait"))
	if index > 0 && index == f.index && f.status == 0 && !f.restless {
		f.block(r.Context(), wait)
	}
	if f.hang {
		f.mu.Unlock()
		<-r.Context().Done()
		f.mu.Lock()
		return
	}
	if f.status != 0 && r.URL.Path != elsewhere {
		w.Header().Set("Location", elsewhere)
		http.Error(w, f.body, f.status)
		return
	}
	w.Header().Set("X-Consul-Index", strconv.FormatUint(f.index, 10))
	// As in Consul, what comes out of its stream cache says nothing of either.
	streamed := index > 0 && !r.URL.Query().Has("near")
	w.Header().Set("X-Consul-Knownleader", strconv.FormatBool(!f.noLeader && !streamed))
	if f.filtered && !streamed {
		w.Header().Set("X-Consul-Results-Filtered-By-ACLs", "true")
	}
	f.answered = time.Now()
	_ = json.NewEncoder(w).Encode(f.nodes)
}

// block waits for a change, as a blocking query does.
func (f *fake) block(ctx context.Context, wait time.Duration) {
	changed := f.changed
	f.mu.Unlock()
	defer f.mu.Lock()
	select {
	case <-changed:
	case <-time.After(wait):
	case <-ctx.Done():
	}
}

func (f *fake) queries() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.asked...)
}

// start runs a catalog, with waits that suit a test, until the test's end.
func start(t *testing.T, cfg Config, adjust ...func(*timing)) *Catalog {
	t.Helper()
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	c.timing = timing{
		wait: 10 * time.Second, answer: time.Second, dial: time.Second, heartbeat: 200 * time.Millisecond,
		quiet: 20 * time.Millisecond, resolve: time.Minute, command: 5 * time.Second, rotate: 5 * time.Millisecond,
		backoff: 20 * time.Millisecond, backoffTo: 100 * time.Millisecond, steady: time.Second,
	}
	for _, f := range adjust {
		f(&c.timing)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(5 * time.Second):
			t.Error("Run does not end")
		}
	})
	return c
}

// plain is the configuration for a few fakes.
func plain(fakes ...*fake) Config {
	cfg := Config{TLS: TLS{Disabled: true}, Dial: dialLoopback}
	for i, f := range fakes {
		if i > 0 {
			cfg.Addresses += ","
		}
		cfg.Addresses += f.addr()
	}
	return cfg
}

// dialLoopback refuses addresses that the fakes' catalogs name.
func dialLoopback(ctx context.Context, network, addr string) (net.Conn, error) {
	if ap, err := netip.ParseAddrPort(addr); err != nil || !ap.Addr().IsLoopback() {
		return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
	}
	var d net.Dialer
	return d.DialContext(ctx, network, addr)
}

// want takes the next set and compares the ids in it.
func want(t *testing.T, c *Catalog, ids ...string) []Server {
	t.Helper()
	select {
	case servers := <-c.Updates():
		got := []string{}
		for _, s := range servers {
			got = append(got, s.ID)
		}
		if fmt.Sprint(got) != fmt.Sprint(ids) {
			t.Fatalf("servers %v, want %v", got, ids)
		}
		return servers
	case <-time.After(5 * time.Second):
		t.Fatalf("no update, want %v; status %+v", ids, c.Status())
		return nil
	}
}

// none fails if a set comes within a short time.
func none(t *testing.T, c *Catalog) {
	t.Helper()
	select {
	case servers := <-c.Updates():
		t.Fatalf("unexpected update %v", servers)
	case <-time.After(150 * time.Millisecond):
	}
}

// eventually waits for a status.
func eventually(t *testing.T, c *Catalog, what string, ok func(Status) bool) Status {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		s := c.Status()
		if ok(s) {
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: status is %+v", what, s)
		}
	}
}
