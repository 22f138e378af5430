package catalog

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Problem is an error with a sentence for people, which says what is wrong and,
// where something can be done, what.
type Problem struct {
	Sentence string
	Err      error // the cause, nil when there is no more to say
}

// Error is the sentence with its cause, once.
func (p *Problem) Error() string {
	if p.Err == nil || strings.Contains(p.Sentence, p.Err.Error()) {
		return p.Sentence
	}
	return p.Sentence + ": " + p.Err.Error()
}

// Unwrap is the cause.
func (p *Problem) Unwrap() error { return p.Err }

// SentenceOf is an error's sentence for people: that of the *Problem within it,
// or else its text.
func SentenceOf(err error) string {
	if p := (*Problem)(nil); errors.As(err, &p) {
		return p.Sentence
	}
	return strings.TrimSpace(err.Error())
}

// explain finds the sentence for a query that got no answer.
func explain(target string, err error) error {
	var already *Problem
	if errors.As(err, &already) {
		return already
	}
	return &Problem{Sentence: "the Consul server at " + target + " " + reason(err), Err: err}
}

// explainGRPC does the same where the port is that of gRPC.
func explainGRPC(target string, err error) error {
	var noTLS tls.RecordHeaderError
	switch {
	case errors.As(err, &noTLS):
		return &Problem{Sentence: "the Consul server at " + target + " does not speak TLS on its gRPC port: give the one with TLS by --consul-grpc-port, or set --tls-disabled", Err: err}
	case errors.Is(err, syscall.ECONNREFUSED):
		return &Problem{Sentence: "the Consul server at " + target + " refuses the connection: check that it runs, and --consul-grpc-port", Err: err}
	}
	return explain(target, err)
}

func reason(err error) string {
	var (
		unknownCA x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
		noTLS     tls.RecordHeaderError
		opErr     *net.OpError
	)
	switch {
	case errors.As(err, &unknownCA):
		return "has a certificate of an unknown authority: give its CA with --ca-certs"
	case errors.As(err, &hostname):
		return fmt.Sprintf("has a certificate for other names than %s: set --tls-server-name to one that is in it, as server.<datacenter>.consul", hostname.Host)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "has a certificate that is not valid now: renew it, or check the clocks"
	case errors.As(err, &invalid):
		return "has a certificate that is not valid for a server: make it one, as `consul tls cert create -server` does"
	case errors.As(err, &noTLS), errors.Is(err, http.ErrSchemeMismatch):
		return "does not speak TLS on this port: give the HTTPS port with --consul-http-port, or set --tls-disabled"
	case errors.As(err, &opErr) && opErr.Op == "remote error": // so crypto/tls calls an alert
		return "refuses our TLS: it may want a client certificate of its own CA, see --tls-cert and --tls-key"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refuses the connection: check that it runs, and --consul-http-port"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "cannot be reached: check the network and --consul-addresses"
	case timedOut(err):
		return notInTime
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return "ended the connection: its log may say why"
	case strings.Contains(err.Error(), "malformed HTTP"):
		return "does not speak HTTP on this port: check --consul-http-port"
	}
	return cannotBeAsked
}

// What is wrong then is not seen from here.
const (
	notInTime     = "does not answer in time: check that it is well, and that no firewall drops what is sent to it"
	cannotBeAsked = "cannot be asked: lictord's log has the error"
	limitsUs      = "limits requests for now: it is asked again by and by"
)

// timedOut says whether an answer, or a connection, did not come in time.
func timedOut(err error) bool {
	var netErr net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &netErr) && netErr.Timeout() ||
		status.Code(err) == codes.DeadlineExceeded
}

// explainStatus finds the sentence for an answer that is a refusal. token is what
// was sent.
func explainStatus(target string, refused statusError, token string) error {
	var what string
	switch code, said := refused.status, refused.said; {
	case refused.wantsTLS():
		what = "wants TLS on this port: do not set --tls-disabled, or give the plain port with --consul-http-port"
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		what = refusesToken(token)
	case refused.limits():
		what = limitsUs
	case strings.Contains(said, "No cluster leader"):
		what = "has no leader: check with `consul operator raft list-peers` that most servers are up"
	default:
		what = "cannot answer: lictord's log has what it said"
	}
	return &Problem{
		Sentence: fmt.Sprintf("the Consul server at %s %s", target, what),
		Err:      refused,
	}
}

func refusesToken(token string) string {
	if token == "" {
		return "wants a token: give a file with one by --consul-token-file"
	}
	return "refuses the token: check the file of --consul-token-file, and that the token still exists"
}

// statusError is an answer that is a refusal.
type statusError struct {
	status int
	said   string // the beginning of the body
}

// wantsTLS says that a port of TLS was spoken to in plain text; so Go's server
// answers that.
func (e statusError) wantsTLS() bool {
	return strings.Contains(e.said, "HTTP request to an HTTPS server")
}

// limits says that it is for want of capacity.
func (e statusError) limits() bool {
	return e.status == http.StatusTooManyRequests || strings.Contains(e.said, "rate limit")
}

func (e statusError) Error() string { return fmt.Sprintf("status %d: %.200s", e.status, e.said) }
