package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFindEnvoy(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	if _, err := findEnvoy(""); err == nil || !strings.Contains(err.Error(), "no envoy on PATH") {
		t.Error(err)
	}
	path := filepath.Join(dir, "envoy")
	if err := os.WriteFile(path, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, given := range []string{"", "envoy", path} {
		if got, err := findEnvoy(given); got != path || err != nil {
			t.Errorf("%q: %s, %v", given, got, err)
		}
	}
}

// A directory in the place of the bootstrap's that somebody else may write to is
// not used: what is in it would be somebody else's Envoy.
func TestBootstrapPath(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	path, err := bootstrapPath("", "web-1")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(path)
	if again, err := bootstrapPath("", "web-1"); again != path || err != nil {
		t.Errorf("again: %s, %v", again, err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := bootstrapPath("", "web-1"); err == nil {
		t.Error("a directory for everybody was used")
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(tmp, dir); err != nil {
		t.Fatal(err)
	}
	if _, err := bootstrapPath("", "web-1"); err == nil {
		t.Error("a symbolic link was followed")
	}
	if path, err := bootstrapPath("/run/x", "web-1"); path != "/run/x/bootstrap.json" || err != nil {
		t.Error(path, err)
	}
}
