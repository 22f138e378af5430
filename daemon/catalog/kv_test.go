package catalog

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/tools/testbed/lone"
)

// A real Consul's KV store and sessions: what is written is read and waited for,
// a session's end takes its keys along, what ACLs do not permit is told by name,
// and the index that proves an absence never goes back.
func TestRealKV(t *testing.T) {
	consul := lone.Launch(t, lenient)
	addr := consul.HTTP
	c := start(t, Config{Addresses: addr, HTTPPort: netip.MustParseAddrPort(addr).Port(), TLS: TLS{Disabled: true}, Dial: dialLoopback})
	want(t, c, lone.Node)
	ctx := t.Context()
	check := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	put := func(key, value string) {
		t.Helper()
		done, err := c.KVPut(ctx, key, []byte(value), false, "")
		check("put "+key, err)
		if !done {
			t.Fatalf("%s was not put", key)
		}
	}

	if u := c.URL(); u != "http://"+addr {
		t.Errorf("URL is %q", u)
	}
	list, err := c.KVList(ctx, "p/d/", 0)
	check("list nothing", err)
	if len(list.Pairs) != 0 || list.Filtered || list.Index < 1 {
		t.Errorf("nothing is %+v", list)
	}
	put("p/d/", "")
	done, err := c.KVPut(ctx, "p/d/", []byte("x"), true, "")
	check("put if absent", err)
	if done {
		t.Error("a key that is there was put for want of it")
	}

	// What waits under a prefix that has a key of its own is woken by what is
	// under it, and not by its neighbours.
	list, err = c.KVList(ctx, "p/d/", 0)
	check("list", err)
	got := make(chan KVList, 1)
	go func() {
		l, err := c.KVList(ctx, "p/d/", list.Index)
		if err != nil {
			t.Errorf("wait: %v", err)
		}
		got <- l
	}()
	for i := range 20 {
		put(fmt.Sprintf("p/h/%d", i), "report")
	}
	time.Sleep(50 * time.Millisecond)
	select {
	case l := <-got:
		t.Fatalf("woken by neighbours: %+v", l)
	default:
	}
	put("p/d/consul 2?", `{"by":"x"}`)
	select {
	case l := <-got:
		if len(l.Pairs) != 2 || l.Pairs[1].Key != "p/d/consul 2?" || string(l.Pairs[1].Value) != `{"by":"x"}` || l.Index <= list.Index {
			t.Errorf("waited for %+v", l)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("not woken")
	}

	// The index of an absence.
	pair, found, err := c.KVGet(ctx, "p/d/consul 2?")
	check("get", err)
	if !found || pair.ModifyIndex == 0 {
		t.Errorf("got %+v, %v", pair, found)
	}
	check("delete", c.KVDelete(ctx, "p/d/consul 2?"))
	check("delete again", c.KVDelete(ctx, "p/d/consul 2?"))
	gone, found, err := c.KVGet(ctx, "p/d/consul 2?")
	check("get what is gone", err)
	if found || gone.ModifyIndex <= pair.ModifyIndex {
		t.Errorf("gone is %+v, was %+v", gone, pair)
	}

	// Sessions.
	if _, err := c.CreateSession(ctx, "s", "none-such", time.Hour); err == nil {
		t.Error("a session on a node that is not there")
	}
	check("register", c.RegisterNode(ctx, "lictor-a", "127.0.0.1", map[string]string{"lictor-host": "a"}))
	session, err := c.CreateSession(ctx, "s", "lictor-a", time.Hour)
	check("create a session", err)
	other, err := c.CreateSession(ctx, "s", "lictor-a", time.Hour)
	check("create another", err)
	done, err = c.KVPut(ctx, "p/h/a", []byte("mine"), false, session)
	check("acquire", err)
	if !done {
		t.Error("not acquired")
	}
	if done, err = c.KVPut(ctx, "p/h/a", []byte("theirs"), false, other); done || err != nil {
		t.Errorf("what another holds was acquired: %v, %v", done, err)
	}
	check("renew", c.RenewSession(ctx, session))
	check("destroy", c.DestroySession(ctx, session))
	check("destroy again", c.DestroySession(ctx, session))
	if err := c.RenewSession(ctx, session); !errors.Is(err, ErrSession) {
		t.Errorf("renew what has ended: %v", err)
	}
	if _, err = c.KVPut(ctx, "p/h/a", []byte("mine"), false, session); !errors.Is(err, ErrSession) {
		t.Errorf("acquire with what has ended: %v", err)
	}
	if _, found, err = c.KVGet(ctx, "p/h/a"); found || err != nil {
		t.Errorf("the key outlived its session: %v, %v", found, err)
	}

	// ACLs.
	file := tokenFile(t, consul, "half", `key_prefix "p/" {policy="deny"} key "p/d/" {policy="read"} session_prefix "" {policy="deny"} node "lictor-b" {policy="deny"}`)
	half := start(t, Config{Addresses: addr, TLS: TLS{Disabled: true}, Dial: dialLoopback, TokenFile: file})
	want(t, half, lone.Node)
	put("p/d/hidden", "x")
	list, err = half.KVList(ctx, "p/d/", 0)
	check("list half", err)
	if len(list.Pairs) != 1 || !list.Filtered {
		t.Errorf("half is %+v", list)
	}
	for what, err := range map[string]error{
		`key:write on "p/d/x"`:        second(half.KVPut(ctx, "p/d/x", nil, false, "")),
		`key:write on "p/d/y"`:        half.KVDelete(ctx, "p/d/y"),
		`key:read on "p/h/a"`:         third(half.KVGet(ctx, "p/h/a")),
		`session:write on "lictor-a"`: second(half.CreateSession(ctx, "s", "lictor-a", time.Hour)),
		`node:write on "lictor-b"`:    half.RegisterNode(ctx, "lictor-b", "127.0.0.1", nil),
	} {
		if !errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}

	// Without a server that is followed there is nothing to ask.
	silent, err := New(Config{Addresses: addr, TLS: TLS{Disabled: true}})
	check("new", err)
	if _, err := silent.KVList(ctx, "p/", 0); !errors.Is(err, ErrNoServer) || silent.URL() != "" {
		t.Errorf("without contact: %v, %q", err, silent.URL())
	}
}

func second[T any](_ T, err error) error        { return err }
func third[T, U any](_ T, _ U, err error) error { return err }

// A server that hangs does not keep a query waiting for minutes: it ends when
// another one is followed.
func TestKVListEndsWithItsServer(t *testing.T) {
	a := newFake(t, node("first", "127.0.0.1", 8502))
	c := start(t, Config{Addresses: a.addr(), TLS: TLS{Disabled: true}, Dial: dialLoopback}, func(tm *timing) { tm.wait = time.Hour })
	want(t, c, "first")
	a.set(func() { a.hang = true })
	began := time.Now()
	_, err := c.KVList(t.Context(), "p/", 7)
	if !errors.Is(err, ErrNoServer) {
		t.Errorf("it ended with %v", err)
	}
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("it took %v", took)
	}
}
