package catalog

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// authority is a CA made for a test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t}
	a.cert, a.key = a.sign(&x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	return a
}

func (a *authority) sign(template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

// leaf is a certificate for servers and clients.
func (a *authority) leaf(until time.Time, names ...string) (*x509.Certificate, *ecdsa.PrivateKey) {
	return a.sign(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "leaf"}, DNSNames: names,
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: until,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
}

// leafFiles are those of a new leaf and its key.
func (a *authority) leafFiles(dir string, until time.Time, names ...string) (certFile, keyFile string) {
	a.t.Helper()
	cert, key := a.leaf(until, names...)
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writeFile(a.t, certFile, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})))
	writeFile(a.t, keyFile, string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})))
	return certFile, keyFile
}

func (a *authority) file(dir string) string {
	name := filepath.Join(dir, "ca.pem")
	writeFile(a.t, name, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})))
	return name
}

// newTLSFake is a fake with a certificate for server.dc1.consul.
func newTLSFake(t *testing.T, ca *authority, until time.Time, clients *x509.CertPool) *fake {
	f := &fake{index: 10, nodes: []entry{node("a", "10.0.0.1", 8502)}, changed: make(chan struct{})}
	f.Server = httptest.NewUnstartedServer(f)
	cert, key := ca.leaf(until, "server.dc1.consul")
	f.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}}
	if clients != nil {
		f.TLS.ClientAuth, f.TLS.ClientCAs = tls.RequireAndVerifyClientCert, clients
	}
	f.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0) // handshakes fail on purpose
	f.StartTLS()
	t.Cleanup(func() {
		f.CloseClientConnections()
		f.Close()
	})
	return f
}

func secure(f *fake, t TLS) Config {
	return Config{Addresses: f.addr(), TLS: t, Dial: dialLoopback}
}

func TestTLS(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	hour := time.Now().Add(time.Hour)
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	const name = "server.dc1.consul"

	t.Run("verified", func(t *testing.T) {
		c := start(t, secure(newTLSFake(t, ca, hour, nil), TLS{CACerts: ca.file(t.TempDir()), ServerName: name}))
		if got := want(t, c, "a"); got[0].Port != 8503 {
			t.Errorf("port %d is not that of gRPC with TLS", got[0].Port)
		}
	})
	t.Run("CA replaced while running", func(t *testing.T) {
		dir := t.TempDir()
		other.file(dir)
		c := start(t, secure(newTLSFake(t, ca, hour, nil), TLS{CACerts: dir, ServerName: name}))
		eventually(t, c, "refused", func(s Status) bool { return strings.Contains(s.Problem, "unknown authority") })
		ca.file(dir)
		want(t, c, "a")
	})
	t.Run("client certificate", func(t *testing.T) {
		dir := t.TempDir()
		certFile, keyFile := ca.leafFiles(dir, hour)
		f := newTLSFake(t, ca, hour, roots)
		c := start(t, secure(f, TLS{CACerts: ca.file(dir), ServerName: name, Cert: certFile, Key: keyFile}))
		want(t, c, "a")
	})

	for problem, tt := range map[string]struct {
		fake *fake
		tls  TLS
	}{
		"unknown authority: give its CA": {newTLSFake(t, ca, hour, nil), TLS{CACerts: other.file(t.TempDir()), ServerName: name}},
		"other names than 127.0.0.1":     {newTLSFake(t, ca, hour, nil), TLS{CACerts: ca.file(t.TempDir())}},
		"not valid now":                  {newTLSFake(t, ca, time.Now().Add(-time.Hour), nil), TLS{CACerts: ca.file(t.TempDir()), ServerName: name}},
		"may want a client certificate":  {newTLSFake(t, ca, hour, roots), TLS{CACerts: ca.file(t.TempDir()), ServerName: name}},
		"does not speak TLS":             {newFake(t), TLS{}},
		"wants TLS on this port":         {newTLSFake(t, ca, hour, nil), TLS{Disabled: true}},
	} {
		t.Run(problem, func(t *testing.T) {
			c := start(t, secure(tt.fake, tt.tls))
			s := eventually(t, c, "problem", func(s Status) bool { return s.Problem != "" })
			if !strings.Contains(s.Problem, problem) {
				t.Errorf("problem %q", s.Problem)
			}
		})
	}
}

// What is wrong with the files from the beginning is an error of New.
func TestTLSFiles(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	writeFile(t, text, "no certificate")
	empty := filepath.Join(dir, "empty")
	if err := os.Mkdir(empty, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, conf := range map[string]TLS{
		"missing":       {CACerts: filepath.Join(dir, "missing")},
		"no PEM":        {CACerts: text},
		"no PEM in dir": {CACerts: dir},
		"empty dir":     {CACerts: empty},
		"no key":        {Cert: text},
		"bad pair":      {Cert: text, Key: text},
	} {
		_, err := New(Config{Addresses: "127.0.0.1", TLS: conf})
		if p := (*Problem)(nil); !errors.As(err, &p) || !strings.Contains(p.Sentence, "--") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
