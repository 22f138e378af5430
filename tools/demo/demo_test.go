package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// output is what a demo prints, with a watcher.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
	seen func(text string) // called after each write
}

func (o *output) Write(text []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text.Write(text)
	if o.seen != nil {
		o.seen(o.text.String())
	}
	return len(text), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// headless runs the demo without a terminal.
func headless(ctx context.Context, t *testing.T, out *output) int {
	t.Helper()
	testenv.Privileged(t)
	testenv.NoLeaks(t)
	ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
	defer cancel()
	return run(ctx, environment{
		stdout: out,
		getenv: func(string) string { return "" },
		size:   func() (int, int) { return 0, 0 },
	})
}

func TestEverythingHoldsInPlainLines(t *testing.T) {
	var out output
	if status := headless(t.Context(), t, &out); status != 0 {
		t.Errorf("exit status %d", status)
	}
	text := out.String()
	t.Log(text)
	_, summary, _ := strings.Cut(text, "\n\n")
	for _, s := range (&demo{}).script() {
		if !strings.Contains(summary, "✓ "+s.title) {
			t.Errorf("the summary does not say that it held: %s", s.title)
		}
	}
	for _, want := range []string{"17 of 17 checks held.", "requests went through the mesh, 0 failed", "kill -9 lictord", "is no longer in the catalog"} {
		if !strings.Contains(text, want) {
			t.Errorf("the output lacks %q", want)
		}
	}
	if strings.ContainsAny(text, "\x1b\r") {
		t.Error("there are control sequences in plain lines")
	}
	for line := range strings.Lines(text) { // of a terminal, all but the last column
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > viewWidth {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

func TestALictordThatDoesNotStartFailsTheDemo(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "lictord")
	if err := os.WriteFile(broken, []byte("#!/bin/sh\necho no luck; exit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("LICTORD", broken)
	var out output
	if status := headless(t.Context(), t, &out); status != 1 {
		t.Errorf("exit status %d, want 1", status)
	}
	for _, want := range []string{"✗ lictord is ready", "no luck", "1 of 17 checks held, 1 failed, 15 were not tried."} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output lacks %q:\n%s", want, out.String())
		}
	}
}

func TestAnInterruptedDemoTakesEverythingAway(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out output
	out.seen = func(text string) {
		if strings.Contains(text, "is connected to") { // Envoys are starting
			cancel()
		}
	}
	if status := headless(ctx, t, &out); status != 1 {
		t.Errorf("exit status %d, want 1", status)
	}
	if text := out.String(); !strings.Contains(text, "demo: interrupted") || strings.Contains(text, "✗") {
		t.Errorf("it was interrupted, and nothing failed, but it says:\n%s", text)
	}
}

func TestFarewell(t *testing.T) {
	failed, busy := errors.New("no luck"), errors.New("cgroup is busy")
	for _, test := range []struct {
		name        string
		interrupted bool
		err, left   error
		want        string // in it; "": nothing is said
	}{
		{"all held", false, nil, nil, ""},
		{"failed", false, failed, nil, "demo: no luck"},
		{"interrupted", true, context.Canceled, nil, "interrupted; everything is taken away"},
		{"Ctrl-C after KEEP=1", true, nil, nil, "interrupted; everything is taken away"},
		{"interrupted, and something is left", true, context.Canceled, busy, "cgroup is busy; what is left goes by: go run ./tools/testbed down"},
	} {
		got := farewell(test.interrupted, test.err, test.left)
		if !strings.Contains(got, test.want) || test.want == "" && got != "" || test.left != nil && strings.Contains(got, "everything is taken") {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}
