package server

import (
	"encoding/json"
	"net/http"
	"strings"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

// pagesHandler routes the read-only pages: nothing here changes anything, and
// nothing here tells more than the names, addresses and counts of a status.
func (s *Server) pagesHandler() *http.ServeMux {
	mux := http.NewServeMux()
	if s.cfg.Metrics != nil {
		mux.Handle("GET /metrics", s.cfg.Metrics)
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeBody(w, http.StatusOK, textPlain, []byte("ok\n"))
	})
	mux.HandleFunc("GET /readyz", s.readyz)
	if s.cfg.Page != nil {
		s.cfg.Page.Mount(mux)
	}
	return mux
}

const textPlain = "text/plain; charset=utf-8"

// readiness is the JSON form of /readyz.
type readiness struct {
	Ready    bool     `json:"ready"`
	Problems []string `json:"problems"`
}

// readyz answers 200 when the daemon is ready and 503 when it is not, with the
// problems: as lines, or as JSON where the caller asks for it.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := s.bounded(r)
	defer cancel()
	status, err := s.currentStatus(ctx)
	if err != nil {
		status = v1.Status{Problems: []string{"the daemon cannot tell its status: " + err.Error()}}
	}
	code, word := http.StatusOK, "ready"
	if !status.Ready {
		code, word = http.StatusServiceUnavailable, "not ready"
	}
	if strings.Contains(r.Header.Get("Accept"), "application/json") {
		// Strings and a bool always encode.
		body, _ := json.Marshal(readiness{status.Ready, status.Problems})
		writeBody(w, code, "application/json", append(body, '\n'))
		return
	}
	lines := append([]string{word}, status.Problems...)
	writeBody(w, code, textPlain, []byte(strings.Join(lines, "\n")+"\n"))
}
