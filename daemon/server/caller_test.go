package server

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/tools/testbed/sandbox"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// do sends a request over a connection and gives the status and the body.
func do(t *testing.T, conn *http.Client, method, path, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, "http://lictord"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	answer, err := conn.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

func TestTheCallersNamespaceIsItsOwn(t *testing.T) {
	testenv.Privileged(t)
	backend := newFake()
	s := start(t, backend)
	for i, ns := range []*sandbox.Netns{testenv.Netns(t), testenv.Netns(t)} {
		var conn net.Conn
		var inode uint64
		err := ns.Do(func() (err error) {
			var stat syscall.Stat_t
			if err := syscall.Stat("/proc/thread-self/ns/net", &stat); err != nil {
				return err
			}
			inode = stat.Ino
			conn, err = net.Dial("unix", s.socket)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if code, text := do(t, over(conn), "PUT", fmt.Sprintf("/v1/proxies/p%d", i), "{}"); code != 200 {
			t.Fatalf("register: %d %s", code, text)
		}
		cookie, err := ns.Cookie()
		if err != nil {
			t.Fatal(err)
		}
		got := backend.callers[i]
		if got.NetnsCookie != cookie || got.NetnsInode != inode || got.UID != 0 || int(got.PID) != os.Getpid() {
			t.Errorf("caller = %+v, want cookie %d, inode %d, uid 0, pid %d", got, cookie, inode, os.Getpid())
		}
	}
}

func TestWhatOthersThanRootMayDo(t *testing.T) {
	testenv.Privileged(t)
	backend := newFake()
	s := start(t, backend)
	// Another namespace's proxy, and one of anybody.
	backend.proxies["theirs"] = v1.Proxy{ProxyID: "theirs", Owner: v1.Owner{Kind: "netns", ID: 1 << 60, Resolved: true}}
	backend.proxies["any"] = v1.Proxy{ProxyID: "any", Owner: v1.Owner{Kind: "any", Resolved: true}}
	user := over(s.dialAs(65534))
	for _, tc := range []struct {
		method, path, body string
		status             int
	}{
		{"PUT", "/v1/proxies/mine", "{}", 200},
		{"PUT", "/v1/proxies/mine", "", 200},
		{"PUT", "/v1/proxies/theirs", "{}", 409},
		{"PUT", "/v1/proxies/x", `{"netns":"/proc/1/ns/net"}`, 403},
		{"PUT", "/v1/proxies/x", `{"cgroup":"/sys/fs/cgroup"}`, 403},
		{"PUT", "/v1/proxies/x", `{"owner":"any"}`, 403},
		{"GET", "/v1/proxies/mine", "", 200},
		{"GET", "/v1/proxies/mine/history", "", 200},
		{"GET", "/v1/proxies/mine/bootstrap", "", 200},
		{"GET", "/v1/proxies/theirs", "", 403},
		{"GET", "/v1/proxies/theirs/history", "", 403},
		{"GET", "/v1/proxies/theirs/bootstrap", "", 403},
		{"GET", "/v1/proxies/any", "", 403},
		{"GET", "/v1/proxies/absent", "", 404},
		{"DELETE", "/v1/proxies/theirs", "", 403},
		{"DELETE", "/v1/proxies/any", "", 403},
		{"DELETE", "/v1/proxies/absent", "", 204},
		{"GET", "/v1/servers", "", 200},
		{"GET", "/v1/status", "", 200},
		{"POST", "/v1/servers/s1/drain", "", 403},
		{"POST", "/v1/servers/s1/undrain", "", 403},
		{"POST", "/v1/servers/s1/drain?fleet=true", "", 403},
		{"GET", "/v1/fleet", "", 403},
		{"GET", "/v1/state?at=1", "", 403},
		{"GET", "/v1/journal", "", 403},
		{"GET", "/v1/connections?follow=true", "", 403},
	} {
		if code, text := do(t, user, tc.method, tc.path, tc.body); code != tc.status {
			t.Errorf("%s %s %s = %d %s, want %d", tc.method, tc.path, tc.body, code, text, tc.status)
		}
	}
	if _, text := do(t, user, "GET", "/v1/proxies", ""); !strings.Contains(text, `"mine"`) || strings.Contains(text, "theirs") {
		t.Errorf("list = %s, want one's own only", text)
	}
	if code, text := do(t, user, "DELETE", "/v1/proxies/mine", ""); code != 204 {
		t.Errorf("DELETE of one's own = %d %s", code, text)
	}
	if len(backend.proxies) != 2 || len(backend.drained) != 0 {
		t.Errorf("what is not theirs was changed: %v %v", backend.proxies, backend.drained)
	}
}

func TestAnUnresolvedOwnerIsNobody(t *testing.T) {
	// A cookie means nothing after a reboot, although it may be equal.
	c := Caller{UID: 1000, NetnsCookie: 7}
	if c.MayUse("web", v1.Owner{Kind: "netns", ID: 7}) == nil {
		t.Error("an owner of before the reboot was taken for the caller")
	}
	if (Caller{UID: 1000}).MayUse("web", v1.Owner{Kind: "netns", Resolved: true}) == nil {
		t.Error("a cookie of 0 was taken for a namespace")
	}
}
