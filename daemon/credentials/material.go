package credentials

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/lictor-mesh/lictor/daemon/bootstrap"
	"github.com/lictor-mesh/lictor/daemon/catalog"
	"github.com/lictor-mesh/lictor/daemon/secrets"
	"github.com/lictor-mesh/lictor/state"
)

// maxPEM bounds what is read of TLS files; a system's roots are about 220 kB.
const maxPEM = 2 << 20

// systemRoots are where distributions keep the roots, as crypto/x509 has them.
var systemRoots = []string{
	"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
	"/etc/pki/tls/cacert.pem", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem",
}

// material is the content of TLS files, checked.
type material struct {
	ca, cert, key []byte // PEM; cert and key nil for none
	problem       string // why the files cannot be used as they are now; the rest is that of before
}

func (m material) same(o material) bool {
	return bytes.Equal(m.ca, o.ca) && bytes.Equal(m.cert, o.cert) && bytes.Equal(m.key, o.key)
}

// followTLS reads the daemon's TLS files again and hands them to every worker
// when they have changed. What cannot be used, as in the middle of a rotation,
// leaves what was.
func (m *Manager) followTLS(ctx context.Context) {
	if m.cfg.TLS.Disabled {
		return
	}
	got, err := readHost(ctx, m.cfg.TLS)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		if problem := err.Error(); problem != m.tls.problem {
			m.tls.problem = problem
			m.log.Warn("TLS files cannot be used, what was read before stays", "err", err)
		}
		return
	}
	if m.tls.problem == "" && m.tls.same(got) {
		return
	}
	if m.tls.ca != nil {
		m.log.Info("TLS files were read anew", "proxies", len(m.workers))
	}
	m.tls = got
	for _, w := range m.workers {
		w.nudge()
	}
}

// readHost reads the daemon's files with its own rights.
func readHost(ctx context.Context, t catalog.TLS) (material, error) {
	host, err := secrets.Host("")
	if err != nil {
		return material{}, err
	}
	defer func() { _ = host.Close() }() // only read
	return readMaterial(ctx, host, t.CACerts, t.Cert, t.Key)
}

// readMaterial reads and checks TLS files; "" for the CA means the system's
// roots.
func readMaterial(ctx context.Context, view *secrets.View, ca, cert, key string) (material, error) {
	var m material
	var err error
	if ca == "" {
		m.ca, err = readSystemRoots()
	} else {
		m.ca, err = readCA(ctx, view, ca)
	}
	if err != nil {
		return material{}, fmt.Errorf("the CA certificates cannot be read, check the files: %w", err)
	}
	if _, err := bootstrap.CASecret(m.ca); err != nil {
		return material{}, fmt.Errorf("the CA certificates %s cannot be used: %w", ca, err)
	}
	if cert == "" {
		return m, nil
	}
	if m.cert, m.key, err = readPair(view, cert, key); err != nil {
		return material{}, err
	}
	return m, nil
}

func readCA(ctx context.Context, view *secrets.View, path string) ([]byte, error) {
	content, err := view.Read(path, maxPEM)
	if errors.Is(err, secrets.ErrNoFile) {
		return view.ReadDir(ctx, path, maxPEM)
	}
	return content, err
}

func readPair(view *secrets.View, cert, key string) (certPEM, keyPEM []byte, err error) {
	certPEM, err = view.Read(cert, maxPEM)
	if err == nil {
		keyPEM, err = view.Read(key, maxPEM)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("the client certificate cannot be read, check the files: %w", err)
	}
	if _, err := tls.X509KeyPair(certPEM, keyPEM); err != nil {
		return nil, nil, fmt.Errorf("the client certificate %s and its key %s cannot be used: %w", cert, key, err)
	}
	return certPEM, keyPEM, nil
}

func readSystemRoots() ([]byte, error) {
	path := os.Getenv("SSL_CERT_FILE") // as crypto/x509 has it
	for _, p := range append([]string{path}, systemRoots...) {
		content, err := os.ReadFile(p)
		if err == nil {
			return content, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return nil, errors.New("this host has no CA certificates of its own: give Consul's CA with --ca-certs")
}

// tlsFor is what a proxy's TLS files hold: the daemon's, or the proxy's own over
// them, as for the connections that the daemon itself makes on its behalf.
func (w *worker) tlsFor(ctx context.Context, p state.Proxy) (m material, own *catalog.ProxyTLS, err error) {
	if w.m.cfg.TLS.Disabled {
		return material{}, nil, nil
	}
	w.m.mu.Lock()
	m = w.m.tls
	w.m.mu.Unlock()
	if m.problem != "" && m.ca == nil {
		return material{}, nil, errors.New(m.problem)
	}
	if p.Envoy == nil || p.Envoy.CACerts == "" && p.Envoy.Cert == "" && p.Envoy.ServerName == "" {
		return m, nil, nil
	}
	own = &catalog.ProxyTLS{ServerName: p.Envoy.ServerName}
	if p.Envoy.CACerts != "" {
		if m.ca, err = readCA(ctx, w.view, p.Envoy.CACerts); err != nil {
			return material{}, nil, fmt.Errorf("the CA certificates of the proxy cannot be read: %w", err)
		}
		own.CACerts = m.ca
	}
	if p.Envoy.Cert != "" {
		if m.cert, m.key, err = readPair(w.view, p.Envoy.Cert, p.Envoy.Key); err != nil {
			return material{}, nil, err
		}
		own.Cert, own.Key = m.cert, m.key
	}
	return m, own, nil
}

// writeTLS makes the proxy's files hold it.
func (w *worker) writeTLS(m material) (changed bool, err error) {
	if m.ca == nil {
		return false, w.dir.Forget(bootstrap.CAFile, bootstrap.ClientFile)
	}
	doc, err := bootstrap.CASecret(m.ca)
	if err != nil {
		return false, err
	}
	if changed, err = w.dir.Write(bootstrap.CAFile, doc); err != nil {
		return false, err
	}
	if m.cert == nil {
		return changed, w.dir.Forget(bootstrap.ClientFile)
	}
	if doc, err = bootstrap.ClientSecret(m.cert, m.key); err != nil {
		return false, err
	}
	client, err := w.dir.Write(bootstrap.ClientFile, doc)
	return changed || client, err
}
