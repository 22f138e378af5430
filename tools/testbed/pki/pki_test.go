package pki

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFilesHoldAPairThatTheBundleVerifies(t *testing.T) {
	first, err := NewCA("first")
	check(t, err)
	second, err := NewCA("second")
	check(t, err)
	files, err := NewFiles(t.TempDir() + "/tls")
	check(t, err)
	verify := func(trusted ...*CA) error {
		check(t, files.Trust(trusted...))
		pair, err := tls.LoadX509KeyPair(files.Cert(), files.Key())
		check(t, err)
		bundle, err := os.ReadFile(files.CA())
		check(t, err)
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(bundle)
		_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "server.dc1.consul"})
		return err
	}
	for _, ca := range []*CA{first, second} {
		leaf, err := ca.Issue(Request{Name: "server", DNS: []string{"server.dc1.consul"}})
		check(t, err)
		check(t, files.Show(leaf))
		if err := verify(first, second); err != nil {
			t.Errorf("with both trusted: %v", err)
		}
	}
	if err := verify(first); err == nil {
		t.Error("a certificate by one CA verifies by another")
	}
	if info, err := os.Stat(files.Key()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's mode is %v, %v", info.Mode(), err)
	}
}

func TestExpiredCertificate(t *testing.T) {
	ca, err := NewCA("ca")
	check(t, err)
	leaf, err := ca.Issue(Request{Name: "old", NotAfter: time.Now().Add(-time.Minute)})
	check(t, err)
	block, _ := pem.Decode(leaf.Cert)
	cert, err := x509.ParseCertificate(block.Bytes)
	check(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(ca.Certificate())
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots}); err == nil {
		t.Error("it verifies")
	}
}

func TestBearerIsSignedAndSaysWhatItWasTold(t *testing.T) {
	s, err := NewSigner("me", "you")
	check(t, err)
	bearer, err := s.Sign(map[string]any{"service": "web"}, time.Minute)
	check(t, err)
	parts := strings.Split(bearer, ".")
	if len(parts) != 3 {
		t.Fatalf("%d parts", len(parts))
	}
	text, err := s.PublicKey()
	check(t, err)
	block, _ := pem.Decode([]byte(text))
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	check(t, err)
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	check(t, err)
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	r, v := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
	if !ecdsa.Verify(public.(*ecdsa.PublicKey), sum[:], r, v) {
		t.Error("the signature is not by its key")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	check(t, err)
	var claims struct {
		Iss, Aud, Service string
		Exp               int64
	}
	check(t, json.Unmarshal(payload, &claims))
	if left := time.Until(time.Unix(claims.Exp, 0)); claims.Iss != "me" || claims.Aud != "you" || claims.Service != "web" || left <= 0 || left > time.Minute {
		t.Errorf("claims are %+v", claims)
	}
}
