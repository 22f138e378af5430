package v1

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// serve answers on a unix socket until the test's end.
func serve(t *testing.T, handler http.HandlerFunc) *Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	c := NewClient(socket)
	t.Cleanup(func() { c.Close(); server.Close(); <-done })
	return c
}

func TestNoDaemon(t *testing.T) {
	dir := t.TempDir()
	absent := filepath.Join(dir, "absent.sock")
	dead := filepath.Join(dir, "dead.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for socket, want := range map[string]string{
		absent: "connect to lictord at " + absent + ": no such file or directory; is lictord running?",
		dead:   "connect to lictord at " + dead + ": connection refused; is lictord running?",
	} {
		_, err := NewClient(socket).Status(t.Context())
		var connect *ConnectError
		if !errors.As(err, &connect) || connect.Socket != socket {
			t.Errorf("error = %v (%T), want a ConnectError", err, err)
		}
		if !strings.HasPrefix(err.Error(), want) || !strings.Contains(err.Error(), "--socket") {
			t.Errorf("error = %q, want %q", err, want)
		}
	}
	if _, err := NewClient(absent).Servers(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error = %v, want the cause inside", err)
	}
	denied := (&ConnectError{Socket: "s", Err: fs.ErrPermission}).Error()
	if !strings.Contains(denied, "permission") {
		t.Errorf("error = %q", denied)
	}
}

func TestAnswersThatAreNoDocuments(t *testing.T) {
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"text": {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "nope", 502) }, "502"},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://example.invalid/", http.StatusFound)
		}, "302"},
		"no JSON":  {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }, "decode lictord's answer"},
		"hangs up": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "GET /v1/status"},
		"a document": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(409)
			fmt.Fprint(w, `{"type":"urn:x","detail":"taken"}`)
		}, "taken"},
	} {
		if _, err := serve(t, tc.answer).Status(t.Context()); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error = %v, want %q", name, err, tc.want)
		}
	}
}

func TestADaemonThatStandsStill(t *testing.T) {
	release := make(chan struct{})
	c := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := c.Status(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("error = %v", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, stop)
	if _, err := c.Status(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want the caller's own cancellation", err)
	}
}

func TestAStreamThatIsCut(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, `{"seq":1}`)
		fmt.Fprint(w, `{"seq":`)
	})
	var seen int
	err := c.Journal(t.Context(), 0, false, func(JournalEvent) error { seen++; return nil })
	if seen != 1 || err == nil || !strings.Contains(err.Error(), "cut") {
		t.Errorf("%d events, error %v", seen, err)
	}
}

func TestIdsArriveAsTheyAre(t *testing.T) {
	const id = `a b?c#d%2fe:[f]&é`
	var paths []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		paths = append(paths, r.Method+" "+r.URL.Path)
		fmt.Fprint(w, "{}")
	})
	ctx := t.Context()
	_, err1 := c.Proxy(ctx, id)
	_, err2 := c.History(ctx, id)
	if err := errors.Join(err1, err2, c.Drain(ctx, id), c.Deregister(ctx, id)); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"GET /v1/proxies/" + id, "GET /v1/proxies/" + id + "/history",
		"POST /v1/servers/" + id + "/drain", "DELETE /v1/proxies/" + id,
	}
	if strings.Join(paths, "|") != strings.Join(want, "|") {
		t.Errorf("paths = %q, want %q", paths, want)
	}
}

// A lictord that ends before it answers is no mystery of sockets.
func TestDaemonEndsBeforeItAnswers(t *testing.T) {
	c := serve(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	_, err := c.Servers(t.Context())
	if err == nil || !strings.Contains(err.Error(), "ended before it answered") || !strings.Contains(err.Error(), "see its log") {
		t.Errorf("error = %v, want what happened and what to do", err)
	}
}
