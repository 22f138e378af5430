package catalog

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestDNS(t *testing.T) {
	f := newFake(t, node("a", "10.0.0.1", 8502))
	ap := netip.MustParseAddrPort(f.addr())
	var mu sync.Mutex
	answer, asked := []netip.Addr(nil), 0
	cfg := Config{
		Addresses: "consul.example", HTTPPort: ap.Port(), TLS: TLS{Disabled: true}, Dial: dialLoopback,
		Lookup: func(_ context.Context, host string) ([]netip.Addr, error) {
			mu.Lock()
			defer mu.Unlock()
			if asked++; host != "consul.example" {
				return nil, fmt.Errorf("asked for %s", host)
			}
			return answer, nil
		},
	}
	c := start(t, cfg)
	eventually(t, c, "unresolved", func(s Status) bool { return strings.Contains(s.Problem, "consul.example") })
	mu.Lock()
	answer = []netip.Addr{netip.MustParseAddr("127.0.0.2")} // where nobody listens
	mu.Unlock()
	eventually(t, c, "refused", func(s Status) bool { return strings.Contains(s.Problem, "127.0.0.2") })
	mu.Lock()
	answer = []netip.Addr{ap.Addr()} // resolved again on failure, long before the minute
	mu.Unlock()
	want(t, c, "a")
}

func TestExec(t *testing.T) {
	f := newFake(t, node("a", "10.0.0.1", 8502))
	dir := t.TempDir()
	script := filepath.Join(dir, "servers")
	writeFile(t, script, "#!/bin/sh\necho no permission >&2\nexit 3\n")
	if err := os.Chmod(script, 0o755); err != nil {
		t.Fatal(err)
	}
	c := start(t, Config{Addresses: "exec=" + script + " --all", TLS: TLS{Disabled: true}, Dial: dialLoopback})
	eventually(t, c, "fails", func(s Status) bool { return strings.Contains(s.Problem, "no permission") })
	writeFile(t, script, "#!/bin/sh\n")
	eventually(t, c, "prints nothing", func(s Status) bool { return strings.Contains(s.Problem, "prints no addresses") })
	writeFile(t, script, "#!/bin/sh\n[ \"$1\" = --all ] && echo "+f.addr()+"\n")
	want(t, c, "a")
}

// What a command does that is not what it is to do: it is said, within a bound of
// time and memory, and no process is left of it.
func TestExecMisbehaves(t *testing.T) {
	dir := t.TempDir()
	const short, long = 2 * time.Second, time.Minute
	for name, tt := range map[string]struct {
		limit        time.Duration
		script, want string
	}{
		"does not end":        {short, "sleep 61 &\nwait", "has not ended after 2s"},
		"never stops talking": {short, "exec yes 10.0.0.1", "has not ended after 2s"},
		"talks too much":      {long, "yes 10.0.0.1 | head -c 100000", "prints more than 64 kB"},
		"complains at length": {long, "yes no | head -c 100000 >&2; exit 1", "fails (exit status 1) and says no:"},
		"is killed":           {long, "kill -9 $$", "fails (signal: killed) and says nothing"},
		"prints prose":        {long, "echo http://10.0.0.1:8500/", "without a scheme or a path"},
		"leaves somebody":     {long, "echo 10.0.0.1; sleep 62 &", "WaitDelay"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			script := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
			writeFile(t, script, "#!/bin/sh\necho $$ >"+script+".pid\n"+tt.script+"\n")
			hosts, err := runCommand(t.Context(), []string{"/bin/sh", script}, tt.limit)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(SentenceOf(err), "/bin/sh") {
				t.Errorf("%v, %v, want %q", hosts, err, tt.want)
			}
			pid, err := os.ReadFile(script + ".pid")
			if err != nil {
				t.Fatal(err)
			}
			group, err := strconv.Atoi(strings.TrimSpace(string(pid)))
			if err != nil {
				t.Fatal(err)
			}
			for end := time.Now().Add(5 * time.Second); syscall.Kill(-group, 0) == nil; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("a process of it is left")
				}
			}
		})
	}
}

// A command that hangs does not keep the daemon from stopping.
func TestExecHangs(t *testing.T) {
	c, err := New(Config{Addresses: "exec=/bin/sleep 60", TLS: TLS{Disabled: true}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := c.Run(ctx); err != nil || time.Since(began) > 2*time.Second {
		t.Errorf("Run ended with %v after %v", err, time.Since(began))
	}
}

func TestWatchDisabled(t *testing.T) {
	var mu sync.Mutex
	// The others are no servers': a resolver that blocks a name may say 0.0.0.0.
	answer, fail := []netip.Addr{
		netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fe80::1%lo"),
	}, error(nil)
	c := start(t, Config{
		Addresses: "lb.example,[fd00::9]:9000", WatchDisabled: true, TLS: TLS{Disabled: true},
		Lookup: func(context.Context, string) ([]netip.Addr, error) {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(answer), fail
		},
		Dial: func(context.Context, string, string) (net.Conn, error) {
			t.Error("asked a server")
			return nil, net.ErrClosed
		},
	}, func(tm *timing) { tm.resolve = 50 * time.Millisecond })
	got := want(t, c, "10.1.0.1:8502", "[fd00::1]:8502", "[fd00::9]:9000")
	if got[0].Addr4 != netip.MustParseAddr("10.1.0.1") || got[1].Addr6 != netip.MustParseAddr("fd00::1") || got[2].Port != 9000 {
		t.Errorf("servers %+v", got)
	}
	if all, err := c.serversToAsk(); err != nil || fmt.Sprint(slices.Sorted(slices.Values(all))) != "[10.1.0.1:8502 [fd00::1]:8502 [fd00::9]:9000]" {
		t.Errorf("for logins %v are asked: %v", all, err)
	}
	mu.Lock()
	answer, fail = nil, &net.DNSError{Err: "no such host", Name: "lb.example"}
	mu.Unlock()
	eventually(t, c, "unresolved", func(s Status) bool { return s.Errors > 1 && strings.Contains(s.Problem, "lb.example") })
	none(t, c)
	mu.Lock()
	answer, fail = []netip.Addr{netip.MustParseAddr("10.1.0.2")}, nil
	mu.Unlock()
	want(t, c, "10.1.0.2:8502", "[fd00::9]:9000")
	if s := c.Status(); s.Problem != "" || s.Server == "" {
		t.Errorf("status %+v", s)
	}
}

func TestParseAddresses(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.1":                       "{[{10.0.0.1 0}] []}",
		" a.example, 10.0.0.1:8501 ,::1": "{[{a.example 0} {10.0.0.1 8501} {::1 0}] []}",
		"[::1]:80,[fd00::1]":             "{[{::1 80} {fd00::1 0}] []}",
		"exec=/bin/find --servers x":     "{[] [/bin/find --servers x]}",
	} {
		if got, err := parseAddresses(in); err != nil || fmt.Sprint(got) != want {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", " , ", "exec=", "https://consul:8501", "a:0", "a:b", ":80", "a:1:2", "a:70000",
		"0.0.0.0", "[::]:80", "::ffff:0.0.0.0", "239.77.0.5", "fe80::1%eth0", "[fe80::1%eth0]:8500"} {
		if got, err := parseAddresses(in); err == nil {
			t.Errorf("%q: taken as %v", in, got)
		}
	}
}
