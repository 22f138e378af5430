package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

func TestSocket(t *testing.T) {
	for _, tc := range []struct {
		name    string
		prepare func(t *testing.T, path string)
		want    string // in the error; "" means it listens
	}{
		{"nothing there", func(*testing.T, string) {}, ""},
		{"a directory that is missing", func(t *testing.T, path string) {
			if err := os.Remove(filepath.Dir(path)); err != nil {
				t.Fatal(err)
			}
		}, ""},
		{"a dead daemon's", func(t *testing.T, path string) {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
			if err != nil {
				t.Fatal(err)
			}
			l.SetUnlinkOnClose(false)
			l.Close()
		}, ""},
		{"a live one's", func(t *testing.T, path string) {
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
		}, "another lictord listens there"},
		{"a file", func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "not a socket"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(socketDir(t), "d", "lictor.sock")
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			tc.prepare(t, path)
			before, _ := os.Lstat(path)
			ctx, cancel := context.WithCancel(t.Context())
			s := New(Config{Backend: newFake(), Socket: path})
			err := s.Listen()
			if tc.want != "" {
				cancel()
				if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("Listen() = %v, want %q", err, tc.want)
				}
				if after, _ := os.Lstat(path); !os.SameFile(before, after) {
					t.Error("what was there has been replaced")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			info, err := os.Stat(path)
			if err != nil || info.Mode().Perm() != 0o666 {
				t.Errorf("socket = %v, %v, want mode 0666", info.Mode(), err)
			}
			second := New(Config{Backend: newFake(), Socket: path})
			if err := second.Listen(); !errors.Is(err, ErrInUse) {
				t.Errorf("a second Listen() = %v, want ErrInUse", err)
			}
			cancel()
			if err := s.Run(ctx); err != nil {
				t.Errorf("Run() = %v", err)
			}
			if _, err := os.Stat(path); !os.IsNotExist(err) {
				t.Errorf("the socket is still there: %v", err)
			}
		})
	}
}

func TestASocketPathThatIsTooLongIsSaidSo(t *testing.T) {
	err := New(Config{Backend: newFake(), Socket: "/tmp/" + strings.Repeat("x", 120)}).Listen()
	if err == nil || !strings.Contains(err.Error(), "107") {
		t.Errorf("Listen() = %v", err)
	}
}

func TestAnAddressInUseLeavesNoSocket(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	path := filepath.Join(socketDir(t), "lictor.sock")
	s := New(Config{Backend: newFake(), Socket: path, HTTPAddr: taken.Addr().String()})
	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "--http-addr") || !strings.Contains(err.Error(), "ss -ltnp") {
		t.Errorf("Run() = %v, want what to do", err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// A daemon that listens and then cannot start leaves nothing in another's way.
func TestListenersThatNeverRunAreClosed(t *testing.T) {
	socket := filepath.Join(socketDir(t), "lictor.sock")
	cfg := Config{Backend: newFake(), Socket: socket, HTTPAddr: "127.0.0.1:0"}
	for range 2 {
		s := New(cfg)
		if err := errors.Join(s.Close(), s.Listen()); err != nil {
			t.Fatal(err)
		}
		cfg.HTTPAddr = s.HTTPAddr().String() // for the second
		if err := errors.Join(s.Close(), s.Close()); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(socket); !os.IsNotExist(err) {
			t.Errorf("the socket is still there: %v", err)
		}
	}
}

func TestHalfOpenClientsLoseTheirConnection(t *testing.T) {
	s := start(t, newFake(), func(s *Server) {
		s.timing = timing{
			header: 100 * time.Millisecond, read: 300 * time.Millisecond, answer: time.Second,
			idle: 100 * time.Millisecond, line: time.Second, shutdown: time.Second,
		}
	})
	for name, sent := range map[string]string{
		"nothing":       "",
		"half a header": "GET /v1/status HT",
		"half a body":   "PUT /v1/proxies/a HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
		"idle":          "GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n",
		"body of a GET": "GET /v1/status HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			conn := s.dial()
			if _, err := io.WriteString(conn, sent); err != nil {
				t.Fatal(err)
			}
			_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
			if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the connection is still open after 5 s")
			}
		})
	}
	if _, err := s.client().Status(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestAThousandConnectionsAtOnce(t *testing.T) {
	testenv.Privileged(t) // the kernel tells the caller's network namespace to CAP_NET_ADMIN alone
	s := start(t, newFake())
	var wg sync.WaitGroup
	failures := make(chan error, 1000)
	for i := range 1000 {
		wg.Go(func() {
			c := v1.NewClient(s.socket)
			defer c.Close()
			if _, err := c.Register(t.Context(), fmt.Sprintf("p-%d", i), v1.RegisterRequest{}); err != nil {
				failures <- err
			}
		})
	}
	wg.Wait()
	close(failures)
	for err := range failures {
		t.Error(err)
	}
}

func TestIdleConnectionsPastTheLimitOnlyWait(t *testing.T) {
	asRoot(t) // others than root are turned away before all places are taken
	s := start(t, newFake(), func(s *Server) {
		s.limits.total = 8
		s.timing.header = 200 * time.Millisecond
	})
	for range 30 {
		s.dial()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := s.client().Status(ctx); err != nil {
		t.Errorf("a call behind 30 silent connections: %v", err)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	asRoot(t) // others than root are turned away before all places are taken
	s := start(t, newFake(), func(s *Server) { s.limits.total = 4 })
	var open []net.Conn
	for range 4 {
		open = append(open, s.dial())
	}
	waiting := s.dial()
	if _, err := io.WriteString(waiting, "GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	_ = waiting.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if _, err := waiting.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the fifth of four connections was answered: %v", err)
	}
	open[0].Close()
	_ = waiting.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := waiting.Read(make([]byte, 1)); err != nil {
		t.Errorf("a place was free, and no answer came: %v", err)
	}
}

func TestOneNamespaceCannotTakeAllConnections(t *testing.T) {
	s := start(t, newFake(), func(s *Server) { s.limits.perNetns = 2 })
	first, second, third := s.dialAs(65534), s.dialAs(65534), s.dialAs(65534)
	s.dialAs(65534) // the last that is even answered
	fifth := s.dialAs(65534)
	_ = fifth.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := fifth.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the fifth connection of two allowed is open: %v", err)
	}
	if code, text := do(t, over(third), "GET", "/v1/status", ""); code != http.StatusTooManyRequests || !strings.Contains(text, v1.ProblemTooMany) {
		t.Errorf("third connection of two allowed: %d %s", code, text)
	}
	if code, text := do(t, over(first), "GET", "/v1/status", ""); code != 200 {
		t.Errorf("first connection: %d %s", code, text)
	}
	if _, err := s.client().Status(t.Context()); err != nil {
		t.Errorf("root: %v", err)
	}
	first.Close()
	second.Close()
	// Their places are free again as soon as the server has seen the end.
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		conn := s.dialAs(65534)
		code, text := do(t, over(conn), "GET", "/v1/status", "")
		conn.Close()
		if code == 200 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("after the others closed: %d %s", code, text)
		}
	}
}

func TestAPlaceIsLeftForRoot(t *testing.T) {
	s := start(t, newFake(), func(s *Server) { s.limits.total = 8 })
	held := make([]net.Conn, 6)
	for i := range held {
		held[i] = s.dialAs(65534)
	}
	if code, text := do(t, over(held[5]), "GET", "/v1/status", ""); code != 200 {
		t.Errorf("the last of six: %d %s", code, text)
	}
	seventh := s.dialAs(65534)
	_ = seventh.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := seventh.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the seventh connection of others than root is open: %v", err)
	}
	if _, err := s.client().Status(t.Context()); err != nil {
		t.Errorf("root: %v", err)
	}
	for _, conn := range held {
		conn.Close()
	}
	for end := time.Now().Add(5 * time.Second); s.api.count() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d are counted that are closed", s.api.count())
		}
	}
}

// count is how many connections of others than root are open.
func (l *apiListener) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.others
}

func TestABackendThatDoesNotAnswerInTime(t *testing.T) {
	backend := newFake()
	backend.block = make(chan struct{})
	s := start(t, backend, func(s *Server) { s.timing.answer = 50 * time.Millisecond })
	_, err := s.client().Status(t.Context())
	if p := problem(t, err); p.Type != v1.ProblemTimeout || p.Status != 504 || !strings.Contains(p.Detail, "repeat") {
		t.Errorf("problem = %+v", p)
	}
}

func TestAnAnswerMayTakeLongerThanARequest(t *testing.T) {
	backend := newFake()
	backend.block = make(chan struct{})
	s := start(t, backend, func(s *Server) { s.timing.read = 50 * time.Millisecond })
	time.AfterFunc(300*time.Millisecond, func() { close(backend.block) })
	if _, err := s.client().Status(t.Context()); err != nil {
		t.Errorf("Status() = %v", err)
	}
}

func TestAnswersUnderWayAreFinishedAtTheStop(t *testing.T) {
	backend := newFake()
	backend.block = make(chan struct{})
	s := start(t, backend)
	answered := make(chan error, 1)
	go func() { _, err := s.client().Status(t.Context()); answered <- err }()
	time.Sleep(50 * time.Millisecond)
	time.AfterFunc(100*time.Millisecond, func() { close(backend.block) })
	if err := s.stop(); err != nil {
		t.Errorf("Run() = %v", err)
	}
	if err := await(t, answered); err != nil {
		t.Errorf("the call under way got %v", err)
	}
	_, err := v1.NewClient(s.socket).Status(t.Context())
	var absent *v1.ConnectError
	if !errors.As(err, &absent) || !strings.Contains(err.Error(), "is lictord running?") {
		t.Errorf("after the stop: %v", err)
	}
}
