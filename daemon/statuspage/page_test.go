package statuspage

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// fake is a Source in memory.
type fake struct {
	mu      sync.Mutex
	status  v1.Status
	servers []v1.Server
	proxies []v1.Proxy
	fail    error
	panics  bool
	full    int // calls of Proxies
	events  chan v1.JournalEvent
	conns   chan v1.ConnectionEvent
}

func newFake(proxies int) *fake {
	now := time.Now()
	f := &fake{events: make(chan v1.JournalEvent, 16), conns: make(chan v1.ConnectionEvent, 16), status: v1.Status{
		Version: "1.2.3", Node: "host-1", PID: 4242, Started: now, Ready: true, Servers: 2,
		Attachment: v1.Attachment{InEffect: true, Cgroup: "/sys/fs/cgroup/secret", Verified: now},
		Consul:     v1.Consul{LastContact: now, Address: "10.0.0.1"},
		Journal:    v1.Journal{Seq: 12345, Writable: true, Bytes: 65536},
		Proxies:    v1.ProxyCounts{Total: proxies},
	}}
	for _, id := range []string{"s1", "s2"} {
		f.servers = append(f.servers, v1.Server{ID: id, Listed: true, Addresses: []string{"10.0.0.1"}, Active: 5, Version: "1.20.1"})
	}
	for i := range proxies {
		f.proxies = append(f.proxies, fakeProxy(i))
	}
	return f
}

func fakeProxy(i int) v1.Proxy {
	return v1.Proxy{
		ProxyID: fmt.Sprintf("web-%04d", i), NodeName: "pod-virtual", VIP: fmt.Sprintf("239.77.%d.%d", i/256, i%256),
		Owner: v1.Owner{Kind: "netns", Path: "/run/netns/secret", ID: 99, Resolved: true}, State: v1.ProxyConnected,
		Servers: []v1.ServerRef{{ID: "s1", Address: netip.MustParseAddr("10.0.0.1")}}, Reason: "initial", Active: 1,
		Process: &v1.Process{PID: 4243}, CredentialProblem: "secret",
	}
}

// set changes what the fake answers.
func (f *fake) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fake) enter() error {
	if f.panics {
		panic("boom")
	}
	return f.fail
}

func (f *fake) Status(context.Context) (v1.Status, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status, f.enter()
}

func (f *fake) Servers(context.Context) ([]v1.Server, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]v1.Server(nil), f.servers...), f.enter()
}

func (f *fake) Proxies(context.Context) ([]v1.Proxy, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.full++
	return append([]v1.Proxy(nil), f.proxies...), f.enter()
}

func (f *fake) Journal(ctx context.Context, _ uint64, _ bool, fn func(v1.JournalEvent) error) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e := <-f.events:
			if err := fn(e); err != nil {
				return err
			}
		}
	}
}

func (f *fake) Connections(ctx context.Context, fn func(v1.ConnectionEvent) error) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-f.conns:
			if err := fn(e); err != nil {
				return err
			}
		}
	}
}

// journaled gives an event as the API does.
func journaled(seq uint64, b state.Body) v1.JournalEvent {
	data, err := json.Marshal(b)
	if err != nil {
		panic(err)
	}
	return v1.JournalEvent{Seq: seq, Time: time.Now(), Kind: string(b.Kind()), Data: data}
}

// serve runs a page and gives its address.
func serve(t *testing.T, f *fake, change ...func(*Page)) string {
	t.Helper()
	testenv.NoLeaks(t)
	p := New(Config{Source: f, Logger: slog.New(slog.DiscardHandler)})
	p.timing = timing{tick: 20 * time.Millisecond, soonest: time.Millisecond, sample: 20 * time.Millisecond, patience: 5 * time.Second, retry: time.Millisecond}
	for _, c := range change {
		c(p)
	}
	mux := http.NewServeMux()
	p.Mount(mux)
	s := httptest.NewServer(mux)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		s.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	return s.URL
}

func get(t *testing.T, url string) (status int, header http.Header, body string) {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, r.Header, string(b)
}

// stream is a reader of the events.
type stream struct {
	t    *testing.T
	body io.ReadCloser
	in   *bufio.Reader
}

func follow(t *testing.T, url string) *stream {
	t.Helper()
	r, err := http.Get(url + "/page/events")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Body.Close() })
	if r.StatusCode != 200 || r.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("events: %s, %q", r.Status, r.Header.Get("Content-Type"))
	}
	return &stream{t, r.Body, bufio.NewReader(r.Body)}
}

// next gives the next update, io.EOF at the stream's end.
func (s *stream) next() (update, error) {
	s.t.Helper()
	for {
		line, err := s.in.ReadString('\n')
		if err != nil {
			return update{}, err
		}
		if text, is := strings.CutPrefix(line, "data: "); is {
			var u update
			if err := json.Unmarshal([]byte(text), &u); err != nil {
				s.t.Fatal(err)
			}
			return u, nil
		}
	}
}

// until gives the first update that is as wanted.
func (s *stream) until(what string, wanted func(update) bool) update {
	s.t.Helper()
	for range 500 {
		u, err := s.next()
		if err != nil {
			s.t.Fatalf("before %s: %v", what, err)
		}
		if wanted(u) {
			return u
		}
	}
	s.t.Fatalf("no update with %s", what)
	return update{}
}

func TestTheDocumentIsWholeWithoutScript(t *testing.T) {
	url := serve(t, newFake(250))
	status, header, body := get(t, url+"/")
	if status != 200 || !strings.HasPrefix(header.Get("Content-Type"), "text/html") {
		t.Fatalf("%d %v", status, header)
	}
	for _, want := range []string{
		"lictord on <span id=\"node\">host-1", "in effect", "in contact", "event 12,345, 66\u00a0kB", "web-0000", "web-0099",
		"1 to 100 of 250", `href="/?from=101#proxies"`, `<svg class="spark"`, `http-equiv="refresh"`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("the page has no %q", want)
		}
	}
	if strings.Contains(body, "web-0100") {
		t.Error("the page has a 101st proxy")
	}
	for query, want := range map[string][]string{
		"?from=201":        {"201 to 250 of 250", "web-0249", "?from=101#proxies"},
		"?q=web-01+s1":     {"1 to 100 of 100", "web-0199", `value="web-01 s1"`},
		"?q=nobody":        {"No proxy matches", ">none<"},
		"?q=%3Cb%3E&from=": {"&lt;b&gt;"},
		"?from=-3":         {"1 to 100 of 250"},
	} {
		_, _, body := get(t, url+"/"+query)
		for _, w := range want {
			if !strings.Contains(body, w) {
				t.Errorf("%s: the page has no %q", query, w)
			}
		}
	}
}

// What the API tells and the page must not: it has readers nobody knows.
func TestWhatIsNotShown(t *testing.T) {
	f := newFake(3)
	f.status.Attachment.InEffect, f.status.Attachment.Problem = false, "link at /sys/fs/bpf/secret is gone"
	f.status.Consul.LastError = "token 1234-secret"
	f.status.Problems = []string{"see /var/lib/secret", "another secret"}
	f.servers[0].Drained, f.servers[0].DrainedBy = true, "uid 4244 secret"
	url := serve(t, f)
	_, _, page := get(t, url+"/")
	u, err := follow(t, url).next()
	if err != nil {
		t.Fatal(err)
	}
	sent, _ := json.Marshal(u)
	if strings.Contains(string(sent), "null") {
		t.Error("the script is told null where it expects a list")
	}
	for name, text := range map[string]string{"page": page, "stream": string(sent)} {
		for _, no := range []string{"secret", "4242", "4243", "4244", "/run/", "/sys/", "/var/", "1.20.1"} {
			if strings.Contains(text, no) {
				t.Errorf("the %s has %q", name, no)
			}
		}
		for _, want := range []string{"hook is not in effect", "tells 2 problems", "web-0002"} {
			if !strings.Contains(text, want) {
				t.Errorf("the %s has no %q", name, want)
			}
		}
	}
}

func TestHeadersKeepThePageToItself(t *testing.T) {
	url := serve(t, newFake(0))
	_, header, body := get(t, url+"/")
	for name, want := range map[string]string{
		"Content-Security-Policy": "default-src 'none'", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer",
		"Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
	} {
		if !strings.Contains(header.Get(name), want) {
			t.Errorf("%s is %q", name, header.Get(name))
		}
	}
	for _, no := range []string{"unsafe", "http:", "https:", "*"} {
		if strings.Contains(header.Get("Content-Security-Policy"), no) {
			t.Errorf("the policy allows %q", no)
		}
	}
	for _, no := range []string{" style=", " onclick=", "<script>", "<style", "http://", "https://"} {
		if strings.Contains(body, no) {
			t.Errorf("the page has %q", no)
		}
	}
}

func TestFilesAreThoseOfThisVersion(t *testing.T) {
	url := serve(t, newFake(0))
	build := loadWeb().build
	for file, kind := range map[string]string{
		"main.js": "text/javascript", "page.css": "text/css", "icon.svg": "image/svg+xml",
		"dom.js": "text/javascript", "format.js": "text/javascript", "proxies.js": "text/javascript",
		"spark.js": "text/javascript", "stream.js": "text/javascript",
	} {
		status, header, body := get(t, url+"/page/"+build+"/"+file)
		if status != 200 || !strings.HasPrefix(header.Get("Content-Type"), kind) || !strings.Contains(header.Get("Cache-Control"), "immutable") {
			t.Errorf("%s: %d %v", file, status, header)
		}
		for _, no := range []string{"innerHTML", "insertAdjacentHTML", "document.write", "eval(", "https://"} {
			if strings.Contains(body, no) {
				t.Errorf("%s has %q", file, no)
			}
		}
	}
	for _, path := range []string{"/page/0000/main.js", "/page/" + build + "/page.html", "/page/" + build + "/none.js"} {
		if status, header, _ := get(t, url+path); status != 404 || strings.Contains(header.Get("Cache-Control"), "immutable") {
			t.Errorf("%s: %d %v", path, status, header)
		}
	}
}

// A site that points its own name at the loopback address must not read what
// is there with the reader's browser.
func TestForeignNamesAreRefusedOnLoopback(t *testing.T) {
	url := serve(t, newFake(0))
	for host, want := range map[string]int{
		"localhost:9760": 200, "127.0.0.1:9760": 200, "[::1]:9760": 200, "127.0.0.1": 200, "a.localhost": 200, "LOCALHOST": 200,
		"evil.example": 421, "evil.example:9760": 421, "localhost.evil.example": 421, "127.0.0.1.evil.example": 421,
	} {
		for _, path := range []string{"/", "/page/events"} {
			req, _ := http.NewRequest(http.MethodHead, url+path, nil)
			req.Host = host
			r, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			r.Body.Close()
			if r.StatusCode != want {
				t.Errorf("%s of host %s: %d, want %d", path, host, r.StatusCode, want)
			}
		}
	}
}

func TestADocumentWithoutASource(t *testing.T) {
	f := newFake(1)
	f.fail = errors.New("it burns")
	url := serve(t, f)
	if status, header, body := get(t, url+"/"); status != 503 || header.Get("Retry-After") == "" || strings.Contains(body, "burns") {
		t.Errorf("%d %v %q", status, header, body)
	}
	f.set(func() { f.fail = nil })
	if status, _, _ := get(t, url+"/"); status != 200 {
		t.Errorf("%d when it can be read", status)
	}
	f.set(func() { f.panics = true })
	time.Sleep(50 * time.Millisecond) // what is of now is told as such
	if status, _, body := get(t, url+"/"); status != 200 || !strings.Contains(body, "as of earlier") {
		t.Errorf("%d, %q; want what was known, said to be old", status, body)
	}
}
