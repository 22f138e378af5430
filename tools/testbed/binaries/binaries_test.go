package binaries

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// repository makes a repository with a pinned version of the tool "gizmo", and
// the tool, which counts how often it is made.
func repository(t *testing.T) (gizmo tool, root string, made *atomic.Int32) {
	t.Helper()
	root, made = t.TempDir(), new(atomic.Int32)
	write(t, filepath.Join(root, "tools/deps/gizmo/pin"), "v1")
	t.Setenv("TESTBED_ROOT", root)
	t.Setenv("GIZMO", "")
	t.Setenv("PATH", t.TempDir())
	return tool{
		name: "gizmo", env: "GIZMO", deps: "gizmo/pin", does: "making a gizmo", takes: "no time",
		make: func(_ context.Context, j job) error {
			made.Add(1)
			return os.WriteFile(j.out, []byte("#!/bin/true"), 0o600)
		},
	}, root, made
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, gizmo tool) string {
	t.Helper()
	path, err := find(t.Context(), nil, gizmo)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAToolIsMadeOncePerPinnedVersion(t *testing.T) {
	gizmo, root, made := repository(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { _, _ = find(t.Context(), nil, gizmo) })
	}
	wg.Wait()
	path := get(t, gizmo)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o111 == 0 {
		t.Errorf("%s: %v, %v, want a program", path, info, err)
	}
	if n := made.Load(); n != 1 {
		t.Errorf("made %d times by concurrent callers, want once", n)
	}
	write(t, filepath.Join(root, "tools/deps/gizmo/pin"), "v2")
	get(t, gizmo)
	if n := made.Load(); n != 2 {
		t.Errorf("made %d times after the pinned version changed, want twice", n)
	}
	left, err := filepath.Glob(filepath.Join(root, ".cache/bin/.gizmo-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("scratch left behind: %v, %v", left, err)
	}
}

func TestPathAndEnvironmentComeFirst(t *testing.T) {
	gizmo, _, made := repository(t)
	onPath := filepath.Join(os.Getenv("PATH"), "gizmo")
	write(t, onPath, "")
	if got := get(t, gizmo); got != onPath {
		t.Errorf("found %s, want the one on PATH, %s", got, onPath)
	}
	named := filepath.Join(t.TempDir(), "mine")
	write(t, named, "")
	t.Setenv("GIZMO", named)
	if got := get(t, gizmo); got != named {
		t.Errorf("found %s, want the one named in GIZMO, %s", got, named)
	}
	t.Setenv("GIZMO", named+"-not")
	if _, err := find(t.Context(), nil, gizmo); err == nil || !strings.Contains(err.Error(), "GIZMO=") {
		t.Errorf("a wrong GIZMO: %v, want an error that names it", err)
	}
	if n := made.Load(); n != 0 {
		t.Errorf("made %d times, want never", n)
	}
}

func TestAFailedMakeLeavesNothingAndNamesItsLog(t *testing.T) {
	gizmo, root, _ := repository(t)
	broken := errors.New("no parts")
	gizmo.make = func(context.Context, job) error { return broken }
	var progress bytes.Buffer
	if _, err := find(t.Context(), &progress, gizmo); !errors.Is(err, broken) || !strings.Contains(err.Error(), "gizmo.log") {
		t.Errorf("find = %v, want %v with the log's path", err, broken)
	}
	if _, err := os.Stat(filepath.Join(root, ".cache/bin/gizmo")); !os.IsNotExist(err) {
		t.Errorf("a binary is there: %v", err)
	}
	if !strings.Contains(progress.String(), "usually no time") {
		t.Errorf("progress = %q, want how long it takes", progress.String())
	}
}

func TestADataplaneIsGivenOrMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv("DATAPLANE", "")
	if path, err := Dataplane(); !errors.Is(err, ErrNoDataplane) {
		t.Errorf("found %q, %v, want %v", path, err, ErrNoDataplane)
	}
	onPath := filepath.Join(os.Getenv("PATH"), "consul-dataplane")
	write(t, onPath, "")
	if path, err := Dataplane(); path != onPath || err != nil {
		t.Errorf("found %q, %v, want the one on PATH, %s", path, err, onPath)
	}
	t.Setenv("DATAPLANE", onPath+"-not")
	if path, err := Dataplane(); err == nil || errors.Is(err, ErrNoDataplane) {
		t.Errorf("found %q, %v, want an error that names the wrong DATAPLANE", path, err)
	}
}
