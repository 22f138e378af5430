package server

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

// kind is what all problems of one type have in common.
type kind struct {
	err    error // that leads to it; nil: none, it is answered by name
	urn    v1.ProblemType
	status int
	title  string
}

var (
	noSuchCall = kind{nil, v1.ProblemNoSuchCall, http.StatusNotFound, "No such call"}
	badMethod  = kind{nil, v1.ProblemMethod, http.StatusMethodNotAllowed, "Method not allowed"}
	tooMany    = kind{nil, v1.ProblemTooMany, http.StatusTooManyRequests, "Too many connections"}
	internal   = kind{nil, v1.ProblemInternal, http.StatusInternalServerError, "Fault of the daemon"}
)

// kinds is searched in order.
var kinds = []kind{
	{errMalformed, v1.ProblemMalformed, http.StatusBadRequest, "Malformed request"},
	{errTooLarge, v1.ProblemTooLarge, http.StatusRequestEntityTooLarge, "Too large"},
	{errMediaType, v1.ProblemMediaType, http.StatusUnsupportedMediaType, "Unsupported media type"},
	{ErrForbidden, v1.ProblemForbidden, http.StatusForbidden, "Forbidden"},
	{ErrNotFound, v1.ProblemNotFound, http.StatusNotFound, "Not found"},
	{ErrConflict, v1.ProblemConflict, http.StatusConflict, "Conflict"},
	{ErrGone, v1.ProblemNotRetained, http.StatusGone, "No longer retained"},
	{ErrInvalid, v1.ProblemInvalid, http.StatusUnprocessableEntity, "Invalid"},
	{ErrExhausted, v1.ProblemVIPExhausted, http.StatusInsufficientStorage, "No VIP left"},
	{ErrTooOften, v1.ProblemTooOften, http.StatusTooManyRequests, "Too often"},
	{ErrNotYet, v1.ProblemNotYet, http.StatusServiceUnavailable, "Not yet"},
	{ErrUnavailable, v1.ProblemUnavailable, http.StatusServiceUnavailable, "Unavailable"},
	{context.DeadlineExceeded, v1.ProblemTimeout, http.StatusGatewayTimeout, "Not done in time"},
}

// writeError answers with the problem document that err means. What it does
// not know is a fault of the daemon, and logged, since nobody else will.
func (s *Server) writeError(w http.ResponseWriter, r *http.Request, err error) {
	for _, k := range kinds {
		if !errors.Is(err, k.err) {
			continue
		}
		detail := sentence(err, k.err)
		if k.urn == v1.ProblemTimeout {
			detail += "; it may have been carried out or not: repeat the call, which is safe"
		}
		writeProblem(w, k, detail)
		return
	}
	if r.Context().Err() != nil {
		return // the caller has gone; the error is only that
	}
	s.log.Error("call failed", "method", r.Method, "path", r.URL.Path, "err", err)
	writeProblem(w, internal, err.Error())
}

// sentence is the text of an error without the sentinel that it was wrapped
// with: the document's title says that already.
func sentence(err, sentinel error) string {
	text, word := err.Error(), sentinel.Error()
	return strings.TrimSuffix(strings.TrimPrefix(text, word+": "), ": "+word)
}

// writeProblem answers with a problem document.
func writeProblem(w http.ResponseWriter, k kind, detail string) {
	// Four strings and a number always encode.
	body, _ := json.Marshal(v1.Problem{Type: k.urn, Title: k.title, Status: k.status, Detail: detail})
	writeBody(w, k.status, v1.ProblemContentType, append(body, '\n'))
}

// writeBody answers with a whole body.
func writeBody(w http.ResponseWriter, status int, contentType string, body []byte) {
	header := w.Header()
	header.Set("Content-Type", contentType)
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(body) // a caller that has gone is no error of ours
}

// writeJSON answers 200 with v as JSON, or 204 without a body for nil.
func (s *Server) writeJSON(w http.ResponseWriter, r *http.Request, v any) {
	if v == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if document, ok := v.(raw); ok {
		writeBody(w, http.StatusOK, "application/json", document)
		return
	}
	body, err := json.Marshal(v)
	if err != nil {
		s.writeError(w, r, err)
		return
	}
	writeBody(w, http.StatusOK, "application/json", append(body, '\n'))
}
