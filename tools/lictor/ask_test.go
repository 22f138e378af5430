package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

// notice is stderr, and calls when a text has been written.
type notice struct {
	bytes.Buffer
	text string
	call func()
}

func (n *notice) Write(b []byte) (int, error) {
	defer func() {
		if strings.Contains(n.String(), n.text) {
			n.call()
		}
	}()
	return n.Buffer.Write(b)
}

// Whatever a command asks, it tells of the time when that takes longer than a
// second. This lictord takes what is written, and never says anything.
func TestWhoWaitsTellsOfIt(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			<-r.Context().Done()
		}
		fmt.Fprint(w, "{}")
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close(); <-done })
	var all sync.WaitGroup
	defer all.Wait()
	for _, line := range []string{
		"status", "proxies", "servers", "fleet", "events", "events -f", "events --connections", "history web-1",
		"bootstrap web-1", "bootstrap web-1 --wait", "exec web-1 --envoy /bin/true", "drain consul-1", "drain consul-1 --fleet",
		"undrain consul-1", "doctor",
	} {
		all.Go(func() { // beside each other, however few cores there are
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			said := &notice{text: "waiting for lictord: ", call: cancel}
			run(ctx, environment{
				stdout: io.Discard, stderr: said, now: time.Now, zone: time.UTC, probe: scriptEnvironment().probe,
				getenv: func(string) string { return "" },
			}, append([]string{"--socket", socket}, strings.Fields(line)...))
			if !strings.Contains(said.String(), said.text) {
				t.Errorf("%s says %q", line, said.String())
			}
		})
	}
}

// What may be over when asked again, and what will not be.
func TestPassing(t *testing.T) {
	absent := func(err error) error { return &v1.ConnectError{Err: err} }
	problem := func(kind v1.ProblemType) error { return &v1.ProblemError{Problem: v1.Problem{Type: kind}} }
	for name, tc := range map[string]struct {
		err  error
		want bool
	}{
		"not started":       {absent(syscall.ENOENT), true},
		"not listening":     {absent(syscall.ECONNREFUSED), true},
		"not permitted":     {absent(&net.OpError{Err: os.NewSyscallError("connect", syscall.EACCES)}), false},
		"forbidden":         {absent(syscall.EPERM), false},
		"ended":             {fmt.Errorf("ask: %w", io.EOF), true},
		"no answer in time": {fmt.Errorf("ask: %w", context.DeadlineExceeded), true},
		"not yet":           {problem(v1.ProblemNotYet), true},
		"refused":           {problem(v1.ProblemForbidden), false},
		"another's":         {problem(v1.ProblemConflict), false},
		"interrupted":       {context.Canceled, false},
	} {
		if got := passing(tc.err); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
