package secrets

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

func base(t *testing.T) *Base {
	t.Helper()
	b, err := OpenBase(folder(t) + "/run/proxies")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func opened(t *testing.T, b *Base, id string, owner Identity) *Dir {
	t.Helper()
	d, err := b.Dir(id, owner)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// watched says whether something happened to a file since it was last asked.
func watched(t *testing.T, path string, what uint32) func() bool {
	t.Helper()
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(watch) })
	if _, err := unix.InotifyAddWatch(watch, path, what); err != nil {
		t.Fatal(err)
	}
	return func() bool {
		n, _ := unix.Read(watch, make([]byte, 4096)) // EAGAIN: nothing
		return n > 0
	}
}

// What Envoy watches: one whole file after the other, under one name.
func TestRenamed(t *testing.T) {
	testenv.Files(t)
	b := base(t)
	d := opened(t, b, "web", self())
	moved := watched(t, d.Path(), unix.IN_MOVED_TO)
	for _, step := range []struct {
		content string
		changed bool
	}{{"one", true}, {"one", false}, {"two", true}} {
		changed, err := d.Write("token.json", []byte(step.content))
		if err != nil || changed != step.changed || moved() != step.changed {
			t.Errorf("%s: changed %v, %v", step.content, changed, err)
		}
	}
	got, err := os.ReadFile(filepath.Join(d.Path(), "token.json"))
	if err != nil || string(got) != "two" {
		t.Errorf("%q, %v", got, err)
	}
	for _, bad := range []string{"", "a/b", "../a", ".hidden", "."} {
		if _, err := d.Write(bad, nil); err == nil {
			t.Errorf("wrote %q", bad)
		}
	}
}

// The owner of a directory can put there what it likes; the daemon writes
// nowhere else, and nothing it would not write there.
func TestTraps(t *testing.T) {
	testenv.Privileged(t)
	b := base(t)
	user := Identity{UID: nobody, GID: nobody}
	d := opened(t, b, "web", user)
	checkOwned(t, d.Path(), 0o700, nobody)
	victim := filepath.Join(folder(t), "victim")
	write(t, victim, "untouched", 0o666, 0, 0)
	token := filepath.Join(d.Path(), "token.json")
	for name, trap := range map[string]func() error{
		"symbolic link": func() error { return os.Symlink(victim, token) },
		"hard link":     func() error { return os.Link(victim, token) },
		"open to all":   func() error { return os.WriteFile(token, []byte("secret"), 0o666) },
		"pipe":          func() error { return unix.Mkfifo(token, 0o600) },
	} {
		if err := errors.Join(os.RemoveAll(token), trap()); err != nil {
			t.Fatal(err)
		}
		if name == "open to all" {
			_ = os.Chmod(token, 0o666)
		}
		if _, err := d.Write("token.json", []byte("secret")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got, err := os.ReadFile(victim); err != nil || string(got) != "untouched" {
			t.Errorf("%s: the file elsewhere has %q, %v", name, got, err)
		}
		checkOwned(t, token, 0o600, nobody)
		if got, err := os.ReadFile(token); err != nil || string(got) != "secret" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	// In the place of the file is a directory: an error, not a way in.
	if err := errors.Join(os.Remove(token), os.Mkdir(token, 0o700)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Write("token.json", []byte("secret")); err == nil {
		t.Error("no error where a directory is")
	}
	left, err := filepath.Glob(filepath.Join(d.Path(), tempPrefix+"*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left over: %q, %v", left, err)
	}
	// What the user links to from its directory is not what is removed.
	if err := os.Symlink(filepath.Dir(victim), filepath.Join(d.Path(), "out")); err != nil {
		t.Fatal(err)
	}
	if err := b.Remove("web"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(victim); err != nil {
		t.Errorf("removed through a link: %v", err)
	}
	if _, err := os.Stat(d.Path()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
	unchanged(t)
}

// Another user's process has the id now: it finds nothing of the former one's.
func TestHandedOver(t *testing.T) {
	testenv.Privileged(t)
	b := base(t)
	first := opened(t, b, "web", self())
	if _, err := first.Write("token.json", []byte("secret")); err != nil {
		t.Fatal(err)
	}
	second := opened(t, b, "web", Identity{UID: nobody, GID: nobody})
	checkOwned(t, second.Path(), 0o700, nobody)
	if _, err := os.Stat(filepath.Join(second.Path(), "token.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("inherited: %v", err)
	}
	if _, err := first.Write("token.json", []byte("secret")); err == nil {
		t.Error("the former directory is still written to")
	}
	again := opened(t, b, "web", Identity{UID: nobody, GID: nobody})
	if _, err := again.Write("ca.json", []byte("ca")); err != nil {
		t.Error(err)
	}
}

func TestSweep(t *testing.T) {
	testenv.Files(t)
	b := base(t)
	for _, id := range []string{"web", "api", "a b/c"} {
		if _, err := opened(t, b, id, self()).Write("token.json", []byte(id)); err != nil {
			t.Fatal(err)
		}
	}
	n, err := b.Sweep(map[string]bool{"web": true, "a b/c": true})
	if n != 1 || err != nil {
		t.Errorf("removed %d, %v", n, err)
	}
	for id, there := range map[string]bool{"web": true, "api": false, "a b/c": true} {
		if _, err := os.Stat(filepath.Join(b.Path(id), "token.json")); (err == nil) != there {
			t.Errorf("%s: %v", id, err)
		}
	}
	for range 2 {
		if err := b.Remove("web"); err != nil {
			t.Error(err)
		}
	}
}

func TestForget(t *testing.T) {
	testenv.Files(t)
	d := opened(t, base(t), "web", self())
	for _, name := range []string{"token.json", "ca.json"} {
		if _, err := d.Write(name, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(d.Path(), tempPrefix+"half"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Forget("token.json", "absent"); err != nil {
		t.Error(err)
	}
	left, err := os.ReadDir(d.Path())
	if err != nil || len(left) != 1 || left[0].Name() != "ca.json" {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestName(t *testing.T) {
	seen := map[string]string{}
	for _, id := range []string{"web-1-sidecar-proxy", "a.b_c", "", ".", "..", ".a", "a/b", "a b", "~x", "é", strings.Repeat("a", 101), "A", "a"} {
		name := Name(id)
		if name == "" || name[0] == '.' || strings.ContainsAny(name, "/ \x00") || len(name) > 100 {
			t.Errorf("Name(%q) = %q", id, name)
		}
		if other, ok := seen[name]; ok {
			t.Errorf("%q and %q are both %q", id, other, name)
		}
		seen[name] = id
	}
	if Name("web-1-sidecar-proxy") != "web-1-sidecar-proxy" {
		t.Error("a plain id is not its own name")
	}
	if got := Name(Name("a b")); got == Name("a b") {
		t.Errorf("an id can be taken for a digest: %s", got)
	}
}

func ExampleName() {
	fmt.Println(Name("web-1-sidecar-proxy"))
	// Output: web-1-sidecar-proxy
}
