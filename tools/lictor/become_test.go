package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A SIGTERM that comes while lictor becomes Envoy either ends lictor or is
// pending for Envoy afterwards. It is never lost: nobody would end that Envoy
// before SIGKILL.
func TestNoSignalIsLost(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	asked := make(chan struct{}, 1)
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "{}")
		if r.Method == http.MethodGet {
			asked <- struct{}{}
		}
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close(); <-done })
	// Not sh, which unblocks signals.
	envoy := filepath.Join(dir, "envoy")
	if err := os.WriteFile(envoy, []byte("#!/bin/bash\nexec sleep 60\n"), 0o755); err != nil {
		t.Fatal(err)
	}

	var ended, pending int
	for range 60 {
		c := exec.Command("lictor", "--socket", socket, "exec", "web-1", "--envoy", envoy, "--shutdown-grace-period-seconds=1")
		c.Env = append(os.Environ(), "TMPDIR="+dir)
		var said bytes.Buffer
		c.Stderr = &said
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		<-asked // what follows takes about a millisecond
		time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond)
		if err := c.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		over := make(chan struct{})
		go func() { defer close(over); _ = c.Wait() }()
		switch state := settled(c.Process.Pid, over); state {
		case "ended":
			ended++
		case "pending":
			pending++
		default:
			t.Errorf("after SIGTERM it is %s", state)
		}
		_ = c.Process.Kill()
		<-over
		if said.Len() > 0 && !strings.Contains(said.String(), "interrupted") {
			t.Errorf("it said %s", &said)
		}
	}
	t.Logf("%d ended, %d pending", ended, pending)
}

// settled is what became of a process that was sent SIGTERM.
func settled(pid int, over <-chan struct{}) (state string) {
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		select {
		case <-over:
			return "ended"
		default:
		}
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		name, rest, _ := strings.Cut(string(text), "\n")
		name = strings.TrimPrefix(name, "Name:\t")
		if name != "sleep" {
			state = "still " + name
			continue
		}
		_, mask, _ := strings.Cut(rest, "\nShdPnd:\t")
		if len(mask) >= 16 && mask[:16] == "0000000000004000" {
			return "pending"
		}
		state = "lost, it is sleep with " + mask[:16]
	}
	return state
}
