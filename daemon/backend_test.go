package daemon

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/daemon/fleet"
	"github.com/lictor-mesh/lictor/daemon/owners"
	"github.com/lictor-mesh/lictor/daemon/registry"
	"github.com/lictor-mesh/lictor/daemon/server"
	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/state"
)

// view is a proxy with both VIPs and servers of the given addresses.
func view(servers ...state.ServerSpec) registry.View {
	v := registry.View{Resolved: true}
	v.VIP, v.VIP6 = netip.MustParseAddr("239.77.0.1"), netip.MustParseAddr("ff05::7777:0:1")
	for _, s := range servers {
		v.Servers = append(v.Servers, state.Server{ServerSpec: s})
	}
	return v
}

var (
	only4 = state.ServerSpec{ID: "four", Addr4: netip.MustParseAddr("10.0.0.4"), Port: 8502}
	only6 = state.ServerSpec{ID: "six", Addr6: netip.MustParseAddr("fd00::6"), Port: 8503}
	both  = state.ServerSpec{ID: "both", Addr4: netip.MustParseAddr("10.0.0.5"), Addr6: netip.MustParseAddr("fd00::5"), Port: 8502}
)

// Only VIPs are answered whose family has a server; while none is known, both
// are, as they are promised.
func TestOnlyReachableVIPsAreAnswered(t *testing.T) {
	no4 := view(both)
	no4.VIP = netip.Addr{} // no IPv4 pool
	for name, tc := range map[string]struct {
		view      registry.View
		vip, vip6 bool
	}{
		"no server yet":         {view(), true, true},
		"IPv4":                  {view(only4), true, false},
		"IPv6":                  {view(only6), false, true},
		"one of each":           {view(only4, only6), true, true},
		"a server with both":    {view(both), true, true},
		"no pool of one family": {no4, false, true},
	} {
		vip, vip6 := reachable(tc.view)
		if (vip != "") != tc.vip || (vip6 != "") != tc.vip6 {
			t.Errorf("%s: vip %q, vip6 %q", name, vip, vip6)
		}
	}
}

// The hint is the first server, by the address that a caller rather has a use for.
func TestServersAreAnsweredInTheirOrder(t *testing.T) {
	got := serverRefs(view(only6, both, only4))
	want := []v1.ServerRef{
		{ID: "six", Address: only6.Addr6, GRPCPort: 8503},
		{ID: "both", Address: both.Addr4, GRPCPort: 8502},
		{ID: "four", Address: only4.Addr4, GRPCPort: 8502},
	}
	for i := range want {
		if i >= len(got) || got[i] != want[i] {
			t.Fatalf("servers = %+v, want %+v", got, want)
		}
	}
}

// A word for each proxy, the most pressing one.
func TestTheStateOfAProxy(t *testing.T) {
	connected, waiting, ownerless := view(both), view(both), view(both)
	connected.Counters = kernel.Counters{Established: 2, Closed: 1}
	connected.Waiting = true // an older connection lives on
	waiting.Waiting = true
	ownerless.Resolved, ownerless.Waiting = false, true
	cut := view()
	cut.Counters = kernel.Counters{Established: 1}
	for want, v := range map[v1.ProxyState]registry.View{
		v1.ProxyConnected: connected, v1.ProxyWaiting: waiting, v1.ProxyNoOwner: ownerless,
		v1.ProxyIdle: view(both), v1.ProxyNoServer: view(),
	} {
		if got := proxyState(v); got != want {
			t.Errorf("state = %q, want %q", got, want)
		}
	}
	if got := proxyState(cut); got != v1.ProxyConnected {
		t.Errorf("a proxy whose connection outlives its servers is %q", got)
	}
}

// Every error that a caller can do something about has a problem of its own;
// any other one stays what it is.
func TestErrorsHaveProblems(t *testing.T) {
	for is, want := range map[error]error{
		registry.ErrNotRegistered: server.ErrNotFound,
		registry.ErrIdentity:      server.ErrConflict,
		registry.ErrNotDurable:    server.ErrUnavailable,
		registry.ErrStopped:       server.ErrUnavailable,
		registry.ErrPoolFull:      server.ErrExhausted,
		registry.ErrTooOften:      server.ErrTooOften,
		owners.ErrRootOnly:        server.ErrForbidden,
		fleet.ErrForbidden:        server.ErrForbidden,
		fleet.ErrUnavailable:      server.ErrUnavailable,
		fleet.ErrUnknown:          server.ErrNotFound,
		owners.ErrInvalid:         server.ErrInvalid,
	} {
		if got := problem(is); !errors.Is(got, want) || !errors.Is(got, is) {
			t.Errorf("problem(%v) = %v, want %v", is, got, want)
		}
	}
	other := errors.New("other")
	if got := problem(other); !errors.Is(got, other) || got.Error() != other.Error() {
		t.Errorf("problem = %v, want it unchanged", got)
	}
	if problem(nil) != nil {
		t.Error("nothing is a problem")
	}
}

// What lictord does with root's rights is not for callers without them.
func TestWhatOthersThanRootMayAskFor(t *testing.T) {
	static := &v1.Credential{Credential: state.Credential{Type: state.CredentialStatic}, Token: "t"}
	for name, tc := range map[string]struct {
		uid uint32
		req v1.RegisterRequest
		is  error
	}{
		"nothing":                 {1000, v1.RegisterRequest{}, nil},
		"a process":               {1000, v1.RegisterRequest{Process: true, Credential: static}, nil},
		"a credential for nobody": {1000, v1.RegisterRequest{Credential: static}, server.ErrInvalid},
		"no credential":           {1000, v1.RegisterRequest{Credential: &v1.Credential{}}, nil},
		"a credential, root":      {0, v1.RegisterRequest{Credential: static}, nil},
		"a high port":             {1000, v1.RegisterRequest{Envoy: &v1.EnvoySettings{GracefulBind: "127.0.0.1:20600"}}, nil},
		"a low port":              {1000, v1.RegisterRequest{Envoy: &v1.EnvoySettings{GracefulBind: "127.0.0.1:80"}}, server.ErrForbidden},
		"a low port, root":        {0, v1.RegisterRequest{Envoy: &v1.EnvoySettings{GracefulBind: "127.0.0.1:80"}}, nil},
	} {
		if err := mayAsk(server.Caller{UID: tc.uid}, tc.req); !errors.Is(err, tc.is) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheRequestOfAProcess(t *testing.T) {
	b := backend{&Daemon{resolver: owners.Resolver{BootID: "boot"}}}
	b.cfg.NodeName = "host-1"
	caller := server.Caller{UID: 5995, GID: 5996, PID: 77, Start: 1234, NetnsCookie: 7, NetnsInode: 8}
	settings := &v1.EnvoySettings{AdminBind: "127.0.0.1:19001"}
	ask, err := b.request(caller, "web", v1.RegisterRequest{Process: true, Envoy: settings})
	if err != nil {
		t.Fatal(err)
	}
	want := state.Process{PID: 77, Start: 1234, BootID: "boot", UID: 5995, GID: 5996}
	if ask.Process == nil || *ask.Process != want || ask.Envoy != settings || ask.UID != 5995 || ask.Node != "host-1" || ask.Credential != nil {
		t.Errorf("request %+v", ask)
	}
	if !ask.ProcessGone(state.Process{PID: 77, BootID: "the boot before"}) {
		t.Error("a process of another boot is there")
	}
	if _, err := b.request(caller, registry.AdoptedPrefix+"x", v1.RegisterRequest{}); !errors.Is(err, server.ErrInvalid) {
		t.Errorf("an id of the daemon's own: %v", err)
	}
}

// A host full of proxies with one trouble is one sentence, with the proxy that
// has had it for longest; each trouble has one.
func TestTroubleInSentences(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := state.New()
	s.Proxies["none"] = &state.Proxy{}
	trouble := func(id string, kind state.CredentialState, minute int) {
		p := &state.Proxy{CredentialState: kind, CredentialProblem: "because of " + id}
		p.ID, p.CredentialSince = id, at.Add(time.Duration(minute)*time.Minute)
		s.Proxies[id] = p
	}
	trouble("well", state.CredentialOK, 0)
	trouble("late", state.CredentialRefused, 9)
	trouble("a", state.CredentialRefused, 2)
	trouble("b", state.CredentialRefused, 2)
	trouble("ca", state.CredentialWrongCA, 1)
	trouble("n1", state.CredentialNoTLS, 1)
	trouble("n2", state.CredentialNoTLS, 3)
	var st v1.Status
	credentialStatus(&st, s)
	want := []string{
		"Proxy a gets no configuration from Consul (refused): because of a; 2 more proxies have the same trouble, see `lictor proxies`.",
		"Proxy ca gets no configuration from Consul (wrong-ca): because of ca.",
		"Proxy n1 gets no configuration from Consul (no-tls): because of n1; one more proxy has the same trouble, see `lictor proxies`.",
	}
	if !slices.Equal(st.Problems, want) {
		t.Errorf("problems:\n%s", strings.Join(st.Problems, "\n"))
	}
	if n := st.Proxies.Credentials; n[state.CredentialOK] != 1 || n[state.CredentialRefused] != 3 || len(n) != 4 {
		t.Errorf("counts %v", n)
	}
}

// Pins that were removed are repaired, once whoever did it has had time to stop
// lictord as well. What was detached is not.
func TestWhenTheHookIsRepaired(t *testing.T) {
	gone := fmt.Errorf("%w: connect4: %w", kernel.ErrNotAttached, kernel.ErrPinGone)
	synctest.Test(t, func(t *testing.T) {
		var a attachment
		for _, step := range []struct {
			err    error
			after  time.Duration
			repair bool
		}{
			{nil, 0, false},
			{gone, time.Hour, false},
			{gone, 29 * time.Second, false},
			{kernel.ErrNotAttached, 3 * time.Second, false},
			{gone, 3 * time.Second, false},
			{gone, 30 * time.Second, true},
			{gone, 3 * time.Second, true}, // it did not help yet
			{nil, 3 * time.Second, false},
			{gone, 3 * time.Second, false},
			{kernel.ErrNotAttached, time.Hour, false},
		} {
			time.Sleep(step.after)
			a.set(kernel.Attachment{}, step.err)
			if a.repairable() != step.repair {
				t.Errorf("%v: %t", step, !step.repair)
			}
		}
	})
}

// Root may deregister all, others what is of their own namespace in this boot.
func TestWhoMayDeregister(t *testing.T) {
	b := backend{&Daemon{resolver: owners.Resolver{BootID: "boot"}}}
	own := state.Owner{Kind: state.OwnerNetns, ID: 7, BootID: "boot"}
	before := own
	before.BootID = "the boot before" // its cookie may be anybody's now
	cgroup := own
	cgroup.Kind = state.OwnerCgroup // its id is no cookie
	root, user := server.Caller{UID: 0, NetnsCookie: 1}, server.Caller{UID: 1000, NetnsCookie: 7}
	for name, tc := range map[string]struct {
		caller server.Caller
		owner  state.Owner
		may    bool
	}{
		"root, of another":         {root, own, true},
		"root, of nobody":          {root, before, true},
		"the owner":                {user, own, true},
		"a stranger":               {server.Caller{UID: 1000, NetnsCookie: 8}, own, false},
		"a namespace without name": {server.Caller{UID: 1000}, state.Owner{Kind: state.OwnerNetns, BootID: "boot"}, false},
		"the same after a reboot":  {user, before, false},
		"a cgroup with that id":    {user, cgroup, false},
		"anybody's, by a user":     {user, state.Owner{Kind: state.OwnerAny}, false},
	} {
		if err := b.allow(tc.caller)(&state.Proxy{Registration: state.Registration{Owner: tc.owner}}); (err == nil) != tc.may || err != nil && !errors.Is(err, server.ErrForbidden) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
