package lone

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"testing"
	"time"
)

// Issuer signs bearer tokens (JWT, ES256), as an identity provider does.
type Issuer struct {
	t   testing.TB
	key *ecdsa.PrivateKey
}

// NewIssuer makes one with a key of its own.
func NewIssuer(t testing.TB) *Issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &Issuer{t: t, key: key}
}

// PublicKey is the key for JWTValidationPubKeys, PEM.
func (i *Issuer) PublicKey() string {
	der, err := x509.MarshalPKIXPublicKey(&i.key.PublicKey)
	if err != nil {
		i.t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// Bearer is a token for a service, which ends after so long (or ended so long
// ago, for a negative time).
func (i *Issuer) Bearer(service string, lifetime time.Duration) string {
	i.t.Helper()
	now := time.Now()
	return i.Sign(map[string]any{
		"iss": "lone", "aud": "consul", "sub": service, "service": service,
		"iat": now.Add(-time.Hour).Unix(), "nbf": now.Add(-time.Hour).Unix(), "exp": now.Add(lifetime).Unix(),
		"jti": rand.Text(),
	})
}

// Sign makes a token of claims.
func (i *Issuer) Sign(claims map[string]any) string {
	i.t.Helper()
	part := func(v any) string {
		raw, err := json.Marshal(v)
		if err != nil {
			i.t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(raw)
	}
	text := part(map[string]string{"alg": "ES256", "typ": "JWT"}) + "." + part(claims)
	sum := sha256.Sum256([]byte(text))
	der, err := i.key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		i.t.Fatal(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(fixed(i.t, der))
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

// fixed is an ECDSA signature as JWT has it: both numbers at full length.
func fixed(t testing.TB, der []byte) []byte {
	t.Helper()
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &sig); err != nil {
		t.Fatal(err)
	}
	out := make([]byte, 64)
	sig.R.FillBytes(out[:32])
	sig.S.FillBytes(out[32:])
	return out
}
