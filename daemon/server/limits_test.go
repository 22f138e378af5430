package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

// A header is bounded: what no caller of ours sends is refused, and not kept.
func TestAHugeHeaderIsRefused(t *testing.T) {
	s := start(t, newFake())
	conn := s.dial()
	if _, err := fmt.Fprintf(conn, "GET /v1/status HTTP/1.1\r\nHost: x\r\nX: %s\r\n\r\n", strings.Repeat("x", 2*maxHeader)); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusRequestHeaderFieldsTooLarge || !answer.Close {
		t.Errorf("answer %s, the connection ends: %t", answer.Status, answer.Close)
	}
}

// Between two requests a connection may rest for longer than a request may take.
func TestAConnectionMayRest(t *testing.T) {
	s := start(t, newFake(), func(s *Server) { s.timing.read, s.timing.header = 50*time.Millisecond, 50*time.Millisecond })
	c := over(s.dial())
	for range 2 {
		if code, text := do(t, c, "GET", "/v1/status", ""); code != http.StatusOK {
			t.Errorf("%d %s", code, text)
		}
		time.Sleep(150 * time.Millisecond)
	}
}

// Who asks and does not read the answer loses the connection.
func TestAnAnswerThatNobodyReads(t *testing.T) {
	backend := newFake()
	for i := range 3_000 { // about a megabyte, more than a socket holds
		id := fmt.Sprint("proxy-", i)
		backend.proxies[id] = v1.Proxy{ProxyID: id, NodeName: strings.Repeat("n", 200)}
	}
	s := start(t, backend, func(s *Server) { s.timing.read, s.timing.answer = 100*time.Millisecond, 400*time.Millisecond })
	asRoot(t) // who may list them all
	conn := s.dial()
	if _, err := io.WriteString(conn, "GET /v1/proxies HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil { // it has begun
		t.Fatal(err)
	}
	s.allClosed()
}

// allClosed fails the test unless every connection to the API soon is.
func (r *running) allClosed() {
	r.t.Helper()
	const accepting = 1 // the place of the next one
	for end := time.Now().Add(5 * time.Second); len(r.api.slots) > accepting; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatal("a connection is still open after 5 s")
		}
	}
}

// A caller who gives up ends the work for it, and is no fault of the daemon.
func TestACallThatIsGivenUp(t *testing.T) {
	var log syncBuffer
	backend := newFake()
	backend.block = make(chan struct{})
	s := start(t, backend, func(s *Server) { s.log = slog.New(slog.NewTextHandler(&log, nil)) })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := s.client().Status(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Status() = %v", err)
	}
	s.allClosed()
	if text := log.String(); strings.Contains(text, "level=ERROR") {
		t.Errorf("logged: %s", text)
	}
}

// The pages have so many connections, and more wait.
func TestConnectionsToThePagesAreBounded(t *testing.T) {
	s := start(t, newFake())
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", s.HTTPAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if _, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	answered := func(conn net.Conn, within time.Duration) error {
		_ = conn.SetReadDeadline(time.Now().Add(within))
		_, err := conn.Read(make([]byte, 1))
		return err
	}
	open := make([]net.Conn, maxPageConns)
	for i := range open {
		open[i] = dial()
	}
	for i, conn := range open {
		if err := answered(conn, 5*time.Second); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	waiting := dial()
	if err := answered(waiting, 200*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("one more than %d was answered: %v", maxPageConns, err)
	}
	open[0].Close()
	if err := answered(waiting, 5*time.Second); err != nil {
		t.Errorf("a place was free, and no answer came: %v", err)
	}
}

// syncBuffer is a log that is read while it is written.
type syncBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
