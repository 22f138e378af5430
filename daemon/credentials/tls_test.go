package credentials

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lictor-mesh/lictor/daemon/catalog"
	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// pair is a certificate that signs itself, with its key, PEM.
func pair(t *testing.T, name string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}

// secured is a rig with TLS, its files, and a proxy.
func secured(t *testing.T, test func(t *testing.T, r *rig, ca, cert, key string)) {
	t.Helper()
	testenv.Files(t)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		ca, cert, key := filepath.Join(r.dir, "ca.pem"), filepath.Join(r.dir, "cert.pem"), filepath.Join(r.dir, "key.pem")
		c, k := pair(t, "first")
		r.write(ca, c)
		r.write(cert, c)
		r.write(key, k)
		r.cfg.TLS = catalog.TLS{CACerts: ca, Cert: cert, Key: key}
		r.consul.know("static-token")
		r.start()
		r.register("web", static(), "static-token", "")
		test(t, r, ca, cert, key)
		r.stop()
		r.noSecrets()
	})
}

func (r *rig) has(id, file, content string) bool {
	r.t.Helper()
	raw, err := os.ReadFile(filepath.Join(r.base.Path(id), file))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		r.t.Fatal(err)
	}
	return strings.Contains(strings.ReplaceAll(string(raw), `\n`, "\n"), content)
}

// The daemon's files are followed; in the middle of a rotation, when certificate
// and key do not belong together, what was there stays.
func TestDaemonsTLS(t *testing.T) {
	secured(t, func(t *testing.T, r *rig, ca, cert, key string) {
		if f := r.files("web"); !f.CA || !f.Client || f.TLS != nil {
			t.Errorf("files %+v", f)
		}
		old, err := os.ReadFile(cert)
		if err != nil || !r.has("web", "ca.json", string(old)) || !r.has("web", "client.json", string(old)) {
			t.Fatalf("the files have not what they should; %v", err)
		}
		c, k := pair(t, "second")
		r.write(cert, c) // and the key follows later
		pass(10 * time.Second)
		if !r.has("web", "client.json", string(old)) {
			t.Error("a certificate without its key was handed on")
		}
		if p := r.m.Stats().TLSProblem; !strings.Contains(p, cert) {
			t.Errorf("problem %q", p)
		}
		r.write(key, k)
		r.write(ca, c)
		closedBefore := r.streams.count()
		pass(5 * time.Second)
		if !r.has("web", "client.json", c) || !r.has("web", "ca.json", c) || !r.has("web", "client.json", k) {
			t.Error("the new files were not handed on")
		}
		if p := r.m.Stats().TLSProblem; p != "" {
			t.Errorf("problem %q", p)
		}
		if r.streams.count() != closedBefore {
			t.Error("streams were closed for a certificate: the next connection has it")
		}
		r.write(ca, "no certificate")
		pass(5 * time.Second)
		if !r.has("web", "ca.json", c) {
			t.Error("a CA that is none was handed on")
		}
	})
}

// A proxy with files of its own, which are followed too.
func TestProxysTLS(t *testing.T) {
	secured(t, func(t *testing.T, r *rig, _, _, _ string) {
		dir := filepath.Join(r.dir, "cas")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		one, _ := pair(t, "one")
		two, twoKey := pair(t, "two")
		r.write(filepath.Join(dir, "1.pem"), one)
		r.write(filepath.Join(dir, "2.pem"), two)
		r.book.do(state.ProxyChanged{ID: "web", Envoy: &state.EnvoySettings{
			CACerts: dir, Cert: filepath.Join(dir, "2.pem"), Key: filepath.Join(r.dir, "two.key"), ServerName: "server.dc1.consul",
		}})
		var not *NotReadyError
		if _, err := r.m.Ready(t.Context(), "web"); !errors.As(err, &not) || !strings.Contains(not.Sentence, "client certificate cannot be read") {
			t.Errorf("without the key: %v", err)
		}
		r.write(filepath.Join(r.dir, "two.key"), twoKey)
		pass(5 * time.Second)
		f := r.files("web")
		if f.TLS == nil || f.TLS.ServerName != "server.dc1.consul" || !strings.Contains(string(f.TLS.CACerts), strings.TrimSpace(two)) {
			t.Errorf("TLS %+v", f.TLS)
		}
		if !r.has("web", "ca.json", one) || !r.has("web", "ca.json", two) || !r.has("web", "client.json", twoKey) {
			t.Error("the files have not what they should")
		}
		three, _ := pair(t, "three")
		r.write(filepath.Join(dir, "3.pem"), three)
		pass(5 * time.Second)
		if !r.has("web", "ca.json", three) {
			t.Error("a new CA was not handed on")
		}
		r.book.do(state.ProxyChanged{ID: "web", Envoy: &state.EnvoySettings{}})
		pass(5 * time.Second)
		if r.has("web", "ca.json", one) {
			t.Error("the daemon's CA is not back")
		}
	})
}

// A directory that the registration names, and another one after it.
func TestSecretsDir(t *testing.T) {
	secured(t, func(t *testing.T, r *rig, _, _, _ string) {
		one, two := filepath.Join(r.dir, "one"), filepath.Join(r.dir, "two")
		r.files("web")
		for _, dir := range []string{one, two} {
			r.book.do(state.ProxyChanged{ID: "web", Envoy: &state.EnvoySettings{SecretsDir: dir}})
			if f := r.files("web"); f.Dir != dir {
				t.Errorf("files %+v", f)
			}
			if token := tokenIn(t, filepath.Join(dir, "token.json")); token != "static-token" {
				t.Errorf("in %s: %q", dir, token)
			}
			r.write(filepath.Join(dir, "bootstrap.json"), "{}")
		}
		for _, gone := range []string{r.base.Path("web"), one} {
			if _, err := os.Stat(gone); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("left: %s, %v", gone, err)
			}
		}
		r.deregister("web")
		pass(time.Second)
		if _, err := os.Stat(two); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("left: %v", err)
		}
		// One that others may write to is refused, with what to do.
		open := filepath.Join(r.dir, "open")
		if err := errors.Join(os.Mkdir(open, 0o700), os.Chmod(open, 0o777)); err != nil {
			t.Fatal(err)
		}
		c := static()
		r.book.do(state.ProxyRegistered{Proxy: state.Registration{
			ID: "api", Node: "n", Credential: &c, Process: me(t), Envoy: &state.EnvoySettings{SecretsDir: open},
		}})
		if _, err := r.m.Ready(t.Context(), "api"); err == nil || !strings.Contains(err.Error(), "others may write to it") {
			t.Errorf("an open directory: %v", err)
		}
		pass(time.Second)
		r.wantState("api", state.CredentialUnreadable)
	})
}

// What is wrong with the TLS of servers is a state of its own.
func TestJudge(t *testing.T) {
	problem := func(err error) error { return &catalog.Problem{Sentence: "what to do", Err: err} }
	for name, tt := range map[string]struct {
		err  error
		what verdict
		is   state.CredentialState
	}{
		"good":          {nil, good, ""},
		"not known yet": {problem(fmt.Errorf("%w: Service not found", catalog.ErrProxyUnknown)), good, ""},
		"token":         {problem(fmt.Errorf("%w: ACL not found", catalog.ErrToken)), bad, state.CredentialRefused},
		"busy":          {problem(catalog.ErrBusy), unclear, ""},
		"refused":       {problem(errors.New("connection refused")), unclear, ""},
		"CA":            {problem(x509.UnknownAuthorityError{}), bad, state.CredentialWrongCA},
		"CA, by TLS":    {problem(&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}), bad, state.CredentialWrongCA},
		"name":          {problem(x509.HostnameError{Certificate: &x509.Certificate{}, Host: "x"}), bad, state.CredentialWrongName},
		"plain":         {problem(tls.RecordHeaderError{}), bad, state.CredentialNoTLS},
		"certificate":   {problem(&net.OpError{Op: "remote error", Err: errors.New("tls: bad certificate")}), bad, state.CredentialTLSRefused},
	} {
		what, problem := judge(tt.err)
		if what != tt.what || (problem != nil) != (tt.is != "") || problem != nil && (problem.state != tt.is || problem.sentence != "what to do") {
			t.Errorf("%s: %v, %+v", name, what, problem)
		}
	}
}
