package credentials

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/lictor-mesh/lictor/daemon/catalog"
	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/tools/testbed/lone"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
	"github.com/lictor-mesh/lictor/tools/testbed/xds"
)

// hasty says of each token that it ends soon, so that a renewal is due before
// Consul's least lifetime of a minute is over.
type hasty struct {
	*catalog.Catalog
	life *atomic.Int64 // time.Duration; 0: it says what is so
}

func (h hasty) Login(ctx context.Context, q catalog.LoginQuery) (catalog.Token, error) {
	t, err := h.Catalog.Login(ctx, q)
	if life := time.Duration(h.life.Load()); err == nil && life > 0 {
		t.Expires = time.Now().Add(life)
	}
	return t, err
}

// real is a rig on a real Consul; the catalog follows it.
func real(t *testing.T, s *lone.Server, life time.Duration) (*rig, *atomic.Int64) {
	t.Helper()
	testenv.Files(t)
	said := &atomic.Int64{}
	said.Store(int64(life))
	r := newRig(t)
	r.write(filepath.Join(r.dir, "daemon-token"), lone.Management)
	c, err := catalog.New(catalog.Config{
		Addresses: s.HTTP, TLS: catalog.TLS{Disabled: true}, TokenFile: filepath.Join(r.dir, "daemon-token"),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	select {
	case servers := <-c.Updates():
		for _, one := range servers {
			r.book.do(state.ServerSeen{Server: state.ServerSpec{ID: one.ID, Slot: 1, Addr4: one.Addr4, Port: one.Port}})
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("no server: %+v", c.Status())
	}
	r.cfg.Consul = hasty{c, said}
	r.start()
	r.m.linger = 500 * time.Millisecond
	t.Cleanup(func() {
		r.stop()
		r.noSecrets()
		if t.Failed() {
			t.Logf("lictord says:\n%s", r.log)
		}
	})
	return r, said
}

// join registers a proxy that logs in.
func (r *rig) join(id, method, bearer string) (bearerFile string) {
	r.t.Helper()
	bearerFile = filepath.Join(r.dir, "bearer-"+id)
	r.write(bearerFile, bearer)
	r.register(id, state.Credential{Type: state.CredentialLogin, Login: &state.Login{AuthMethod: method, BearerTokenFile: bearerFile}}, "", "")
	r.book.do(state.Placed{ID: id, Ranked: []string{"lone"}, Reason: state.PlaceInitial})
	return bearerFile
}

// soon waits for something.
func soon(t *testing.T, what string, limit time.Duration, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > limit {
			t.Fatalf("%s: not within %v", what, limit)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(began)
}

// envoy is a stream that begins with the token that is in the proxy's file then,
// and goes on under it, as Envoy's does.
type envoy struct {
	mu     sync.Mutex
	conn   net.Conn
	events []xds.Event
}

func (e *envoy) Close(state.Proxy) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.conn != nil {
		_ = e.conn.Close() // that is the point
	}
	return nil
}

func (e *envoy) changes() int  { return e.count(xds.Updated) }
func (e *envoy) connects() int { return e.count(xds.Connected) }

func (e *envoy) count(kind xds.Kind) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for _, event := range e.events {
		if event.Kind == kind {
			n++
		}
	}
	return n
}

// quiet waits until nothing has come for a while, and says what there was.
func (e *envoy) quiet() (changes, connects int) {
	for {
		changes, connects = e.changes(), e.connects()
		time.Sleep(time.Second)
		if changes == e.changes() && connects == e.connects() {
			return changes, connects
		}
	}
}

// stream runs until the test's end; it has its configuration.
func stream(t *testing.T, s *lone.Server, e *envoy, id, service string, token func() string) {
	t.Helper()
	begin(t, s, e, id, service, token)
	soon(t, "configuration", 10*time.Second, func() bool { return e.changes() >= 2 })
}

// begin is a stream that may be told nothing.
func begin(t *testing.T, s *lone.Server, e *envoy, id, service string, token func() string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			one, end := context.WithCancel(metadata.AppendToOutgoingContext(ctx, "x-consul-token", token()))
			client := &xds.Client{
				Proxy: xds.Proxy{ID: id, Service: service, NodeName: "n"},
				Dial: func(ctx context.Context) (net.Conn, error) {
					var d net.Dialer
					conn, err := d.DialContext(ctx, "tcp", s.GRPC)
					e.mu.Lock()
					e.conn = conn
					e.mu.Unlock()
					return conn, err
				},
				OnEvent: func(event xds.Event) {
					e.mu.Lock()
					e.events = append(e.events, event)
					e.mu.Unlock()
					if event.Kind == xds.Ended {
						end() // the next one has the next token
					}
				},
			}
			_ = client.Run(one)
			end()
			time.Sleep(20 * time.Millisecond)
		}
	}()
}

func intention(s *lone.Server, service, action string) {
	s.Put("/v1/config", map[string]any{
		"Kind": "service-intentions", "Name": service, "Sources": []map[string]string{{"Name": "other", "Action": action}},
	}, nil)
}

// Why streams are closed before their token goes: Consul keeps a stream whose
// token was deleted, and sends it no change of intentions.
func TestStreamsOutliveTheirToken(t *testing.T) {
	t.Parallel()
	s := lone.Start(t)
	id := s.Register("n", "web")
	accessor, secret := s.NewToken("web", `service_prefix "" { policy = "write" } node_prefix "" { policy = "read" }`)
	e := &envoy{}
	stream(t, s, e, id, "web", func() string { return secret })
	before, _ := e.quiet()
	intention(s, "web", "allow")
	t.Logf("with its token, a change arrives after %v", soon(t, "a change", 5*time.Second, func() bool { return e.changes() > before }))

	before, _ = e.quiet()
	s.Delete("/v1/acl/token/" + accessor)
	intention(s, "web", "deny")
	time.Sleep(3 * time.Second)
	if e.changes() > before {
		t.Error("Consul tells a stream of changes whose token was deleted: closing streams is no longer needed")
	}
}

// The life of a login on a real Consul, with a stream as Envoy has one: it is
// renewed, the former token is deleted, and a change made afterwards arrives.
func TestRenewedUnderAStream(t *testing.T) {
	t.Parallel()
	s := lone.Start(t)
	issuer := lone.NewIssuer(t)
	s.JWTMethod("mesh", issuer, time.Hour)
	id := s.Register("n", "web")
	r, life := real(t, s, 4*time.Second)
	e := &envoy{}
	r.m.cfg.Streams = e
	r.join(id, "mesh", issuer.Bearer("web", time.Hour))
	first := r.files(id).Token
	stream(t, s, e, id, "web", func() string { return r.inFile(id) })

	soon(t, "the first token to be deleted", 20*time.Second, func() bool {
		return !slices.ContainsFunc(s.Logins(), func(l lone.Token) bool { return l.SecretID == first })
	})
	life.Store(0) // what is renewed next, stays
	soon(t, "one token", 20*time.Second, func() bool { return len(s.Logins()) == 1 && r.m.Stats().Leaving == 0 })
	time.Sleep(4 * time.Second) // the last one that was said to end soon
	soon(t, "one token", 20*time.Second, func() bool { return len(s.Logins()) == 1 && r.m.Stats().Leaving == 0 })
	before, connects := e.quiet()
	intention(s, "web", "allow")
	took := soon(t, "a change after the renewal", 5*time.Second, func() bool { return e.changes() > before })
	if n := e.connects(); n != connects {
		t.Error("it came with another stream")
	}
	t.Logf("a change made after the first token was deleted arrived after %v", took)
	for _, l := range s.Logins() {
		if !strings.Contains(l.Description, `"lictor-proxy":"`+id+`"`) || !strings.Contains(l.Description, `"lictor-host":"host-1"`) {
			t.Errorf("description %q", l.Description)
		}
	}
	r.wantState(id, state.CredentialOK)

	r.deregister(id)
	took = soon(t, "logout", 10*time.Second, func() bool { return len(s.Logins()) == 0 })
	t.Logf("no token %v after the deregistration", took)
	soon(t, "the journal's word of it", time.Second, func() bool {
		return len(r.book.of(state.KindLoggedOut)) == len(r.book.of(state.KindLoggedIn))
	})
}

// Troubles on a real Consul, each with its state and its sentence, and the way
// out of each.
func TestTroublesOnConsul(t *testing.T) {
	t.Parallel()
	s := lone.Start(t)
	issuer := lone.NewIssuer(t)
	s.JWTMethod("mesh", issuer, time.Hour)
	k := lone.NewKubernetes(t)
	account := issuer.Bearer("any", time.Hour)
	s.KubernetesMethod("k8s", k, account)
	web, api := s.Register("n", "web"), s.Register("n", "api")
	r, _ := real(t, s, 0)
	server := netip.MustParseAddrPort(s.GRPC)

	// The token is revoked, and Envoy's connections bounce.
	r.join(web, "mesh", issuer.Bearer("web", time.Hour))
	r.files(web)
	soon(t, "ok", 5*time.Second, func() bool { return r.book.proxy(web).CredentialState == state.CredentialOK })
	revoked := s.Logins()[0]
	s.Delete("/v1/acl/token/" + revoked.AccessorID)
	r.m.Bounced(web, server)
	took := soon(t, "a new token", 5*time.Second, func() bool { token := r.inFile(web); return token != revoked.SecretID && token != "" })
	t.Logf("a new token %v after the bounce with the revoked one", took)
	soon(t, "ok again", 5*time.Second, func() bool { return r.book.proxy(web).CredentialState == state.CredentialOK })

	// An expired bearer, then one that nothing is bound to, then a good one.
	bearer := r.join(api, "k8s", account)
	var not *NotReadyError
	if _, err := r.m.Ready(t.Context(), api); !errors.As(err, &not) || !strings.Contains(not.Sentence, "refuses the bearer token") {
		t.Errorf("unknown to Kubernetes: %v", err)
	}
	soon(t, "bad bearer", 5*time.Second, func() bool { return r.book.proxy(api).CredentialState == state.CredentialBadBearer })
	next := issuer.Bearer("api", time.Hour)
	k.Know(next, "api")
	r.write(bearer, next)
	took = soon(t, "logged in", 10*time.Second, func() bool { return r.book.proxy(api).CredentialState == state.CredentialOK })
	t.Logf("logged in %v after the bearer was replaced", took)

	// A static token of another service, and a file with one that is none.
	_, other := s.NewToken("other", `service "other" { policy = "write" }`)
	third := s.Register("n", "third")
	r.register(third, state.Credential{Type: state.CredentialStatic}, other, "")
	soon(t, "no rights", 5*time.Second, func() bool { return r.book.proxy(third).CredentialState == state.CredentialRefused })
	if p := r.book.proxy(third).CredentialProblem; !strings.Contains(p, "may not read its service") {
		t.Errorf("problem %q", p)
	}
	_, good := s.NewToken("third", `service_prefix "" { policy = "write" } node_prefix "" { policy = "read" }`)
	r.register(third, state.Credential{Type: state.CredentialStatic}, good, "")
	soon(t, "rights", 5*time.Second, func() bool { return r.book.proxy(third).CredentialState == state.CredentialOK })

	fourth := s.Register("n", "fourth")
	file := filepath.Join(r.dir, "token")
	r.write(file, "00000000-1111-2222-3333-444444444444\n")
	r.register(fourth, state.Credential{Type: state.CredentialFile, TokenFile: file}, "", "")
	soon(t, "unknown token", 5*time.Second, func() bool { return r.book.proxy(fourth).CredentialState == state.CredentialRefused })
	if p := r.book.proxy(fourth).CredentialProblem; !strings.Contains(p, "does not exist") {
		t.Errorf("problem %q", p)
	}
	// One that may read everything, as another's service identity may: servers
	// know it, and xDS will not have it, of which they say nothing to Envoy.
	accessor, reader := s.NewToken("reader", `service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }`)
	fifth := s.Register("n", "fifth")
	r.register(fifth, state.Credential{Type: state.CredentialStatic}, reader, "")
	soon(t, "no right to write", 5*time.Second, func() bool { return r.book.proxy(fifth).CredentialState == state.CredentialRefused })
	if p := r.book.proxy(fifth).CredentialProblem; !strings.Contains(p, "no right service:write for fifth") {
		t.Errorf("problem %q", p)
	}
	mute := &envoy{}
	begin(t, s, mute, fifth, "fifth", func() string { return r.inFile(fifth) })
	time.Sleep(2 * time.Second)
	if n := mute.changes(); n != 0 {
		t.Errorf("xDS sent it %d changes", n)
	}
	s.Put("/v1/acl/token/"+accessor, map[string]any{"Policies": []map[string]string{{"Name": "third"}}}, nil)
	took = soon(t, "the right to write", 15*time.Second, func() bool { return r.book.proxy(fifth).CredentialState == state.CredentialOK })
	t.Logf("ok %v after the token was given the right", took)
	took = soon(t, "configuration over the stream that was mute", 30*time.Second, func() bool { return mute.changes() >= 2 })
	t.Logf("configured %v after that, with %d connections", took, mute.connects())

	r.write(file, good)
	soon(t, "known token", 10*time.Second, func() bool { return r.book.proxy(fourth).CredentialState == state.CredentialOK })
}
