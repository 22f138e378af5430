package server

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestPages(t *testing.T) {
	backend := newFake()
	s := start(t, backend, func(s *Server) {
		s.cfg.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "lictor_journal_seq 7\n")
		})
		s.cfg.Page = page{}
	})
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for _, tc := range []struct {
		method, path, accept string
		fail                 error
		status               int
		says                 string
	}{
		{"GET", "/metrics", "", nil, 200, "lictor_journal_seq 7"},
		{"GET", "/healthz", "", nil, 200, "ok\n"},
		{"HEAD", "/healthz", "", nil, 200, ""},
		{"GET", "/readyz", "", nil, 200, "ready\n"},
		{"GET", "/readyz", "application/json", nil, 200, `{"ready":true,"problems":[]}`},
		{"GET", "/readyz", "", errors.New("it burns"), 503, "not ready\nthe daemon cannot tell its status: it burns\n"},
		{"GET", "/readyz", "application/json", errors.New("it burns"), 503, `"ready":false`},
		{"GET", "/", "", nil, 200, "a page"},
		{"GET", "/v1/status", "", nil, 404, "no-such-call"},
		{"PUT", "/v1/proxies/a", "", nil, 404, "no-such-call"},
		{"POST", "/readyz", "", nil, 405, "method-not-allowed"},
		{"DELETE", "/", "", nil, 405, "method-not-allowed"},
	} {
		backend.fail = tc.fail
		req, err := http.NewRequest(tc.method, "http://"+s.HTTPAddr().String()+tc.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", tc.accept)
		answer, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil || answer.StatusCode != tc.status || !strings.Contains(string(body), tc.says) {
			t.Errorf("%s %s (%s) = %d %q, %v, want %d %q", tc.method, tc.path, tc.accept, answer.StatusCode, body, err, tc.status, tc.says)
		}
	}
}

// page is a status page.
type page struct{}

func (page) Mount(mux *http.ServeMux) {
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "a page") })
}
