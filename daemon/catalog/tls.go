package catalog

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// TLS says how servers are verified. The zero value verifies them by the
// system's roots and the address they are reached at.
type TLS struct {
	Disabled bool   // plain HTTP
	CACerts  string // PEM file, or directory of PEM files; "" means the system's roots
	Cert     string // PEM file of the client's certificate, "" for none
	Key      string // PEM file of its key
	// ServerName to be found in the servers' certificates, as in
	// server.dc1.consul; "" means the address or name they are reached at. The
	// Envoys, which reach them by a VIP, verify ServerName, or else what the
	// function of that name makes.
	ServerName string
}

// config reads the files. Its errors name the file and are complete sentences.
func (t TLS) config(host string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if t.ServerName != "" {
		c.ServerName = t.ServerName
	}
	if t.CACerts != "" {
		pool, err := readRoots(t.CACerts)
		if err != nil {
			return nil, err
		}
		c.RootCAs = pool
	}
	if (t.Cert == "") != (t.Key == "") {
		return nil, &Problem{Sentence: "--tls-cert and --tls-key belong together: give both or none"}
	}
	if t.Cert != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, &Problem{
				Sentence: fmt.Sprintf("the client certificate %s and its key %s cannot be used (%v): check --tls-cert and --tls-key", t.Cert, t.Key, err),
				Err:      err,
			}
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// readRoots reads a PEM file, or all files of a directory that hold PEM.
func readRoots(path string) (*x509.CertPool, error) {
	files := []string{path}
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		if files, err = filepath.Glob(filepath.Join(path, "*")); err == nil && len(files) == 0 {
			err = errors.New("directory is empty")
		}
	}
	pool, found := x509.NewCertPool(), false
	for _, f := range files {
		if err != nil {
			break
		}
		if info, statErr := os.Stat(f); statErr == nil && info.IsDir() {
			continue
		}
		var pem []byte
		if pem, err = os.ReadFile(f); err == nil && pool.AppendCertsFromPEM(pem) {
			found = true
		}
	}
	if err == nil && !found {
		err = errors.New("no PEM certificate in it")
	}
	if err != nil {
		return nil, &Problem{
			Sentence: fmt.Sprintf("the CA certificates at %s cannot be used (%v): check --ca-certs", path, err),
			Err:      err,
		}
	}
	return pool, nil
}
