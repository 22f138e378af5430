package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/state/journal"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// today is when every script runs.
var today = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestMain(m *testing.M) {
	testscript.Main(testenv.Checked(m), map[string]func(){
		"lictor": func() {
			ctx, settle := interruptible()
			env := scriptEnvironment()
			env.become = func(p program) error { return become(settle, p) }
			os.Exit(run(ctx, env, os.Args[1:]))
		},
	})
}

// scriptEnvironment is the world of a script: its clock stands still, its
// kernel is the file $PROBE, $UNLOAD says how unloading ends, and its user is root
// unless $NOT_ROOT is set.
func scriptEnvironment() environment {
	return environment{
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv,
		now: func() time.Time { return today }, zone: time.UTC,
		asRoot: os.Getenv("NOT_ROOT") == "",
		probe: func() (found []kernel.Feature) {
			text, err := os.ReadFile(os.Getenv("PROBE"))
			if err != nil {
				return nil
			}
			if err := json.Unmarshal(text, &found); err != nil {
				panic(err)
			}
			return found
		},
		unload: func(bpffs string) error {
			switch os.Getenv("UNLOAD") {
			case "locked":
				return fmt.Errorf("unload %s: %w", bpffs, kernel.ErrLocked)
			case "foreign":
				return fmt.Errorf("unload %s: map x: %w", bpffs, kernel.ErrForeign)
			}
			return nil
		},
	}
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
		Setup:               serveScript,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status":  exitStatus,
			"journal": makeJournal,
			"mode":    fileMode,
			"damage":  damageFile,
			"await":   awaitLine,
		},
	})
}

// serveScript is a fake lictord for each script: it answers METHOD /v1/x/y with
// the file api/METHOD_v1_x_y, as an error when that is a problem document, and
// notes what it was asked in the file requests. An answer that is also there as
// ….held does not end.
func serveScript(env *testscript.Env) error {
	dir, err := os.MkdirTemp("", "lictor-cli-")
	if err != nil {
		return err
	}
	env.Defer(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	env.Setenv("SOCKET", socket)
	env.Setenv("LICTOR_SOCKET", socket)
	env.Setenv("LICTOR_STATE_DIR", filepath.Join(env.WorkDir, "state"))
	env.Setenv("PROBE", filepath.Join(env.WorkDir, "probe.json"))
	env.Setenv("UID", strconv.Itoa(os.Getuid()))
	if _, err := os.Stat(filepath.Join(env.WorkDir, "api")); errors.Is(err, fs.ErrNotExist) {
		return nil // a script without a daemon
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	requests, err := os.Create(filepath.Join(env.WorkDir, "requests"))
	if err != nil {
		return err
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintln(requests, strings.TrimSpace(fmt.Sprintf("%s %s %s", r.Method, r.URL.RequestURI(), body)))
		name := r.Method + strings.ReplaceAll(r.URL.Path, "/", "_")
		answer, err := os.ReadFile(filepath.Join(env.WorkDir, "api", name))
		if err != nil {
			answer = []byte(`{"type":"` + v1.ProblemNotFound + `","status":404,"detail":"the script has no ` + name + `"}`)
		}
		var problem v1.Problem
		if json.Unmarshal(answer, &problem) == nil && strings.HasPrefix(problem.Type, "urn:") {
			w.WriteHeader(problem.Status)
		}
		_, _ = w.Write(answer)
		if _, err := os.Stat(filepath.Join(env.WorkDir, "api", name+".held")); err == nil {
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	env.Defer(func() { server.Close(); <-done; requests.Close() })
	return nil
}

// exitStatus is "status N PROGRAM ARGS...": it runs the program, whose status
// must be N.
func exitStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N PROGRAM ARGS...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	var exit interface{ ExitCode() int }
	if errors.As(err, &exit) {
		got = fmt.Sprint(exit.ExitCode())
	}
	if got != args[0] {
		ts.Fatalf("exit status %s (%v), want %s", got, err, args[0])
	}
}

// makeJournal is "journal DIR [open]": it writes a journal of a few events, and
// with open keeps it open as lictord does.
func makeJournal(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	at := today.Add(-time.Hour)
	j, _, err := journal.Open(context.Background(), dir, journal.Options{Now: func() time.Time {
		at = at.Add(time.Minute)
		return at
	}})
	ts.Check(err)
	for _, body := range []state.Body{
		state.ServerSeen{Server: state.ServerSpec{ID: "consul-1", Slot: 1, Addr4: netip.MustParseAddr("10.0.0.1"), Port: 8502, Version: "1.20.1"}},
		state.ProxyRegistered{Proxy: state.Registration{
			ID: "web-1", Node: "web-pod", Owner: state.Owner{Kind: state.OwnerAny}, Index: 1, VIP: netip.MustParseAddr("239.77.0.1"),
		}},
		state.Placed{ID: "web-1", Ranked: []string{"consul-1"}, Reason: state.PlaceInitial},
		state.ServerDrained{ID: "consul-1", By: "uid 0"},
	} {
		_, err := j.Append(body)
		ts.Check(err)
	}
	if len(args) > 1 {
		ts.Defer(func() { j.Close() })
		return
	}
	ts.Check(j.Close())
}

// fileMode is "mode MODE FILE": it checks a file's permissions.
func fileMode(ts *testscript.TestScript, _ bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[0] {
		ts.Fatalf("%s has mode %s, want %s", args[1], got, args[0])
	}
}

// damageFile is "damage FILE TEXT": it flips a bit of each place where the text
// stands in the file.
func damageFile(ts *testscript.TestScript, _ bool, args []string) {
	path := ts.MkAbs(args[0])
	content, err := os.ReadFile(path)
	ts.Check(err)
	bad := []byte(args[1])
	bad[0] ^= 1
	changed := strings.ReplaceAll(string(content), args[1], string(bad))
	if changed == string(content) {
		ts.Fatalf("%q is not in %s", args[1], path)
	}
	ts.Check(os.WriteFile(path, []byte(changed), 0o600))
}

// awaitLine is "await FILE TEXT [N [AFTER]]": it waits until the text stands in
// the file, N times, after the last AFTER.
func awaitLine(ts *testscript.TestScript, _ bool, args []string) {
	times := 1
	if len(args) > 2 {
		var err error
		times, err = strconv.Atoi(args[2])
		ts.Check(err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		content, _ := os.ReadFile(ts.MkAbs(args[0]))
		since := 0
		if len(args) > 3 {
			since = strings.LastIndex(string(content), args[3])
		}
		if since >= 0 && strings.Count(string(content[since:]), args[1]) >= times {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%q does not come to stand in %s: %q", args[1], args[0], content)
		}
	}
}
