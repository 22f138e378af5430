package pki

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"time"
)

// Signer signs bearer tokens (JWTs, ES256), as an identity provider does. It may
// be used concurrently.
type Signer struct {
	Issuer   string
	Audience string
	key      *ecdsa.PrivateKey
}

// NewSigner makes one with a key of its own.
func NewSigner(issuer, audience string) (*Signer, error) {
	key, err := newKey()
	if err != nil {
		return nil, fmt.Errorf("make signer: %w", err)
	}
	return &Signer{Issuer: issuer, Audience: audience, key: key}, nil
}

// PublicKey verifies what it signs, in PEM.
func (s *Signer) PublicKey() (string, error) {
	der, err := x509.MarshalPKIXPublicKey(s.key.Public())
	if err != nil {
		return "", fmt.Errorf("encode signer's key: %w", err)
	}
	return string(encode("PUBLIC KEY", der)), nil
}

// Sign returns a bearer token that is good for that long, from now; for less
// than nothing it has expired already. The claims come on top of the usual ones.
func (s *Signer) Sign(claims map[string]any, lifetime time.Duration) (string, error) {
	now := time.Now()
	all := map[string]any{
		"iss": s.Issuer, "aud": s.Audience, "sub": "test",
		"nbf": now.Add(-time.Hour).Unix(), "iat": now.Add(-time.Hour).Unix(), "exp": now.Add(lifetime).Unix(),
	}
	maps.Copy(all, claims)
	payload, err := json.Marshal(all)
	if err != nil {
		return "", fmt.Errorf("sign bearer: %w", err)
	}
	text := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","typ":"JWT"}`)) +
		"." + base64.RawURLEncoding.EncodeToString(payload)
	sum := sha256.Sum256([]byte(text))
	r, v, err := ecdsa.Sign(rand.Reader, s.key, sum[:])
	if err != nil {
		return "", fmt.Errorf("sign bearer: %w", err)
	}
	// RFC 7518, section 3.4: both numbers in 32 bytes, big-endian.
	signature := append(r.FillBytes(make([]byte, 32)), v.FillBytes(make([]byte, 32))...)
	return text + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}
