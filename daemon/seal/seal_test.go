package seal

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func open(t *testing.T, dir string, o Options) *Store {
	t.Helper()
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t *testing.T, s *Store, name, secret string) {
	t.Helper()
	if err := s.Put(name, []byte(secret)); err != nil {
		t.Fatal(err)
	}
}

func wantSecret(t *testing.T, s *Store, name, secret string) {
	t.Helper()
	got, err := s.Get(name)
	if err != nil || string(got) != secret {
		t.Errorf("%s: %q, %v; want %q", name, got, err, secret)
	}
}

func TestKept(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	put(t, s, "static-web", "first")
	put(t, s, "static-web", "second")
	put(t, s, "login-1", "")
	wantSecret(t, s, "static-web", "second")

	again := open(t, dir, Options{})
	wantSecret(t, again, "static-web", "second")
	wantSecret(t, again, "login-1", "")
	if names, err := again.List(); err != nil || !slices.Equal(names, []string{"login-1", "static-web"}) {
		t.Errorf("names %q, %v", names, err)
	}
	for range 2 {
		if err := again.Delete("static-web"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := again.Get("static-web"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after delete: %v", err)
	}
}

// Nobody else may read anything, and nothing is in the clear.
func TestOnDisk(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	const secret = "11111111-2222-3333-4444-555555555555"
	put(t, s, "static-web", secret)
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if want := map[bool]fs.FileMode{true: 0o700, false: 0o600}[e.IsDir()]; info.Mode().Perm() != want {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		if e.IsDir() {
			return nil
		}
		raw, err := os.ReadFile(path)
		if bytes.Contains(raw, []byte(secret)) {
			t.Errorf("%s has the secret in the clear", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A stolen copy of the sealed files gives nothing without the rest.
func TestOtherKeys(t *testing.T) {
	dir := t.TempDir()
	put(t, open(t, dir, Options{MachineID: "one"}), "a", "secret")
	wantSecret(t, open(t, dir, Options{MachineID: "one"}), "a", "secret")
	if _, err := open(t, dir, Options{MachineID: "two"}).Get("a"); !errors.Is(err, ErrOtherKey) {
		t.Errorf("on another machine: %v", err)
	}

	if err := os.Remove(filepath.Join(dir, keyFile)); err != nil {
		t.Fatal(err)
	}
	_, err := Open(dir, Options{MachineID: "one"})
	if !errors.Is(err, ErrKeyFile) || !strings.Contains(err.Error(), "restore it") {
		t.Errorf("without its key file: %v", err)
	}
}

// systemd's credential seals from the start at which it is there; what the key
// file sealed is still read.
func TestCredential(t *testing.T) {
	dir, creds := t.TempDir(), t.TempDir()
	put(t, open(t, dir, Options{}), "old", "by file")
	if err := os.WriteFile(filepath.Join(creds, CredentialName), bytes.Repeat([]byte("k"), 32), 0o400); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", creds)
	s := open(t, dir, Options{})
	put(t, s, "new", "by credential")
	wantSecret(t, s, "old", "by file")
	wantSecret(t, s, "new", "by credential")

	fresh := t.TempDir() // no key file is made where it is not used
	put(t, open(t, fresh, Options{}), "a", "b")
	if _, err := os.Stat(filepath.Join(fresh, keyFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("key file beside a credential: %v", err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	if _, err := open(t, dir, Options{}).Get("new"); !errors.Is(err, ErrOtherKey) {
		t.Errorf("without the credential: %v", err)
	}
	if err := os.WriteFile(filepath.Join(creds, "short"), nil, 0o400); err != nil {
		t.Fatal(err)
	}
	short := t.TempDir()
	if err := os.WriteFile(filepath.Join(short, CredentialName), []byte("short"), 0o400); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{CredentialsDir: short}); !errors.Is(err, ErrKeyFile) {
		t.Errorf("short credential: %v", err)
	}
}

func TestBadKeyFile(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"short":         func(p string) error { return os.WriteFile(p, []byte("abc"), 0o600) },
		"long":          func(p string) error { return os.WriteFile(p, make([]byte, 33), 0o600) },
		"open to all":   func(p string) error { return os.Chmod(p, 0o644) },
		"symbolic link": func(p string) error { return errors.Join(os.Rename(p, p+"2"), os.Symlink(p+"2", p)) },
	} {
		dir := t.TempDir()
		put(t, open(t, dir, Options{}), "a", "secret")
		if err := spoil(filepath.Join(dir, keyFile)); err != nil {
			t.Fatal(err)
		}
		before, _ := os.ReadFile(filepath.Join(dir, keyFile))
		if _, err := Open(dir, Options{}); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if after, _ := os.ReadFile(filepath.Join(dir, keyFile)); !bytes.Equal(before, after) {
			t.Errorf("%s: the key file was written", name)
		}
	}
}

// Every single damaged byte is found, and so is a file under another's name.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	put(t, s, "a", "secret")
	path := filepath.Join(dir, sealedDir, "a")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, raw []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, sealedDir, name), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x20
		write("a", bad)
		if _, err := s.Get("a"); !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrOtherKey) {
			t.Errorf("byte %d changed: %v", i, err)
		}
		write("a", good[:i])
		if _, err := s.Get("a"); !errors.Is(err, ErrDamaged) {
			t.Errorf("cut at %d: %v", i, err)
		}
	}
	write("b", good)
	if _, err := s.Get("b"); !errors.Is(err, ErrDamaged) {
		t.Errorf("under another's name: %v", err)
	}
	if err := errors.Join(os.Remove(path), os.Symlink(filepath.Join(dir, sealedDir, "b"), path)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get("a"); err == nil {
		t.Error("followed a symbolic link")
	}
}

func TestNames(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	for _, bad := range []string{"", ".", "..", "a/b", "../seal.key", ".new-a", "a\x00", "é", strings.Repeat("a", 201)} {
		_, get := s.Get(bad)
		for what, err := range map[string]error{"put": s.Put(bad, nil), "get": get, "delete": s.Delete(bad)} {
			if !errors.Is(err, ErrName) {
				t.Errorf("%s %q: %v", what, bad, err)
			}
		}
	}
	if err := s.Put("a", make([]byte, MaxSecret+1)); err == nil {
		t.Error("took more than it can read")
	}
}

// What a crash left half written is not taken for a secret, and goes.
func TestInterrupted(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	put(t, s, "a", "secret")
	half := filepath.Join(dir, sealedDir, tempPrefix+"a")
	if err := os.WriteFile(half, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	put(t, s, "a", "again")
	if err := os.WriteFile(half, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, Options{})
	wantSecret(t, s, "a", "again")
	if _, err := os.Stat(half); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("left over: %v", err)
	}
}

// What was wholly written when the process was killed is kept, unless something
// is: what it was to replace.
func TestKilledWhileSyncing(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	put(t, s, "old", "secret")
	for name, content := range map[string][]byte{
		"new":    encode(s.keys[0], "new", []byte("secret of new")),
		"old":    encode(s.keys[0], "old", []byte("never promised")),
		"other":  encode(s.keys[0], "new", []byte("of another name")),
		"half":   encode(s.keys[0], "half", []byte("secret"))[:40],
		".dotty": encode(s.keys[0], ".dotty", []byte("no name")),
	} {
		if err := os.WriteFile(filepath.Join(dir, sealedDir, tempPrefix+name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s = open(t, dir, Options{})
	wantSecret(t, s, "new", "secret of new")
	wantSecret(t, s, "old", "secret")
	if entries, err := s.entries(); err != nil || !slices.Equal(entries, []string{"new", "old"}) {
		t.Errorf("left: %q, %v", entries, err)
	}
}

// Writes of one name wait for each other, and those of another do not.
func TestWritesBesideEachOther(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	release := s.hold("a")
	put(t, s, "b", "not waited for")
	done := make(chan error, 1)
	go func() { done <- s.Put("a", []byte("waits")) }()
	select {
	case err := <-done:
		t.Fatalf("a was written while it was held: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	release()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	wantSecret(t, s, "a", "waits")
}

// A disk that takes nothing leaves what was there.
func TestWriteFails(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	put(t, s, "a", "secret")
	if err := os.Mkdir(filepath.Join(dir, sealedDir, tempPrefix+"a"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, sealedDir, tempPrefix+"a", "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Put("a", []byte("new")); err == nil {
		t.Error("no error")
	}
	wantSecret(t, s, "a", "secret")
}

// Whatever a file holds, Get ends with a named error or what was sealed.
func FuzzDecode(f *testing.F) {
	k, err := derive(bytes.Repeat([]byte{7}, keySize), "machine")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(encode(k, "a", []byte("secret")))
	f.Add([]byte(magic))
	f.Add(append([]byte(magic), k.id[:]...))
	f.Fuzz(func(t *testing.T, raw []byte) {
		secret, err := decode([]key{k}, "a", raw)
		if err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrOtherKey) {
			t.Errorf("error without a name: %v", err)
		}
		if err == nil && len(raw) != headSize+len(secret)+tagSize {
			t.Errorf("unsealed %d bytes out of %d", len(secret), len(raw))
		}
	})
}
