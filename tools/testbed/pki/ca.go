// Package pki makes what a mesh under test trusts: certificate authorities, the
// certificates of servers and clients, files of them that are changed as
// production changes them, and signed bearer tokens. Nothing here is for use
// outside tests: keys are written to disk, and nobody checks who asks.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"time"
)

// lifetime of what says nothing else about it.
const lifetime = 24 * time.Hour

// CA is a certificate authority. It may be used concurrently.
type CA struct {
	cert *x509.Certificate
	der  []byte
	key  *ecdsa.PrivateKey
}

// NewCA makes a root of that name.
func NewCA(name string) (*CA, error) {
	key, err := newKey()
	if err != nil {
		return nil, fmt.Errorf("make CA %q: %w", name, err)
	}
	template := newTemplate(name, time.Now().Add(lifetime))
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make CA %q: %w", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	return &CA{cert: cert, der: der, key: key}, err
}

// PEM is the CA's certificate.
func (ca *CA) PEM() []byte { return encode("CERTIFICATE", ca.der) }

// Certificate is its certificate, to be read only.
func (ca *CA) Certificate() *x509.Certificate { return ca.cert }

// Request says what a certificate is to be about.
type Request struct {
	Name     string // common name
	DNS      []string
	IPs      []netip.Addr
	NotAfter time.Time // default: in a day
}

// Leaf is a certificate with its key, in PEM.
type Leaf struct{ Cert, Key []byte }

// Issue signs a certificate that servers and clients alike may use.
func (ca *CA) Issue(r Request) (Leaf, error) {
	key, err := newKey()
	if err != nil {
		return Leaf{}, fmt.Errorf("issue certificate %q: %w", r.Name, err)
	}
	if r.NotAfter.IsZero() {
		r.NotAfter = time.Now().Add(lifetime)
	}
	template := newTemplate(r.Name, r.NotAfter)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	template.DNSNames = r.DNS
	for _, ip := range r.IPs {
		template.IPAddresses = append(template.IPAddresses, net.IP(ip.AsSlice()))
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		return Leaf{}, fmt.Errorf("issue certificate %q: %w", r.Name, err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Leaf{}, fmt.Errorf("issue certificate %q: %w", r.Name, err)
	}
	return Leaf{Cert: encode("CERTIFICATE", der), Key: encode("PRIVATE KEY", private)}, nil
}

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func newTemplate(name string, until time.Time) *x509.Certificate {
	var serial [16]byte
	_, _ = rand.Read(serial[:]) // never fails, by its documentation
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial[:]),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour), // a test may ask for one that is expired already
		NotAfter:     until,
	}
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
