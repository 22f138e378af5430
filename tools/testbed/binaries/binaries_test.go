package binaries

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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
	write(t, filepath.Join(root, "tools/deps/gizmo/pin"), "gizmo v1.20.1")
	t.Setenv("TESTBED_ROOT", root)
	t.Setenv("GIZMO", "")
	t.Setenv("PATH", t.TempDir())
	return tool{
		name: "gizmo", env: "GIZMO", ask: "version", deps: "gizmo/pin", pin: regexp.MustCompile(`v\S+`),
		does: "making a gizmo", takes: "no time",
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
	write(t, filepath.Join(root, "tools/deps/gizmo/pin"), "gizmo v1.20.2")
	get(t, gizmo)
	if n := made.Load(); n != 2 {
		t.Errorf("made %d times after the pinned version changed, want twice", n)
	}
	if err := os.Remove(filepath.Join(root, ".cache/bin/.gizmo.lock")); err != nil {
		t.Fatal(err)
	}
	get(t, gizmo) // as a user who may only read
	if _, err := os.Stat(filepath.Join(root, ".cache/bin/.gizmo.lock")); !os.IsNotExist(err) {
		t.Errorf("what is there was locked: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(root, ".cache/bin/.gizmo-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("scratch left behind: %v, %v", left, err)
	}
}

func TestTheEnvironmentComesFirst(t *testing.T) {
	gizmo, _, made := repository(t)
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

func TestOneOnPathIsUsedUnlessItIsTooOld(t *testing.T) {
	for _, test := range []struct {
		name, program string
		why           string // it is not used; "": it is
	}{
		{"the pinned one", "echo Gizmo v1.20.1", ""},
		{"an older patch", "echo gizmo version: f387231/1.20.0/Clean", ""},
		{"a later one", "echo Gizmo v1.21.4", ""},
		{"a later major", "echo Gizmo v2.0.0", ""},
		{"an older one", "echo Gizmo v1.9.3", "gizmo 1.9, older than 1.20"},
		{"an older major", "echo Gizmo v0.99.0", "gizmo 0.99, older than 1.20"},
		{"something else", "echo hello", `no version is in "hello\n"`},
		{"something broken", "exit 3", "exit status 3"},
	} {
		t.Run(test.name, func(t *testing.T) {
			gizmo, _, made := repository(t)
			there := filepath.Join(os.Getenv("PATH"), "gizmo")
			write(t, there, "#!/bin/sh\n[ \"$1\" = version ] || exit 9\n"+test.program+"\n")
			var progress bytes.Buffer
			got, err := find(t.Context(), &progress, gizmo)
			if err != nil {
				t.Fatal(err)
			}
			if used := got == there; used != (test.why == "") || made.Load() == 0 != used {
				t.Errorf("found %s, made %d times", got, made.Load())
			}
			if said := progress.String(); !strings.Contains(said, test.why) || test.why != "" && !strings.Contains(said, "name one in GIZMO") {
				t.Errorf("progress = %q, want %q and what to do", said, test.why)
			}
		})
	}
}

// What tools/deps pins is found there, or nothing could be judged by it.
func TestPinnedVersionsAreRead(t *testing.T) {
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	for _, tool := range []tool{consul, envoy} {
		text, err := os.ReadFile(filepath.Join(root, "tools/deps", tool.deps))
		if err != nil {
			t.Fatal(err)
		}
		if v, err := parseVersion(tool.pin.Find(text)); err != nil || v.before(version{1, 20}) {
			t.Errorf("%s is pinned at %v, %v", tool.name, v, err)
		}
	}
}

func TestAFailedMakeLeavesNothingAndSaysWhatToDo(t *testing.T) {
	gizmo, root, _ := repository(t)
	broken := errors.New("no parts")
	gizmo.make = func(_ context.Context, j job) error {
		_, err := io.WriteString(j.log, "looking for parts\nthe shelf is empty\n\n")
		return errors.Join(broken, err)
	}
	var progress bytes.Buffer
	_, err := find(t.Context(), &progress, gizmo)
	if !errors.Is(err, broken) {
		t.Errorf("find = %v, want %v", err, broken)
	}
	for _, want := range []string{": the shelf is empty (log in ", "gizmo.log", "put gizmo 1.20 or later on PATH, or name one in GIZMO"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("find = %v, want %q in it", err, want)
		}
	}
	if _, err := os.Stat(filepath.Join(root, ".cache/bin/gizmo")); !os.IsNotExist(err) {
		t.Errorf("a binary is there: %v", err)
	}
	if !strings.Contains(progress.String(), "usually no time") {
		t.Errorf("progress = %q, want how long it takes", progress.String())
	}
}

func TestAnInterruptedMakeSaysSoAndAKilledOneIsSwept(t *testing.T) {
	gizmo, root, made := repository(t)
	half := filepath.Join(root, ".cache/bin/.gizmo-123/half")
	write(t, half, "of a gizmo")
	works := gizmo.make
	ctx, cancel := context.WithCancel(t.Context())
	gizmo.make = func(ctx context.Context, _ job) error {
		cancel()
		cmd := exec.CommandContext(ctx, "/bin/sleep", "60")
		return run(cmd, io.Discard)
	}
	if _, err := find(ctx, nil, gizmo); !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "GIZMO") {
		t.Errorf("find = %v, want that it was interrupted", err)
	}
	if _, err := os.Stat(half); !os.IsNotExist(err) {
		t.Errorf("what a killed one left is there still: %v", err)
	}
	gizmo.make = works
	if get(t, gizmo); made.Load() != 1 {
		t.Errorf("made %d times after the interruption, want once", made.Load())
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
