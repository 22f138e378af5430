package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
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
	for _, line := range []string{
		"status", "proxies", "servers", "fleet", "events", "events -f", "events --connections", "history web-1",
		"bootstrap web-1", "bootstrap web-1 --wait", "exec web-1 --envoy /bin/true", "drain consul-1", "drain consul-1 --fleet",
		"undrain consul-1", "doctor",
	} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			said := &notice{text: "waiting for lictord: ", call: cancel}
			run(ctx, environment{
				stdout: io.Discard, stderr: said, now: time.Now, zone: time.UTC, probe: scriptEnvironment().probe,
				getenv: func(string) string { return "" },
			}, append([]string{"--socket", socket}, strings.Fields(line)...))
			if !strings.Contains(said.String(), said.text) {
				t.Errorf("it says %q", said.String())
			}
		})
	}
}
