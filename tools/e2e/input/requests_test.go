package input

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/tools/storm"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// site is a host with a lictord, one proxy of which belongs to a pod.
type site struct {
	*testing.T
	lictor *bed.Lictor
	api    *v1.Client
	host   *bed.Host
	pod    *bed.Pod // owns the proxy "mine"
	other  *bed.Pod
}

// newSite needs no Consul: lictord is given an address at which there is
// nobody, and an unlisted server cannot be in the way.
func newSite(t *testing.T) *site {
	t.Helper()
	testenv.Privileged(t)
	testenv.NoLeaks(t)
	b := bed.ForTest(t)
	s := &site{T: t}
	var err error
	s.host, err = b.NewHost("host-1")
	s.must(err)
	s.pod, err = s.host.NewPod("pod")
	s.must(err)
	s.other, err = s.host.NewPod("other")
	s.must(err)
	s.lictor, err = s.host.StartLictor(bed.LictorOptions{
		Binary: built(t, "lictord"),
		Args:   []string{"--consul-addresses=127.0.0.1", "--server-watch-disabled", "--consul-grpc-port=8502"},
	})
	s.must(err)
	s.must(s.lictor.WaitSocket(t.Context()))
	s.api = s.lictor.Client()
	t.Cleanup(s.api.Close)
	_, err = s.api.Register(t.Context(), "mine", v1.RegisterRequest{Netns: s.pod.Netns.Path})
	s.must(err)
	return s
}

func (s *site) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// unchanged fails the test when anything but reading was done since before.
func (s *site) unchanged(what string) func() {
	s.Helper()
	look := func() (uint64, string, int) {
		st, err := s.api.Status(s.Context())
		s.must(err)
		list, err := s.api.Proxies(s.Context())
		s.must(err)
		text, err := json.Marshal(list)
		s.must(err)
		entries, err := storm.ReadPins(filepath.Join(s.host.BPFFS, "lictor"))
		s.must(err)
		return st.Journal.Seq, string(text), len(entries)
	}
	// What lictord itself decided at its start is journaled within a second.
	time.Sleep(time.Second)
	seq, proxies, entries := look()
	return func() {
		s.Helper()
		s2, p2, e2 := look()
		if s2 != seq || p2 != proxies || e2 != entries {
			s.Errorf("%s: the journal went from event %d to %d, the map from %d to %d entries, the proxies from %s to %s",
				what, seq, s2, entries, e2, proxies, p2)
		}
	}
}

// refused sends a request and says what is wrong with the answer, if anything:
// it must be a problem document with one of the statuses, which says what to do.
func (s *site) refused(method, path, media, body string, statuses ...int) error {
	conn, err := net.Dial("unix", s.lictor.Socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(15 * time.Second))
	header := "Host: lictord\r\nConnection: close\r\n"
	if media != "" {
		header += "Content-Type: " + media + "\r\n"
	}
	if body != "" {
		header += fmt.Sprintf("Content-Length: %d\r\n", len(body))
	}
	go func() { _, _ = io.WriteString(conn, method+" "+path+" HTTP/1.1\r\n"+header+"\r\n"+body) }()
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return fmt.Errorf("no answer: %w", err)
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil {
		return err
	}
	var p v1.Problem
	for _, status := range statuses {
		if answer.StatusCode != status {
			continue
		}
		if err := json.Unmarshal(raw, &p); err != nil && status != http.StatusRequestHeaderFieldsTooLarge && status != http.StatusBadRequest {
			return fmt.Errorf("%s without a problem document: %.200s", answer.Status, raw)
		}
		if len(raw) > 4<<10 {
			return fmt.Errorf("%s with %d bytes of complaint", answer.Status, len(raw))
		}
		return nil
	}
	return fmt.Errorf("%s, want one of %v: %.200s", answer.Status, statuses, raw)
}

// What the server's own tests show call by call holds in the real daemon, from
// the socket to the journal and the kernel: nothing bad gets through.
func TestBadRequestsChangeNothing(t *testing.T) {
	s := newSite(t)
	check := s.unchanged("bad requests")
	const asJSON = "application/json"
	long := strings.Repeat("x", 10<<10)
	calls := map[string]error{}
	for _, id := range []string{"a%2fb", "%2e%2e", "a%5cb", "a%0ab", "a%00b", "%1b%5b31m", "%ff", "%20a", "a%e2%80%aeb", ".hidden", "-f", long, "adopted-x"} {
		calls["register "+id] = s.refused("PUT", "/v1/proxies/"+id, asJSON, `{"owner":"any"}`, 422)
		if id == "adopted-x" {
			continue
		}
		calls["deregister "+id] = s.refused("DELETE", "/v1/proxies/"+id, "", "", 422)
		calls["read "+id] = s.refused("GET", "/v1/proxies/"+id, "", "", 422)
		calls["history of "+id] = s.refused("GET", "/v1/proxies/"+id+"/history", "", "", 422)
		calls["bootstrap of "+id] = s.refused("GET", "/v1/proxies/"+id+"/bootstrap", "", "", 422)
		calls["drain "+id] = s.refused("POST", "/v1/servers/"+id+"/drain", "", "", 422)
		calls["undrain "+id] = s.refused("POST", "/v1/servers/"+id+"/undrain", "", "", 422)
	}
	for _, body := range []string{
		"x", "[]", "null", `"x"`, `{}{}`, `{"owner":`, `{"owner":7}`, `{"owner":null}`, `{"owner":"any","owner":"any"}`, `{"Owner":"any"}`,
		`{"vip":"239.77.0.9"}`, "{\"node_name\":\"\xff\"}", strings.Repeat(`{"a":`, 11000), "\x00", "\x1f\x8b\x08",
	} {
		calls["body "+body[:min(20, len(body))]] = s.refused("PUT", "/v1/proxies/new", asJSON, body, 400)
	}
	for _, body := range []string{
		`{"owner":"me"}`, `{"netns":"relative"}`, `{"netns":"/no/such/namespace"}`, `{"netns":"/etc/passwd"}`, `{"cgroup":"/tmp"}`,
		`{"cgroup":"/no/such/cgroup"}`, `{"owner":"any","netns":"/a"}`, `{"netns":"/a\u0000b"}`, `{"node_name":"a/b"}`, `{"node_name":"a\nb"}`,
		`{"namespace":"` + long + `"}`, `{"partition":".."}`,
	} {
		calls["body "+body[:min(40, len(body))]] = s.refused("PUT", "/v1/proxies/new", asJSON, body, 422)
	}
	maps.Copy(calls, map[string]error{
		"huge body":          s.refused("PUT", "/v1/proxies/new", asJSON, `{"node_name":"`+strings.Repeat("x", 1<<20)+`"}`, 413),
		"form":               s.refused("PUT", "/v1/proxies/new", "application/x-www-form-urlencoded", "owner=any", 415),
		"other identity":     s.refused("PUT", "/v1/proxies/mine", asJSON, `{"node_name":"another","owner":"any"}`, 409),
		"unknown server":     s.refused("POST", "/v1/servers/nobody/drain", "", "", 404),
		"unknown proxy":      s.refused("GET", "/v1/proxies/nobody", "", "", 404),
		"body of a DELETE":   s.refused("DELETE", "/v1/proxies/mine", asJSON, "{}", 400),
		"body of a drain":    s.refused("POST", "/v1/servers/nobody/drain", asJSON, `{"fleet":true}`, 400),
		"unknown path":       s.refused("GET", "/v1/nothing", "", "", 404),
		"dots":               s.refused("DELETE", "/v1/proxies/x/../mine", "", "", 404),
		"another method":     s.refused("POST", "/v1/proxies/mine", asJSON, "{}", 405),
		"since in words":     s.refused("GET", "/v1/journal?since=now", "", "", 400),
		"since out of range": s.refused("GET", "/v1/journal?since=99999999999999999999", "", "", 400),
		"unknown parameter":  s.refused("GET", "/v1/status?verbose=1", "", "", 400),
		"huge header":        s.refused("GET", "/v1/status?"+strings.Repeat("x", 64<<10), "", "", 400, 431),
		"no HTTP":            s.refused("\x16\x03\x01", "\x00", "", "", 400),
		"control characters": s.refused("GET", "/v1/sta\x01tus", "", "", 400),
	})
	for name, err := range calls {
		if err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	check()
}

// as runs the CLI as nobody in a pod, and returns its exit status and what it said.
func (s *site) as(pod *bed.Pod, uid uint32, args ...string) (status int, said string) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.openly("lictor"), append([]string{"--socket=" + s.lictor.Socket}, args...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	err := pod.Netns.Do(cmd.Start)
	s.must(err)
	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

// openly copies a binary to where every user may run it: the checkout may be in
// root's home.
func (s *site) openly(name string) string {
	s.Helper()
	dir, err := os.MkdirTemp("", "lictor-openly-")
	s.must(err)
	s.Cleanup(func() { s.must(os.RemoveAll(dir)) })
	s.must(os.Chmod(dir, 0o755))
	binary, err := os.ReadFile(built(s.T, name))
	s.must(err)
	path := filepath.Join(dir, name)
	s.must(os.WriteFile(path, binary, 0o755))
	return path
}

// A caller without the right changes and learns nothing, and is told why.
func TestCallersWithoutTheRightChangeNothing(t *testing.T) {
	s := newSite(t)
	check := s.unchanged("callers without the right")
	const nobody = 65534
	for _, tc := range []struct {
		says string
		args []string
	}{
		{"another owner", []string{"deregister", "mine"}},
		{"another owner", []string{"history", "mine"}},
		{"another owner", []string{"bootstrap", "mine"}},
		{"root", []string{"drain", "127.0.0.1"}},
		{"root", []string{"undrain", "127.0.0.1"}},
		{"root", []string{"register", "new", "--any"}},
		{"root", []string{"register", "new", "--netns", s.pod.Netns.Path}},
		{"root", []string{"register", "new", "--cgroup", s.pod.Cgroup}},
		{"registered", []string{"register", "mine"}},
		{"root", []string{"events", "--since=1"}},
	} {
		status, said := s.as(s.other, nobody, tc.args...)
		if status != 1 || !strings.Contains(said, tc.says) {
			t.Errorf("%q of nobody in another pod: exit status %d, said %q; want 1, with %q", tc.args, status, said, tc.says)
		}
	}
	if status, said := s.as(s.other, nobody, "proxies", "--json"); status != 0 || strings.Contains(said, "mine") {
		t.Errorf("proxies, seen by nobody in another pod: exit status %d, %q", status, said)
	}
	if status, said := s.as(s.pod, nobody, "proxies", "--json"); status != 0 || !strings.Contains(said, "mine") {
		t.Errorf("proxies, seen by nobody in the owner's pod: exit status %d, %q", status, said)
	}
	check()
	if status, said := s.as(s.pod, nobody, "deregister", "mine"); status != 0 {
		t.Errorf("deregister by nobody in the owner's pod: exit status %d, %q", status, said)
	}
}

// A thousand connections that say nothing, half of it, or a byte at a time, and
// go away in the middle: others are served meanwhile, and nothing stays.
func TestSlowAndHalfOpenClients(t *testing.T) {
	s := newSite(t)
	check := s.unchanged("slow and half-open clients")
	fds := func() int {
		list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.lictor.Process().PID()))
		s.must(err)
		return len(list)
	}
	before := fds()
	put := "PUT /v1/proxies/slow HTTP/1.1\r\nHost: lictord\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"owner\":"
	begins := []string{"", "P", "GET /v1/status HTTP/1.1\r\nHost:", put, put[:40]}
	var conns []net.Conn
	for i := range 1000 {
		conn, err := s.other.DialContext(t.Context(), "unix", s.lictor.Socket)
		if err != nil {
			// The backlog is full: that one waits outside, as it should.
			if errors.Is(err, syscall.EAGAIN) {
				continue
			}
			t.Fatal(err)
		}
		conns = append(conns, conn)
		_, _ = io.WriteString(conn, begins[i%len(begins)])
	}
	t.Logf("%d connections, %d descriptors of lictord", len(conns), fds())
	dribble := make(chan struct{})
	go func() {
		defer close(dribble)
		for range 40 {
			for _, conn := range conns[:min(100, len(conns))] {
				_, _ = conn.Write([]byte("x"))
			}
			time.Sleep(100 * time.Millisecond)
		}
	}()
	// They are root's, whom no limit for one namespace holds: they may take every
	// place there is, until their time is over, and no longer.
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	fresh := s.lictor.Client()
	if _, err := fresh.Proxy(ctx, "mine"); err != nil {
		t.Errorf("a call on a new connection meanwhile: %v", err)
	}
	fresh.Close()
	if _, err := s.api.Proxy(ctx, "mine"); err != nil {
		t.Errorf("a call on a connection that was there before: %v", err)
	}
	t.Logf("a call on a new connection meanwhile took %v", time.Since(began).Round(time.Millisecond))
	if out, err := s.lictor.Get(t.Context(), "/healthz"); err != nil {
		t.Errorf("healthz meanwhile: %v %s", err, out)
	}
	<-dribble
	for i, conn := range conns {
		if i%2 == 0 {
			_ = conn.(*net.UnixConn).CloseWrite()
		}
		_ = conn.Close()
	}
	for end := time.Now().Add(15 * time.Second); fds() > before+4; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("lictord has %d descriptors, and had %d before", fds(), before)
		}
	}
	check()
}
