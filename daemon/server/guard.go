package server

import (
	"context"
	"fmt"
	"net/http"
	"path"
	"runtime/debug"
	"time"
)

// guard is what every request passes through, on either listener: a panic
// becomes a 500, a caller with too many connections is told so, paths that are
// not in their clean form are not found (ServeMux would redirect them), and
// what the mux itself refuses becomes a problem document.
func (s *Server) guard(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := &answer{ResponseWriter: w}
		defer s.recoverPanic(answer, r)
		deadline := time.Now().Add(s.timing.read + s.timing.answer)
		_ = http.NewResponseController(w).SetWriteDeadline(deadline) // net/http's own connections can

		if p, ok := peerOf(r.Context()); ok && p.over {
			w.Header().Set("Connection", "close")
			w.Header().Set("Retry-After", "1")
			writeProblem(answer, tooMany, fmt.Sprintf(
				"this network namespace has more than %d connections to lictord; close some, or use one for several calls",
				s.limits.perNetns))
			return
		}
		if escaped := r.URL.EscapedPath(); path.Clean(escaped) != escaped {
			writeProblem(answer, noSuchCall, fmt.Sprintf("there is nothing at %q", escaped))
			return
		}
		if refusal, pattern := mux.Handler(r); pattern == "" {
			refuse(answer, r, refusal)
			return
		}
		mux.ServeHTTP(answer, r)
	})
}

// refuse turns the mux's own text answer into a problem document.
func refuse(w http.ResponseWriter, r *http.Request, refusal http.Handler) {
	probe := &discard{header: http.Header{}}
	refusal.ServeHTTP(probe, r)
	if probe.status == http.StatusMethodNotAllowed {
		allow := probe.header.Get("Allow")
		w.Header().Set("Allow", allow)
		writeProblem(w, badMethod, fmt.Sprintf("%s is not possible on %s; possible are %s", r.Method, r.URL.Path, allow))
		return
	}
	writeProblem(w, noSuchCall, fmt.Sprintf("there is nothing at %q", r.URL.EscapedPath()))
}

// recoverPanic answers 500, or cuts an answer that has begun.
func (s *Server) recoverPanic(w *answer, r *http.Request) {
	fault := recover()
	if fault == nil {
		return
	}
	if fault == http.ErrAbortHandler { //nolint:errorlint // net/http compares so too
		panic(fault)
	}
	s.log.Error("panic while answering", "method", r.Method, "path", r.URL.Path,
		"panic", fmt.Sprint(fault), "stack", string(debug.Stack()))
	if w.begun {
		panic(http.ErrAbortHandler)
	}
	writeProblem(w, internal, "the daemon hit a fault of its own, which is in its log; please report it")
}

// bounded gives a handler's backend the time that an answer may take.
func (s *Server) bounded(r *http.Request) (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.Context(), s.timing.answer)
}

// answer remembers whether anything was answered yet.
type answer struct {
	http.ResponseWriter
	begun bool
}

// WriteHeader notes that the answer has begun.
func (a *answer) WriteHeader(status int) {
	a.begun = true
	a.ResponseWriter.WriteHeader(status)
}

// Write notes that the answer has begun.
func (a *answer) Write(b []byte) (int, error) {
	a.begun = true
	return a.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// discard keeps an answer's status and header only.
type discard struct {
	header http.Header
	status int
}

// Header is the header of the answer.
func (d *discard) Header() http.Header { return d.header }

// Write discards b.
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }

// WriteHeader keeps the status.
func (d *discard) WriteHeader(status int) { d.status = status }
