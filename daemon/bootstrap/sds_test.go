package bootstrap

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/encoding/protojson"
)

// selfSigned is a certificate and its key, as PEM.
func selfSigned(t *testing.T, names ...string) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// readSecret reads a document as Envoy does.
func readSecret(t *testing.T, doc []byte, err error) *tlsv3.Secret {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	response, s := new(discoveryv3.DiscoveryResponse), new(tlsv3.Secret)
	if err := protojson.Unmarshal(doc, response); err != nil {
		t.Fatal(err)
	}
	if len(response.GetResources()) != 1 {
		t.Fatalf("%d resources", len(response.GetResources()))
	}
	if err := response.GetResources()[0].UnmarshalTo(s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSecrets(t *testing.T) {
	certificate, key := selfSigned(t)
	doc, err := TokenSecret("11111111-2222-3333-4444-555555555555")
	if s := readSecret(t, doc, err); s.GetName() != tokenSecret ||
		s.GetGenericSecret().GetSecret().GetInlineString() != "11111111-2222-3333-4444-555555555555" {
		t.Errorf("token: %s", doc)
	}
	doc, err = CASecret(certificate)
	if s := readSecret(t, doc, err); s.GetName() != caSecret ||
		s.GetValidationContext().GetTrustedCa().GetInlineString() != string(certificate) {
		t.Errorf("CA: %s", doc)
	}
	doc, err = ClientSecret(certificate, key)
	s := readSecret(t, doc, err)
	if s.GetName() != clientSecret {
		t.Errorf("client certificate: %s", doc)
	}
	c := s.GetTlsCertificate()
	if _, err := tls.X509KeyPair([]byte(c.GetCertificateChain().GetInlineString()), []byte(c.GetPrivateKey().GetInlineString())); err != nil {
		t.Error(err)
	}
}

func TestSecretsRefused(t *testing.T) {
	certificate, key := selfSigned(t)
	for name, tt := range map[string]struct {
		render func() ([]byte, error)
		want   string
	}{
		"no token":                {func() ([]byte, error) { return TokenSecret("") }, "empty"},
		"token with a line break": {func() ([]byte, error) { return TokenSecret("hush\n") }, "no HTTP header"},
		"token that is binary":    {func() ([]byte, error) { return TokenSecret("hush\xff") }, "no HTTP header"},
		"no CA":                   {func() ([]byte, error) { return CASecret(nil) }, "no PEM certificate"},
		"key as CA":               {func() ([]byte, error) { return CASecret(key) }, "no PEM certificate"},
		"no certificate":          {func() ([]byte, error) { return ClientSecret(key, key) }, "no PEM certificate"},
		"no key":                  {func() ([]byte, error) { return ClientSecret(certificate, []byte("hush")) }, "no PEM private key"},
		"key that is binary":      {func() ([]byte, error) { return ClientSecret(certificate, append(key, "hush\xff"...)) }, "no UTF-8"},
	} {
		t.Run(name, func(t *testing.T) {
			doc, err := tt.render()
			if err == nil || doc != nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error %v, want %q in it", err, tt.want)
			}
			if strings.Contains(err.Error(), "hush") {
				t.Errorf("the error shows a secret: %v", err)
			}
		})
	}
}
