package lone

import (
	"crypto/rand"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/tools/testbed/pki"
)

// Issuer signs bearer tokens as an identity provider does.
type Issuer struct {
	t      testing.TB
	signer *pki.Signer
}

// NewIssuer makes one with a key of its own.
func NewIssuer(t testing.TB) *Issuer {
	t.Helper()
	signer, err := pki.NewSigner("lone", "consul")
	if err != nil {
		t.Fatal(err)
	}
	return &Issuer{t: t, signer: signer}
}

// PublicKey is the key for JWTValidationPubKeys, PEM.
func (i *Issuer) PublicKey() string {
	i.t.Helper()
	key, err := i.signer.PublicKey()
	if err != nil {
		i.t.Fatal(err)
	}
	return key
}

// Bearer is a token for a service, which ends after so long (or ended so long
// ago, for a negative time).
func (i *Issuer) Bearer(service string, lifetime time.Duration) string {
	i.t.Helper()
	return i.Sign(map[string]any{"sub": service, "service": service, "jti": rand.Text()}, lifetime)
}

// Sign makes a token of claims, which come on top of the usual ones.
func (i *Issuer) Sign(claims map[string]any, lifetime time.Duration) string {
	i.t.Helper()
	bearer, err := i.signer.Sign(claims, lifetime)
	if err != nil {
		i.t.Fatal(err)
	}
	return bearer
}

// JWTMethod makes an auth method of type jwt that trusts the issuer, with a
// binding rule that gives a bearer the identity of its service, unless that
// begins with "unbound". ttl is that of the tokens; Consul's least is a minute,
// 0 means that they never end.
func (s *Server) JWTMethod(name string, i *Issuer, ttl time.Duration) {
	s.t.Helper()
	method := map[string]any{
		"Name": name, "Type": "jwt", "TokenLocality": "local",
		"Config": map[string]any{
			"JWTValidationPubKeys": []string{i.PublicKey()}, "BoundIssuer": "lone", "BoundAudiences": []string{"consul"},
			"ClaimMappings": map[string]string{"service": "service"},
		},
	}
	if ttl > 0 {
		method["MaxTokenTTL"] = ttl.String()
	}
	s.Put("/v1/acl/auth-method", method, nil)
	s.Put("/v1/acl/binding-rule", map[string]any{
		"AuthMethod": name, "BindType": "service", "BindName": "${value.service}",
		"Selector": `value.service matches "^[^u]"`,
	}, nil)
}
