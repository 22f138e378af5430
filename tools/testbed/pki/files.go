package pki

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
)

// Files are a CA bundle, a certificate and its key in a directory, for a program
// to read and to follow.
type Files struct{ dir string }

// NewFiles makes the directory; there are no files in it before the first Write.
func NewFiles(dir string) (*Files, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make directory of certificates: %w", err)
	}
	return &Files{dir: dir}, nil
}

// CA is the path of the bundle.
func (f *Files) CA() string { return filepath.Join(f.dir, "ca.pem") }

// Cert is the path of the certificate.
func (f *Files) Cert() string { return filepath.Join(f.dir, "cert.pem") }

// Key is the path of the certificate's key.
func (f *Files) Key() string { return filepath.Join(f.dir, "key.pem") }

// Trust writes the bundle: the certificates of these CAs.
func (f *Files) Trust(cas ...*CA) error { return Replace(f.CA(), Bundle(cas...), 0o644) }

// Show writes certificate and key.
func (f *Files) Show(leaf Leaf) error {
	// The key first: a reader between the two finds a pair that does not match
	// either way, and then a change of the file that it looks at longest.
	if err := Replace(f.Key(), leaf.Key, 0o600); err != nil {
		return err
	}
	return Replace(f.Cert(), leaf.Cert, 0o644)
}

// Bundle is the certificates of the CAs in one text.
func Bundle(cas ...*CA) []byte {
	var all [][]byte
	for _, ca := range cas {
		all = append(all, ca.PEM())
	}
	return bytes.Join(all, nil)
}

// Replace writes a file beside the path and renames it there: who reads the path
// sees the old or the new content, never a part.
func Replace(path string, content []byte, mode os.FileMode) error {
	if err := os.WriteFile(path+".new", content, mode); err != nil {
		return fmt.Errorf("replace %s: %w", path, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("replace %s: %w", path, err)
	}
	return nil
}
