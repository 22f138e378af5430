package catalog

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestFollows(t *testing.T) {
	f := newFake(t, node("b", "10.0.0.2", 8502), node("a", "10.0.0.1", 8502))
	c := start(t, plain(f))
	got := want(t, c, "a", "b")
	if got[0] != (Server{ID: "a", NodeID: "id-of-a", Addr4: netip.MustParseAddr("10.0.0.1"), Port: 8502, Version: "1.20.1"}) {
		t.Errorf("server %+v", got[0])
	}
	if s := c.Status(); s.Server != f.addr() || s.LastContact.IsZero() || s.Problem != "" || s.Errors != 0 {
		t.Errorf("status %+v", s)
	}

	f.list(node("a", "10.0.0.1", 8502), node("b", "10.0.0.2", 8502), node("c", "10.0.0.3", 8502))
	want(t, c, "a", "b", "c")
	f.mu.Lock()
	took := time.Since(f.answered)
	f.mu.Unlock()
	if took > 100*time.Millisecond {
		t.Errorf("handed on %v after Consul answered", took)
	}
	f.list(node("a", "10.0.0.9", 9502), node("c", "10.0.0.3", 8502)) // one is critical, one moved
	if got := want(t, c, "a", "c"); got[0].Addr4 != netip.MustParseAddr("10.0.0.9") || got[0].Port != 9502 {
		t.Errorf("server %+v", got[0])
	}
	f.set(func() { f.index++ }) // no change in what we see
	none(t, c)
}

// Nobody takes the sets: only the newest is kept.
func TestNewestWins(t *testing.T) {
	f := newFake(t, node("a", "10.0.0.1", 8502))
	c := start(t, plain(f))
	eventually(t, c, "contact", func(s Status) bool { return s.Server != "" })
	for i := range 20 {
		f.list(node(fmt.Sprintf("n%02d", i), "10.0.0.1", 8502))
		eventually(t, c, "followed", func(Status) bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.last[0].ID == fmt.Sprintf("n%02d", i)
		})
	}
	want(t, c, "n19")
	none(t, c)
}

func TestNextIndex(t *testing.T) {
	for _, tt := range []struct{ last, got, want uint64 }{
		{0, 0, 1}, {0, 7, 7}, {7, 7, 7}, {7, 9, 9}, {7, 6, 0}, {7, 0, 0}, {1, 1, 1},
	} {
		if got := nextIndex(tt.last, tt.got); got != tt.want {
			t.Errorf("nextIndex(%d, %d) = %d, want %d", tt.last, tt.got, got, tt.want)
		}
	}
}

// trip is a transport of HTTP that is a function.
type trip func(*http.Request) (*http.Response, error)

func (f trip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A query that blocks says for how long, which Consul bounds by ten minutes, and
// has time for the sixteenth that Consul adds by chance, and for the answer.
func TestABlockingQueryHasItsTime(t *testing.T) {
	c, err := New(Config{Addresses: "10.0.0.1", TLS: TLS{Disabled: true}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		index uint64
		query string
		limit time.Duration
	}{
		{0, "near=_agent&passing=&stale=", c.timing.answer},
		{7, "index=7&near=_agent&passing=&stale=&wait=5m0s", 5*time.Minute + 5*time.Minute/16 + c.timing.answer},
	} {
		var query string
		var limit time.Duration
		began := time.Now()
		c.client.Transport = trip(func(r *http.Request) (*http.Response, error) {
			end, _ := r.Context().Deadline()
			query, limit = r.URL.RawQuery, end.Sub(began)
			return nil, net.ErrClosed
		})
		if _, err := c.health(t.Context(), "10.0.0.1:8500", tt.index); !errors.Is(err, net.ErrClosed) {
			t.Errorf("index %d: %v", tt.index, err)
		}
		if query != tt.query || limit < tt.limit || limit > tt.limit+time.Since(began) {
			t.Errorf("index %d: %s in %v, want %s in %v", tt.index, query, limit, tt.query, tt.limit)
		}
	}
}

func TestIndexGoesBackwards(t *testing.T) {
	f := newFake(t, node("a", "10.0.0.1", 8502))
	c := start(t, plain(f))
	want(t, c, "a")
	f.set(func() { f.index = 3; f.nodes = []entry{node("b", "10.0.0.2", 8502)} })
	want(t, c, "b")
	for deadline := time.Now().Add(5 * time.Second); len(f.queries()) < 4 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	f.list(node("c", "10.0.0.3", 8502))
	want(t, c, "c")
	asked := f.queries()
	if len(asked) < 4 || !slices.Equal(asked[:4], []string{"", "10", "", "3"}) {
		t.Errorf("asked with indexes %q", asked)
	}
}

// What must never be applied: the last set stays, and status says why.
func TestNotApplied(t *testing.T) {
	tests := map[string]struct {
		fault func(*fake)
		want  string
	}{
		"empty":                {func(f *fake) { f.nodes = nil }, "lists no healthy Consul server"},
		"filtered":             {func(f *fake) { f.nodes = f.nodes[:1]; f.filtered = true }, "ACLs hide servers"},
		"filtered and empty":   {func(f *fake) { f.nodes = nil; f.filtered = true }, "ACLs hide servers"},
		"no leader":            {func(f *fake) { f.nodes = f.nodes[:1]; f.noLeader = true }, "leader"},
		"no gRPC port":         {func(f *fake) { f.nodes = []entry{node("a", "10.0.0.1", 0)} }, "set ports.grpc in"},
		"error 500":            {func(f *fake) { f.status, f.body = 500, "rpc error: No cluster leader" }, "has no leader"},
		"token refused":        {func(f *fake) { f.status, f.body = 403, "ACL not found" }, "wants a token"},
		"rate limited":         {func(f *fake) { f.status, f.body = 429, "rate limit exceeded" }, "limits requests"},
		"a redirect elsewhere": {func(f *fake) { f.status, f.body = 302, "" }, "cannot answer"},
		"answers nothing":      {func(f *fake) { f.hang = true }, "does not answer in time"},
		"something but Consul": {func(f *fake) { f.status, f.body = 200, "<html>" }, "cannot be asked"},
		"TLS wanted on the port": {func(f *fake) {
			f.status, f.body = 400, "Client sent an HTTP request to an HTTPS server."
		}, "wants TLS"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t, node("a", "10.0.0.1", 8502), node("b", "10.0.0.2", 8502))
			var log lines
			cfg := plain(f)
			cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
			c := start(t, cfg, func(tm *timing) { tm.answer = 300 * time.Millisecond })
			want(t, c, "a", "b")
			var before []entry
			f.set(func() { before = f.nodes; tt.fault(f); f.index++ })
			began := eventually(t, c, "problem", func(s Status) bool { return s.Problem != "" }).Since
			s := eventually(t, c, "problem", func(s Status) bool { return s.Errors > 6 })
			if !s.Since.Equal(began) {
				t.Errorf("no contact since %v, and later since %v", began, s.Since)
			}
			if !strings.Contains(s.Problem, tt.want) || !strings.Contains(s.Problem, f.addr()) && !strings.Contains(s.Problem, "ports.grpc") {
				t.Errorf("problem %q, want %q in it", s.Problem, tt.want)
			}
			if s.LastContact.IsZero() || s.Since.Before(s.LastContact) || s.Server != "" {
				t.Errorf("status %+v", s)
			}
			none(t, c)
			for _, server := range []string{f.addr(), "10.0.0.1:8500", "10.0.0.2:8500"} {
				if n := log.count("server=" + server + " problem="); n > 2 {
					t.Errorf("%s logged %d times for %d errors", server, n, s.Errors)
				}
			}
			if log.count("no contact with consul") == 0 {
				t.Error("not logged")
			}
			f.set(func() {
				f.nodes, f.filtered, f.noLeader, f.status, f.hang = append(before, node("c", "10.0.0.3", 8502)), false, false, 0, false
				f.index++
			})
			want(t, c, "a", "b", "c")
			if s := c.Status(); s.Problem != "" || s.Server == "" {
				t.Errorf("after it is mended: %+v", s)
			}
			if log.count("consul answers again") != 1 {
				t.Error("the end of it is not logged")
			}
		})
	}
}

// The server that is followed dies, or is stopped: another is followed.
func TestRotation(t *testing.T) {
	for name, fault := range map[string]func(*fake){
		"killed": func(f *fake) { _ = f.Listener.Close(); f.CloseClientConnections() },
		"stopped": func(f *fake) {
			f.mu.Lock() // blocked queries are not woken
			f.hang = true
			f.mu.Unlock()
		},
		"partitioned": func(f *fake) {
			f.mu.Lock()
			f.noLeader = true
			f.mu.Unlock()
		},
	} {
		t.Run(name, func(t *testing.T) {
			one, two := newFake(t, node("a", "10.0.0.1", 8502)), newFake(t, node("a", "10.0.0.1", 8502))
			c := start(t, plain(one, two))
			want(t, c, "a")
			if c.Status().Server == two.addr() {
				one, two = two, one
			}
			fault(one)
			eventually(t, c, "another followed", func(s Status) bool { return s.Server == two.addr() })
			two.list(node("b", "10.0.0.2", 8502))
			want(t, c, "b")
		})
	}
}

// When the address that was given is gone, the servers that it told of are asked.
func TestServersOfTheCatalogAreAsked(t *testing.T) {
	two := newFake(t, node("b", "127.0.0.1", 8502))
	one := newFake(t, node("b", "127.0.0.1", 8502))
	cfg := plain(one)
	cfg.HTTPPort = netip.MustParseAddrPort(two.addr()).Port()
	c := start(t, cfg)
	want(t, c, "b")
	_ = one.Listener.Close()
	one.CloseClientConnections()
	eventually(t, c, "another followed", func(s Status) bool { return s.Server == two.addr() })
}

func TestTargets(t *testing.T) {
	var tg targets
	if _, n := tg.next(); n != 0 {
		t.Fatal("a target out of nothing")
	}
	tg.setOperator([]string{"x:1"})
	tg.next()
	tg.setCatalog([]Server{
		{Addr4: netip.MustParseAddr("10.0.0.1")},
		{Addr4: netip.MustParseAddr("10.0.0.2"), Addr6: netip.MustParseAddr("fd00::2")},
		{Addr6: netip.MustParseAddr("fd00::3")},
	}, 8500)
	take := func(n int) (got []string) {
		for range n {
			a, of := tg.next()
			if of != 4 {
				t.Fatalf("%d targets", of)
			}
			got = append(got, a)
		}
		return got
	}
	round := take(4)
	if fmt.Sprint(slices.Sorted(slices.Values(round[:3]))) != "[10.0.0.1:8500 10.0.0.2:8500 [fd00::3]:8500]" || round[3] != "x:1" {
		t.Errorf("those never attempted are %v", round)
	}
	if again := take(4); !slices.Equal(again, round) {
		t.Errorf("the second round is %v, the first was %v", again, round)
	}
	slow, others := round[0], round[1:]
	take(1)
	tg.postpone(slow)
	if got := take(10); !slices.Equal(got, slices.Concat(others, others, others, others[:1])) {
		t.Errorf("order after %s was slow %v", slow, got)
	}
	if got := take(2); !slices.Contains(got, slow) {
		t.Errorf("%s, which was slow, is not tried again: %v", slow, got)
	}
	tg.setOperator([]string{"y:1"})
	if a, _ := tg.next(); a != "y:1" {
		t.Errorf("a new address comes first, not %s", a)
	}
	tg.setCatalog(nil, 8500)
	if a, n := tg.next(); a != "y:1" || n != 1 || len(tg.last) != 1 {
		t.Errorf("%s of %d, remembered %v", a, n, tg.last)
	}
}

// Hosts which are given the same list begin with different servers of it, and with
// those before they know any others.
func TestHostsBeginWithDifferentServers(t *testing.T) {
	first := map[string]int{}
	for range 200 {
		var tg targets
		tg.setCatalog([]Server{{Addr4: netip.MustParseAddr("10.0.0.9")}}, 8500)
		tg.setOperator([]string{"x:1", "y:1", "z:1"})
		a, _ := tg.next()
		first[a]++
	}
	if len(first) != 3 || first["10.0.0.9:8500"] > 0 {
		t.Errorf("200 hosts begin with %v", first)
	}
}

func TestTokenIsReadAnew(t *testing.T) {
	f := newFake(t, node("a", "10.0.0.1", 8502))
	f.token = "second"
	file := filepath.Join(t.TempDir(), "token")
	cfg := plain(f)
	cfg.TokenFile = file
	c := start(t, cfg)
	eventually(t, c, "no file", func(s Status) bool { return strings.Contains(s.Problem, file) })
	writeFile(t, file, "first\n")
	eventually(t, c, "wrong token", func(s Status) bool { return strings.Contains(s.Problem, "refuses the token") })
	writeFile(t, file, "second\n")
	want(t, c, "a")
}

func TestEntries(t *testing.T) {
	dual := node("dual", "10.0.0.1", 8502)
	dual.Service.Address = "10.9.0.1"
	dual.Service.TaggedAddresses = map[string]struct{ Address string }{"lan_ipv4": {"10.9.0.1"}, "lan_ipv6": {"fd00::1"}}
	six := node("six", "fd00::7", 8502)
	six.Node.TaggedAddresses = map[string]string{"lan_ipv4": "10.0.0.6", "wan_ipv4": "192.0.2.1", "lan_ipv6": "fd00::6"}
	six.Service.Address = "fe80::6%eth0" // of that link only
	bad := node("bad", "consul.example", 8502)
	servers, unusable := parseEntries([]entry{six, dual, bad, node("closed", "10.0.0.3", -1)}, true, 0)
	if len(servers) != 2 || fmt.Sprint(unusable) != "[bad closed]" {
		// -1 + 1 is 0: no port
		t.Fatalf("servers %v, unusable %v", servers, unusable)
	}
	if s := servers[0]; s.Addr4.String() != "10.9.0.1" || s.Addr6.String() != "fd00::1" || s.Port != 8503 {
		t.Errorf("dual: %+v", s)
	}
	if s := servers[1]; s.Addr4.String() != "10.0.0.6" || s.Addr6.String() != "fd00::6" {
		t.Errorf("six: %+v", s)
	}
	if servers, _ := parseEntries([]entry{dual}, true, 443); servers[0].Port != 443 {
		t.Errorf("port %d despite --consul-grpc-port", servers[0].Port)
	}
}

func TestPause(t *testing.T) {
	c := &Catalog{timing: defaultTiming}
	for failures := range 100 {
		d := c.pause(failures, 3)
		lo, hi := time.Duration(0), c.timing.rotate
		if failures >= 3 {
			hi = min(c.timing.backoffTo, c.timing.backoff<<min(16, failures/3-1))
			lo = hi / 2
		}
		if d < lo || d > hi {
			t.Errorf("after %d failures: %v, not in %v to %v", failures, d, lo, hi)
		}
	}
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// lines collects a log.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), s)
}
