package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

func TestCallsThroughTheClient(t *testing.T) {
	testenv.Privileged(t) // the kernel tells the caller's network namespace to CAP_NET_ADMIN alone
	backend := newFake()
	c := start(t, backend).client()
	ctx := t.Context()

	for range 2 {
		got, err := c.Register(ctx, "web:1 sidecar?#%", v1.RegisterRequest{NodeName: "n"})
		if err != nil || got.ProxyID != "web:1 sidecar?#%" || got.VIP != "239.77.0.1" || got.Server.GRPCPort != 8502 {
			t.Fatalf("Register() = %+v, %v", got, err)
		}
	}
	if caller := backend.callers[0]; caller.PID == 0 || caller.NetnsCookie == 0 || caller.NetnsInode == 0 {
		t.Errorf("caller = %+v, want it whole", caller)
	}
	if all, err := c.Proxies(ctx); err != nil || len(all) != 1 {
		t.Errorf("Proxies() = %v, %v", all, err)
	}
	if p, err := c.Proxy(ctx, "web:1 sidecar?#%"); err != nil || p.NodeName != "n" {
		t.Errorf("Proxy() = %+v, %v", p, err)
	}
	if h, err := c.History(ctx, "web:1 sidecar?#%"); err != nil || h.Events == nil || h.Oldest != 1 {
		t.Errorf("History() = %+v, %v", h, err)
	}
	if b, err := c.Bootstrap(ctx, "web:1 sidecar?#%"); err != nil || !json.Valid(b) {
		t.Errorf("Bootstrap() = %s, %v", b, err)
	}
	if s, err := c.Servers(ctx); err != nil || s == nil {
		t.Errorf("Servers() = %v, %v, want an empty list, not null", s, err)
	}
	if err := errors.Join(c.Drain(ctx, "[::1]:8502"), c.Undrain(ctx, "s1"), c.DrainFleet(ctx, "s2"), c.UndrainFleet(ctx, "s2")); err != nil {
		t.Error(err)
	}
	if got := fmt.Sprint(backend.drained); got != "[[::1]:8502=true s1=false s2=true for the fleet s2=false for the fleet]" {
		t.Errorf("drained = %s", got)
	}
	if f, err := c.Fleet(ctx); err != nil || f.Node != "n" || f.Hosts == nil || f.Drains == nil {
		t.Errorf("Fleet() = %+v, %v", f, err)
	}
	if s, err := c.StateAt(ctx, "7"); err != nil || string(s) != `{"seq":7,"time":"0001-01-01T00:00:00Z"}` {
		t.Errorf("StateAt(7) = %s, %v", s, err)
	}
	if s, err := c.StateAt(ctx, "2026-03-01T12:00:00Z"); err != nil || string(s) != `{"seq":0,"time":"2026-03-01T12:00:00Z"}` {
		t.Errorf("StateAt(time) = %s, %v", s, err)
	}
	if s, err := c.Status(ctx); err != nil || !s.Ready || s.Problems == nil {
		t.Errorf("Status() = %+v, %v", s, err)
	}
	for range 2 { // absent is success
		if err := c.Deregister(ctx, "web:1 sidecar?#%"); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.Proxy(ctx, "web:1 sidecar?#%"); problem(t, err).Type != v1.ProblemNotFound {
		t.Errorf("Proxy() after Deregister() = %v", err)
	}
}

func TestErrorsOfTheBackendAreProblems(t *testing.T) {
	testenv.Privileged(t) // the kernel tells the caller's network namespace to CAP_NET_ADMIN alone
	backend := newFake()
	c := start(t, backend).client()
	for _, tc := range []struct {
		err    error
		urn    string
		status int
	}{
		{ErrNotFound, v1.ProblemNotFound, 404},
		{ErrConflict, v1.ProblemConflict, 409},
		{ErrForbidden, v1.ProblemForbidden, 403},
		{ErrInvalid, v1.ProblemInvalid, 422},
		{ErrUnavailable, v1.ProblemUnavailable, 503},
		{ErrNotYet, v1.ProblemNotYet, 503},
		{ErrExhausted, v1.ProblemVIPExhausted, 507},
		{ErrTooOften, v1.ProblemTooOften, 429},
		{ErrGone, v1.ProblemNotRetained, 410},
		{errors.New("surprise"), v1.ProblemInternal, 500},
	} {
		backend.fail = fmt.Errorf("because of this: %w", tc.err)
		_, err := c.Register(t.Context(), "web", v1.RegisterRequest{})
		got := problem(t, err)
		if got.Type != tc.urn || got.Status != tc.status || got.Title == "" || !strings.HasPrefix(got.Detail, "because of this") {
			t.Errorf("%v: problem = %+v, want %s, %d", tc.err, got, tc.urn, tc.status)
		}
	}
}

func TestADetailDoesNotRepeatTheTitle(t *testing.T) {
	for _, err := range []error{
		fmt.Errorf("proxy web is unknown: %w", ErrNotFound),
		fmt.Errorf("%w: %w", ErrNotFound, errors.New("proxy web is unknown")),
	} {
		if got := sentence(err, ErrNotFound); got != "proxy web is unknown" {
			t.Errorf("sentence(%q) = %q", err, got)
		}
	}
}

func TestBadInput(t *testing.T) {
	asRoot(t)
	backend := newFake()
	s := start(t, backend)
	long := strings.Repeat("x", 10<<10)
	asJSON := "application/json"
	for _, tc := range []struct {
		name, method, path, media, body string
		status                          int
		urn                             string
		says                            string
	}{
		{"unknown path", "GET", "/v1/nothing", "", "", 404, v1.ProblemNoSuchCall, "/v1/nothing"},
		{"another version", "GET", "/v2/status", "", "", 404, v1.ProblemNoSuchCall, ""},
		{"no id", "PUT", "/v1/proxies/", asJSON, "{}", 404, v1.ProblemNoSuchCall, ""},
		{"trailing slash", "GET", "/v1/servers/", "", "", 404, v1.ProblemNoSuchCall, ""},
		{"dots", "GET", "/v1/../v1/status", "", "", 404, v1.ProblemNoSuchCall, ""},
		{"double slash", "GET", "//v1/status", "", "", 404, v1.ProblemNoSuchCall, ""},
		{"id with a slash", "GET", "/v1/proxies/a/b", "", "", 404, v1.ProblemNoSuchCall, ""},
		{"method", "POST", "/v1/proxies/a", "", "", 405, v1.ProblemMethod, "DELETE, GET, HEAD, PUT"},
		{"unknown method", "BREW", "/v1/status", "", "", 405, v1.ProblemMethod, "GET"},

		{"id with an escaped slash", "PUT", "/v1/proxies/a%2fb", asJSON, "{}", 422, v1.ProblemInvalid, "proxy id"},
		{"escaped parent", "PUT", "/v1/proxies/%2e%2e", asJSON, "{}", 422, v1.ProblemInvalid, "begins with"},
		{"newline in the id", "DELETE", "/v1/proxies/a%0ab", "", "", 422, v1.ProblemInvalid, `'\n'`},
		{"zero in the id", "GET", "/v1/proxies/a%00b/history", "", "", 422, v1.ProblemInvalid, ""},
		{"id that is not UTF-8", "GET", "/v1/proxies/%ff/bootstrap", "", "", 422, v1.ProblemInvalid, "UTF-8"},
		{"id of 10 kB", "PUT", "/v1/proxies/" + long, asJSON, "{}", 422, v1.ProblemInvalid, "10240 bytes"},
		{"server id", "POST", "/v1/servers/.hidden/drain", "", "", 422, v1.ProblemInvalid, "server id"},

		{"no JSON", "PUT", "/v1/proxies/a", asJSON, "node=1", 400, v1.ProblemMalformed, ""},
		{"unknown setting", "PUT", "/v1/proxies/a", asJSON, `{"envoy":{"adminbind":"x"}}`, 400, v1.ProblemMalformed, `"envoy.adminbind"; known are admin_bind, `},
		{"setting of another case", "PUT", "/v1/proxies/a", asJSON, `{"envoy":{"prometheus":{"Merge_port":1}}}`, 400, v1.ProblemMalformed, `"envoy.prometheus.Merge_port"`},
		{"setting twice", "PUT", "/v1/proxies/a", asJSON, `{"credential":{"type":"file","type":""}}`, 400, v1.ProblemMalformed, `"credential.type" is given twice`},
		{"meta twice", "PUT", "/v1/proxies/a", asJSON, `{"credential":{"type":"login","login":{"auth_method":"m","meta":{"a":"","a":""}}}}`, 400, v1.ProblemMalformed, `"credential.login.meta.a"`},
		{"null setting", "PUT", "/v1/proxies/a", asJSON, `{"envoy":{"prometheus":null}}`, 400, v1.ProblemMalformed, `"envoy.prometheus" is null`},
		{"settings that are none", "PUT", "/v1/proxies/a", asJSON, `{"envoy":7}`, 400, v1.ProblemMalformed, `"envoy" is a number`},
		{"setting of another type", "PUT", "/v1/proxies/a", asJSON, `{"envoy":{"startup_grace_seconds":1.5}}`, 400, v1.ProblemMalformed, `startup_grace_seconds`},
		{"bad setting", "PUT", "/v1/proxies/a", asJSON, `{"envoy":{"admin_bind":"0.0.0.0:1"}}`, 422, v1.ProblemInvalid, "envoy.admin_bind"},
		{"bad credential", "PUT", "/v1/proxies/a", asJSON, `{"credential":{"type":"static"}}`, 422, v1.ProblemInvalid, "credential.token is empty"},
		{"half a body", "PUT", "/v1/proxies/a", asJSON, `{"node_name":"x"`, 400, v1.ProblemMalformed, "unexpected"},
		{"array", "PUT", "/v1/proxies/a", asJSON, `[]`, 400, v1.ProblemMalformed, "not a JSON object"},
		{"null", "PUT", "/v1/proxies/a", asJSON, `null`, 400, v1.ProblemMalformed, "not a JSON object"},
		{"two values", "PUT", "/v1/proxies/a", asJSON, `{}{}`, 400, v1.ProblemMalformed, ""},
		{"unknown field", "PUT", "/v1/proxies/a", asJSON, `{"nodename":"x"}`, 400, v1.ProblemMalformed, `"nodename"`},
		{"another case", "PUT", "/v1/proxies/a", asJSON, `{"Owner":"any"}`, 400, v1.ProblemMalformed, `"Owner"`},
		{"twice", "PUT", "/v1/proxies/a", asJSON, `{"owner":"","owner":"any"}`, 400, v1.ProblemMalformed, "twice"},
		{"null field", "PUT", "/v1/proxies/a", asJSON, `{"netns":null}`, 400, v1.ProblemMalformed, `"netns" is null`},
		{"wrong type", "PUT", "/v1/proxies/a", asJSON, `{"node_name":7}`, 400, v1.ProblemMalformed, `"node_name" is a number`},
		{"not UTF-8", "PUT", "/v1/proxies/a", asJSON, "{\"node_name\":\"\xff\"}", 400, v1.ProblemMalformed, "UTF-8"},
		{"deep nesting", "PUT", "/v1/proxies/a", asJSON, strings.Repeat(`{"a":`, 11000), 400, v1.ProblemMalformed, ""},
		{"too large", "PUT", "/v1/proxies/a", asJSON, `{"node_name":"` + strings.Repeat("x", v1.MaxBody) + `"}`, 413, v1.ProblemTooLarge, "65536"},
		{"form", "PUT", "/v1/proxies/a", "application/x-www-form-urlencoded", `{}`, 415, v1.ProblemMediaType, "application/json"},
		{"no media type", "PUT", "/v1/proxies/a", "", `{}`, 415, v1.ProblemMediaType, ""},
		{"bad owner", "PUT", "/v1/proxies/a", asJSON, `{"owner":"me"}`, 422, v1.ProblemInvalid, "owner"},
		{"relative path", "PUT", "/v1/proxies/a", asJSON, `{"cgroup":"a"}`, 422, v1.ProblemInvalid, "cgroup"},
		{"body of a GET", "GET", "/v1/status", asJSON, `{}`, 400, v1.ProblemMalformed, "no body"},
		{"body of a DELETE", "DELETE", "/v1/proxies/a", asJSON, `{}`, 400, v1.ProblemMalformed, "no body"},
		{"body of a drain", "POST", "/v1/servers/a/drain", asJSON, `{"fleet":true}`, 400, v1.ProblemMalformed, "no body"},

		{"unknown parameter", "GET", "/v1/status?verbose=1", "", "", 400, v1.ProblemMalformed, `"verbose"`},
		{"fleet no bool", "POST", "/v1/servers/a/drain?fleet=yes", "", "", 400, v1.ProblemMalformed, "fleet"},
		{"state at no time", "GET", "/v1/state?at=noon", "", "", 400, v1.ProblemMalformed, "noon"},
		{"state without a time", "GET", "/v1/state", "", "", 400, v1.ProblemMalformed, "RFC 3339"},
		{"state that is gone", "GET", "/v1/state?at=666", "", "", 410, v1.ProblemNotRetained, "the oldest is 1000"},
		{"fleet of a GET", "GET", "/v1/servers?fleet=true", "", "", 400, v1.ProblemMalformed, `"fleet"`},
		{"broken query", "GET", "/v1/journal?since=%zz", "", "", 400, v1.ProblemMalformed, "query"},
		{"since no number", "GET", "/v1/journal?since=now", "", "", 400, v1.ProblemMalformed, `since is "now"`},
		{"since negative", "GET", "/v1/journal?since=-1", "", "", 400, v1.ProblemMalformed, "since"},
		{"since twice", "GET", "/v1/journal?since=1&since=2", "", "", 400, v1.ProblemMalformed, "2 times"},
		{"follow no bool", "GET", "/v1/journal?follow=yes", "", "", 400, v1.ProblemMalformed, "follow"},
		{"since not retained", "GET", "/v1/journal?since=666", "", "", 410, v1.ProblemNotRetained, "the oldest is 1000"},
		{"connections of the past", "GET", "/v1/connections", "", "", 422, v1.ProblemInvalid, "follow=true"},
		{"connections since", "GET", "/v1/connections?follow=true&since=1", "", "", 400, v1.ProblemMalformed, `"since"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var body io.Reader
			if tc.body != "" {
				body = strings.NewReader(tc.body)
			}
			req, err := http.NewRequest(tc.method, "http://lictord"+tc.path, body)
			if err != nil {
				t.Fatal(err)
			}
			if tc.media != "" {
				req.Header.Set("Content-Type", tc.media)
			}
			answer, err := over(s.dial()).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			var got v1.Problem
			if err := json.NewDecoder(answer.Body).Decode(&got); err != nil {
				t.Fatalf("status %d without a problem document: %v", answer.StatusCode, err)
			}
			if answer.Header.Get("Content-Type") != v1.ProblemContentType || answer.Header.Get("Cache-Control") != "no-store" || got.Title == "" || got.Status != answer.StatusCode {
				t.Errorf("answer = %v, document %+v", answer.Header, got)
			}
			if answer.StatusCode != tc.status || got.Type != tc.urn || !strings.Contains(got.Detail, tc.says) {
				t.Errorf("answer = %d %s %q, want %d %s with %q", answer.StatusCode, got.Type, got.Detail, tc.status, tc.urn, tc.says)
			}
			if tc.status == http.StatusMethodNotAllowed && answer.Header.Get("Allow") == "" {
				t.Error("405 without Allow")
			}
		})
	}
	if len(backend.callers) != 0 || len(backend.drained) != 0 {
		t.Errorf("bad input reached the backend: %v %v", backend.callers, backend.drained)
	}
}

func TestAnEmptyBodyIsAnEmptyRequest(t *testing.T) {
	testenv.Privileged(t) // the kernel tells the caller's network namespace to CAP_NET_ADMIN alone
	s := start(t, newFake())
	req, err := http.NewRequest(http.MethodPut, "http://lictord/v1/proxies/a", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := over(s.dial()).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Errorf("status = %d, want 200", answer.StatusCode)
	}
}

func TestAPanicIsAnsweredAndTheDaemonGoesOn(t *testing.T) {
	asRoot(t)
	backend := newFake()
	s := start(t, backend)
	c := s.client()
	backend.panics = "boom"
	_, err := c.Servers(t.Context())
	if p := problem(t, err); p.Status != 500 || strings.Contains(p.Detail, "boom") {
		t.Errorf("problem = %+v, want a 500 without the daemon's inside", p)
	}
	err = c.Connections(t.Context(), func(v1.ConnectionEvent) error { return nil })
	if p := problem(t, err); p.Status != 500 {
		t.Errorf("problem of a stream = %+v, want a 500", p)
	}
	backend.panics = nil
	if _, err := c.Servers(t.Context()); err != nil {
		t.Errorf("after a panic: %v", err)
	}
}

func FuzzDecodeRegister(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"node_name":"n","namespace":"d","partition":"p","netns":"/run/netns/a"}`, `{"owner":"any"}`,
		`{"owner":null}`, `{"Owner":"any"}`, `{"owner":"","owner":"any"}`, `[]`, `null`, `{"a":{"b":[1,2]}}`,
		`{"process":true,"envoy":{"admin_bind":"127.0.0.1:1","prometheus":{"merge_port":1}},"credential":{"type":"login","bearer_token":"b","login":{"auth_method":"m","meta":{"a":"b"}}}}`,
		`{"envoy":{"prometheus":{"Merge_port":1}}}`, `{"credential":{"login":{"meta":{"a":"b","a":"c"}}}}`, `{"envoy":7}`, `{"credential":[]}`, `{} {}`, "\ufeff{}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var req v1.RegisterRequest
		if err := decodeObject(raw, &req); err != nil {
			if !errors.Is(err, errMalformed) {
				t.Fatalf("error %v is not the caller's", err)
			}
			return
		}
		// What was taken says the same when it is written down again.
		again, err := json.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		var second v1.RegisterRequest
		if err := decodeObject(again, &second); err != nil {
			t.Fatalf("%s became %s: %v", raw, again, err)
		}
		if text, err := json.Marshal(second); err != nil || string(text) != string(again) {
			t.Fatalf("%s became %s, then %s: %v", raw, again, text, err)
		}
		if req.Check() == nil && req.OwnerGiven() && req.Netns == "" && req.Cgroup == "" && req.Owner != v1.OwnerAny {
			t.Fatalf("%s has an owner that nobody knows: %+v", raw, req)
		}
	})
}

// FuzzRequest answers any request with what the API may say: a value, nothing,
// or a problem document of the caller's making.
func FuzzRequest(f *testing.F) {
	f.Add("GET", "/v1/status", "", "")
	f.Add("PUT", "/v1/proxies/a", "application/json", `{"owner":"any"}`)
	f.Add("DELETE", "/v1/proxies/%2e%2e", "", "")
	f.Add("POST", "/v1/servers/a%00/drain", "", "x")
	f.Add("GET", "/v1/journal?since=18446744073709551616&follow=false", "", "")
	f.Add("GET", "/v1/connections?follow=%74rue;a", "", "")
	f.Add("OPTIONS", "*", "", "")
	f.Add("CONNECT", "/v1/../", "", "")
	f.Fuzz(func(t *testing.T, method, target, media, body string) {
		u, err := url.ParseRequestURI(target)
		if err != nil || strings.Contains(target, "follow") {
			return // net/http answers that itself; a follower waits for its end
		}
		backend := newFake()
		s := New(Config{Backend: backend, Socket: "unused"})
		r := httptest.NewRequest(http.MethodGet, "/", strings.NewReader(body))
		r.Method, r.URL, r.RequestURI = method, u, target
		r.Header.Set("Content-Type", media)
		r = r.WithContext(context.WithValue(r.Context(), peerKey{}, peer{caller: Caller{NetnsCookie: 1, NetnsInode: 1}}))
		w := httptest.NewRecorder()
		s.guard(s.apiHandler()).ServeHTTP(w, r)
		if w.Code < 400 {
			for id := range backend.proxies {
				if err := v1.CheckID("id", id); err != nil {
					t.Errorf("%s %s registered %q: %v", method, target, id, err)
				}
			}
			return
		}
		var p v1.Problem
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Status != w.Code || w.Code >= 500 || !utf8.Valid(w.Body.Bytes()) {
			t.Errorf("%s %s %q = %d %s", method, target, body, w.Code, w.Body)
		}
	})
}
