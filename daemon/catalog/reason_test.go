package catalog

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"testing"
)

func TestReasons(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want Reason
	}{
		{explain("s", x509.UnknownAuthorityError{}), ReasonWrongCA},
		{explain("s", x509.HostnameError{Certificate: &x509.Certificate{}, Host: "h"}), ReasonWrongName},
		{explain("s", x509.CertificateInvalidError{Reason: x509.Expired}), ReasonCertificate},
		{explain("s", fmt.Errorf("dial: %w", tls.RecordHeaderError{})), ReasonNoTLS},
		{explain("s", http.ErrSchemeMismatch), ReasonNoTLS},
		{explain("s", &net.OpError{Op: "remote error", Err: errors.New("tls: bad certificate")}), ReasonTLSRefused},
		{explainStatus("s", statusError{400, "Client sent an HTTP request to an HTTPS server."}, ""), ReasonWantsTLS},
		{explainStatus("s", statusError{403, "ACL not found"}, "t"), ReasonToken},
		{&Problem{Sentence: "hidden", Err: errHidden}, ReasonToken},
		{&Problem{Sentence: "none", Err: errNoServers}, ReasonNoServers},
		{explainStatus("s", statusError{500, "No cluster leader"}, ""), ReasonContact},
		{&Problem{Sentence: "no leader"}, ReasonContact},
		{errors.New("what is this?"), ReasonContact},
	} {
		got := reasonFor(tt.err)
		if got != tt.want || !slices.Contains(Reasons[:], got) {
			t.Errorf("%v: %s, want %s", tt.err, got, tt.want)
		}
	}
}
