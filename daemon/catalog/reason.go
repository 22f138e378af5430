package catalog

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Reason is why a query failed, in a word, for a metric. The sentence for people
// is in a [Problem].
type Reason string

// Reasons.
const (
	ReasonWrongCA     Reason = "wrong-ca"    // the server's certificate is of another CA
	ReasonWrongName   Reason = "wrong-name"  // it is for another name
	ReasonCertificate Reason = "certificate" // it is expired, or not for a server
	ReasonNoTLS       Reason = "no-tls"      // the port speaks no TLS
	ReasonWantsTLS    Reason = "wants-tls"   // the port speaks TLS, and we do not
	ReasonTLSRefused  Reason = "tls-refused" // the server refuses our certificate, or misses one
	ReasonToken       Reason = "token"       // the daemon's token is refused, or may not see the servers
	ReasonNoServers   Reason = "no-servers"  // none is listed: none is healthy, or an anonymous query may not see them
	ReasonContact     Reason = "contact"     // everything else: network, elections, answers that say nothing
)

// Reasons are all of them, in the order of their keys in Status.Failed.
var Reasons = [...]Reason{
	ReasonWrongCA, ReasonWrongName, ReasonCertificate, ReasonNoTLS, ReasonWantsTLS, ReasonTLSRefused, ReasonToken, ReasonNoServers, ReasonContact,
}

// Causes of problems with an answer that is a good one in itself.
var (
	errHidden    = errors.New("ACLs hide servers")
	errNoServers = errors.New("the list is empty") // so ACLs answer who shows no token, without saying so
)

// reasonFor finds the reason of an error. It looks at what [reason] looks at.
func reasonFor(err error) Reason {
	var (
		unknownCA x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
		noTLS     tls.RecordHeaderError
		opErr     *net.OpError
		refused   statusError
	)
	_ = errors.As(err, &refused) // its zero value is no refusal
	switch {
	case errors.As(err, &unknownCA):
		return ReasonWrongCA
	case errors.As(err, &hostname):
		return ReasonWrongName
	case errors.As(err, &invalid):
		return ReasonCertificate
	case errors.As(err, &noTLS), errors.Is(err, http.ErrSchemeMismatch):
		return ReasonNoTLS
	case errors.Is(err, ErrWantsTLS), refused.wantsTLS():
		return ReasonWantsTLS
	case errors.As(err, &opErr) && opErr.Op == "remote error":
		return ReasonTLSRefused
	case errors.Is(err, errHidden), errors.Is(err, ErrToken),
		refused.status == http.StatusUnauthorized, refused.status == http.StatusForbidden,
		status.Code(err) == codes.Unauthenticated, status.Code(err) == codes.PermissionDenied:
		return ReasonToken
	case errors.Is(err, errNoServers):
		return ReasonNoServers
	}
	return ReasonContact
}
