// Package seal keeps secrets on disk, encrypted, so that a copy of the state
// directory alone gives none of them away.
//
// Each secret is a file of its own under <state-dir>/sealed, encrypted with
// AES-256-GCM. The key is derived from a key file beside it and the machine's
// id, or from a credential that systemd hands to the unit; see README.md for
// what that protects from and what it does not.
package seal

import (
	"crypto/cipher"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Errors of Get and Open, to be told apart with errors.Is.
var (
	// ErrDamaged: the file is not what was written.
	ErrDamaged = errors.New("sealed file is damaged")
	// ErrOtherKey: the file was sealed with a key that is not at hand, as after
	// the state directory was moved to another machine.
	ErrOtherKey = errors.New("sealed with another key")
	// ErrKeyFile: the key file cannot be used.
	ErrKeyFile = errors.New("key file cannot be used")
	// ErrName: a name has characters that a file's name must not have.
	ErrName = errors.New("no name of a sealed file")
)

// MaxSecret is the most bytes that Put takes.
const MaxSecret = 1 << 20

// sealedDir is the directory below the state directory.
const sealedDir = "sealed"

// Store is an open directory of sealed files. It is safe for concurrent use by
// one process; the daemon's lock of the state directory keeps others away.
type Store struct {
	dir  string
	keys []key // the first seals; all unseal

	mu   sync.Mutex // guards busy
	busy map[string]bool
	idle *sync.Cond // some name is not busy any more
}

// Options are what a test sets. The zero value is that of the daemon.
type Options struct {
	// MachineID is mixed into the key file's key; "" means what
	// /etc/machine-id says, nothing where there is none.
	MachineID string
	// CredentialsDir is where systemd keeps the unit's credentials; "" means
	// $CREDENTIALS_DIRECTORY.
	CredentialsDir string
}

// Open opens the store below a state directory, which must exist, and makes the
// store and its key file where they are not there yet. What an interrupted Put
// wrote is sealed when all of it is there, and removed otherwise.
func Open(stateDir string, o Options) (*Store, error) {
	s := &Store{dir: filepath.Join(stateDir, sealedDir), busy: map[string]bool{}}
	s.idle = sync.NewCond(&s.mu)
	if err := os.Mkdir(s.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make directory of sealed files: %w", err)
	}
	// An earlier umask, or a hand that copied it, must not leave it open.
	if err := os.Chmod(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("close directory of sealed files to others: %w", err)
	}
	names, err := s.entries()
	if err != nil {
		return nil, err
	}
	if s.keys, err = openKeys(stateDir, o, slices.ContainsFunc(names, validName)); err != nil {
		return nil, err
	}
	for _, n := range names {
		if name, interrupted := strings.CutPrefix(n, tempPrefix); interrupted {
			if err := s.settle(name); err != nil {
				return nil, fmt.Errorf("settle what an interrupted write left: %w", err)
			}
		}
	}
	return s, nil
}

// settle ends an interrupted Put. A process that is killed while its disk syncs
// has written all: the secret may be one that Consul gave, and nobody else knows.
func (s *Store) settle(name string) error {
	temp, kept := filepath.Join(s.dir, tempPrefix+name), filepath.Join(s.dir, name)
	if _, err := os.Lstat(kept); errors.Is(err, fs.ErrNotExist) && validName(name) {
		raw, err := readBounded(temp, maxFile)
		if err == nil {
			_, err = decode(s.keys, name, raw)
		}
		if err == nil {
			return errors.Join(place(s.dir, name), syncFile(s.dir))
		}
	}
	return os.Remove(temp)
}

// hold waits for other writes of a name; they sync, so those of other names are
// not waited for.
func (s *Store) hold(name string) (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.busy[name] {
		s.idle.Wait()
	}
	s.busy[name] = true
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.busy, name)
		s.idle.Broadcast()
	}
}

// Put seals a secret under a name and returns when it is on the disk. It
// replaces what had the name, or changes nothing.
func (s *Store) Put(name string, secret []byte) error {
	if !validName(name) {
		return fmt.Errorf("seal %q: %w", name, ErrName)
	}
	if len(secret) > MaxSecret {
		return fmt.Errorf("seal %s: %d bytes are more than %d", name, len(secret), MaxSecret)
	}
	defer s.hold(name)()
	if err := writeSynced(s.dir, name, encode(s.keys[0], name, secret)); err != nil {
		return fmt.Errorf("seal %s: %w", name, err)
	}
	return nil
}

// Get unseals what has a name. It is fs.ErrNotExist for none, ErrDamaged and
// ErrOtherKey for what cannot be unsealed.
func (s *Store) Get(name string) ([]byte, error) {
	if !validName(name) {
		return nil, fmt.Errorf("unseal %q: %w", name, ErrName)
	}
	raw, err := readBounded(filepath.Join(s.dir, name), maxFile)
	if err != nil {
		return nil, fmt.Errorf("unseal %s: %w", name, err)
	}
	secret, err := decode(s.keys, name, raw)
	if err != nil {
		return nil, fmt.Errorf("unseal %s: %w", name, err)
	}
	return secret, nil
}

// Delete removes what has a name, and returns when that is on the disk. Nothing
// there is success.
func (s *Store) Delete(name string) error {
	if !validName(name) {
		return fmt.Errorf("delete sealed %q: %w", name, ErrName)
	}
	defer s.hold(name)()
	err := os.Remove(filepath.Join(s.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = syncFile(s.dir)
	}
	if err != nil {
		return fmt.Errorf("delete sealed %s: %w", name, err)
	}
	return nil
}

// List names what is sealed, sorted.
func (s *Store) List() ([]string, error) {
	names, err := s.entries()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(names, func(n string) bool { return !validName(n) }), nil
}

func (s *Store) entries() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list sealed files: %w", err)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// validName keeps names to what is a file's own name everywhere.
func validName(name string) bool {
	if name == "" || len(name) > 200 || name[0] == '.' {
		return false
	}
	return !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-_.~", r)
	})
}

// key is one key with what tells it from others.
type key struct {
	id   [keyIDSize]byte
	aead cipher.AEAD
}

// tempPrefix begins the names of files that are being written.
const tempPrefix = ".new-"

// writeSynced writes a file beside and renames it, each step synced, so that a
// power cut leaves the old file or the new one.
func writeSynced(dir, name string, data []byte) error {
	temp := filepath.Join(dir, tempPrefix+name)
	// O_EXCL: what an earlier failure left is not written into.
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = place(dir, name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return syncFile(dir)
}

// place gives what was written beside its name, when all of it is on the disk.
func place(dir, name string) error {
	temp := filepath.Join(dir, tempPrefix+name)
	if err := syncFile(temp); err != nil {
		return err
	}
	return os.Rename(temp, filepath.Join(dir, name))
}

// syncFile has a file, or what a directory lists, on the disk.
func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
