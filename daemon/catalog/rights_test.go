package catalog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/lictor-mesh/lictor/tools/testbed/lone"
	"github.com/lictor-mesh/lictor/tools/testbed/xds"
)

// What a real Consul says of a token's rights, and what it then sends over xDS
// to a proxy with that token: the one must foretell the other.
func TestRightsOfRealConsul(t *testing.T) {
	s := lone.Start(t)
	gateways(s)
	token := filepath.Join(t.TempDir(), "token")
	writeFile(t, token, lone.Management)
	// The port, as the catalog lists the server too, and has none: whoever is slow
	// to answer is followed by the next that is known.
	c := start(t, Config{
		Addresses: s.HTTP, HTTPPort: netip.MustParseAddrPort(s.HTTP).Port(),
		TLS: TLS{Disabled: true}, TokenFile: token, Dial: dialLoopback,
	}, func(tm *timing) { tm.answer = 5 * time.Second })
	select {
	case <-c.Updates():
	case <-time.After(30 * time.Second):
		t.Fatalf("no server; status %+v", c.Status())
	}
	const (
		read = ` service_prefix "" { policy = "read" } node_prefix "" { policy = "read" } `
		mesh = ` mesh = "read" `
	)
	write := func(service string) string { return read + fmt.Sprintf(` service %q { policy = "write" } `, service) }
	sidecar := RightsQuery{ProxyID: "web-1-sidecar-proxy", Service: "web"}
	gateway := func(kind string) RightsQuery { return RightsQuery{ProxyID: kind + "-1", Service: kind} }
	t.Run("group", func(t *testing.T) { // ends when all of it have
		for _, tt := range []struct {
			name  string
			q     RightsQuery
			rules string
			lacks string
			mute  bool // xDS says nothing: this Consul's handler dies of such a token
		}{
			{name: "sidecar", q: sidecar, rules: write("web")},
			{name: "sidecar, reads only", q: sidecar, rules: read, lacks: "service:write for web"},
			{name: "sidecar, of another", q: sidecar, rules: write("api"), lacks: "service:write for web"},
			{name: "api gateway", q: gateway("api-gateway"), rules: write("api-gateway") + mesh},
			{name: "api gateway, no mesh", q: gateway("api-gateway"), rules: write("api-gateway"), lacks: "mesh:read"},
			{name: "api gateway, reads only", q: gateway("api-gateway"), rules: read + mesh, lacks: "service:write for api-gateway", mute: true},
			{name: "mesh gateway, no mesh", q: gateway("mesh-gateway"), rules: write("mesh-gateway")},
			{name: "mesh gateway, reads only", q: gateway("mesh-gateway"), rules: read + mesh, lacks: "service:write for mesh-gateway"},
			{name: "terminating gateway", q: gateway("terminating-gateway"), rules: write("terminating-gateway")},
			{name: "terminating gateway, reads only", q: gateway("terminating-gateway"), rules: read, lacks: "service:write for terminating-gateway"},
			{name: "ingress gateway", q: gateway("ingress-gateway"), rules: write("ingress-gateway")},
			{name: "ingress gateway, reads only", q: gateway("ingress-gateway"), rules: read, lacks: "service:write for ingress-gateway"},
		} {
			_, secret := s.NewToken(strings.NewReplacer(" ", "-", ",", "").Replace(tt.name), tt.rules)
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				q := tt.q
				q.Token, q.Node, q.Namespace, q.Partition = secret, "n", "default", "default"
				// The RPC that names the service does not tell good from bad.
				params, err := c.BootstrapParams(t.Context(), ParamsQuery{Token: secret, ProxyID: q.ProxyID, Node: q.Node})
				if err != nil || params.Service != q.Service {
					t.Errorf("parameters: service %q, %v", params.Service, err)
				}
				err = c.Rights(t.Context(), q)
				if tt.lacks == "" && err != nil {
					t.Errorf("a good token is refused: %v", err)
				}
				if tt.lacks != "" {
					if !errors.Is(err, ErrToken) {
						t.Errorf("error %v", err)
					}
					checkSentence(t, err, tt.lacks)
				}
				if got := listens(t, s, q); !tt.mute && got != (tt.lacks == "") {
					t.Errorf("xDS gives it listeners: %t; rights: %v", got, err)
				}
			})
		}
	})

	// A token that does not exist, or not yet on this server, has no rights that
	// could be missing; one that is not given has those of the anonymous one.
	stranger := sidecar
	stranger.Token, stranger.Node = "77777777-2222-3333-4444-555555555555", "n"
	if err := c.Rights(t.Context(), stranger); err == nil || errors.Is(err, ErrToken) || errors.Is(err, ErrRightsUntold) {
		t.Errorf("a token that is not known: %v", err)
	}
	stranger.Token = ""
	err := c.Rights(t.Context(), stranger)
	if !errors.Is(err, ErrToken) {
		t.Errorf("no token: %v", err)
	}
	checkSentence(t, err, "has no ACL token")
}

// gateways registers a sidecar, a gateway of each kind, and what each listens for.
func gateways(s *lone.Server) {
	s.Register("n", "web")
	for _, kind := range []string{"api-gateway", "mesh-gateway", "terminating-gateway", "ingress-gateway"} {
		s.Put("/v1/catalog/register", map[string]any{
			"Node": "n", "Address": "127.0.0.9",
			"Service": map[string]any{"ID": kind + "-1", "Service": kind, "Kind": kind, "Port": 8443},
		}, nil)
	}
	for _, entry := range []string{
		`{"Kind":"service-defaults","Name":"web","Protocol":"http"}`,
		`{"Kind":"api-gateway","Name":"api-gateway","Listeners":[{"Name":"http","Port":8088,"Protocol":"http"}]}`,
		`{"Kind":"http-route","Name":"all","Parents":[{"Kind":"api-gateway","Name":"api-gateway","SectionName":"http"}],
			"Rules":[{"Services":[{"Name":"web"}]}]}`,
		`{"Kind":"ingress-gateway","Name":"ingress-gateway","Listeners":[{"Port":8089,"Protocol":"http","Services":[{"Name":"web"}]}]}`,
		`{"Kind":"terminating-gateway","Name":"terminating-gateway","Services":[{"Name":"web"}]}`,
	} {
		s.Put("/v1/config", entry, nil)
	}
}

// listens says whether xDS gives a proxy any listener.
func listens(t *testing.T, s *lone.Server, q RightsQuery) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	var some atomic.Bool
	client := &xds.Client{
		Proxy: xds.Proxy{ID: q.ProxyID, Service: q.Service, NodeName: q.Node},
		Dial: func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", s.GRPC)
		},
		OnEvent: func(e xds.Event) {
			if e.Kind == xds.Updated && e.Type == xds.ListenerType && e.Changed > 0 {
				some.Store(true)
				cancel()
			}
		},
	}
	_ = client.Run(metadata.AppendToOutgoingContext(ctx, "x-consul-token", q.Token)) // ends with ctx
	return some.Load()
}

// Only a plain no is one, whatever else a server says.
func TestRightsAnswers(t *testing.T) {
	const told = `[{"Resource":"service","Segment":"web","Access":"write","Allow":%t},{"Resource":"mesh","Access":"read","Allow":true}]`
	for name, tt := range map[string]struct {
		status int
		body   string
		is     error // nil: neither of those below
		good   bool
	}{
		"yes":                {200, fmt.Sprintf(told, true), nil, true},
		"no":                 {200, fmt.Sprintf(told, false), ErrToken, false},
		"absent":             {404, "404 page not found", ErrRightsUntold, false},
		"other method":       {405, "method POST not allowed", ErrRightsUntold, false},
		"ACLs are off":       {401, "ACL support disabled", ErrRightsUntold, false},
		"blocked":            {403, "Endpoint is blocked by agent configuration", ErrRightsUntold, false},
		"no such resource":   {400, "Invalid ACL resource requested: mesh", ErrRightsUntold, false},
		"quotes the token":   {400, "what is the-proxys-own", ErrRightsUntold, false},
		"another answer":     {200, `[{"Resource":"service","Segment":"api","Access":"write"},{"Resource":"mesh","Access":"read"}]`, ErrRightsUntold, false},
		"a short answer":     {200, `[]`, ErrRightsUntold, false},
		"no answer":          {200, `null`, ErrRightsUntold, false},
		"token not there":    {403, "rpc error making call: ACL not found", nil, false},
		"requests limited":   {429, "rate limit exceeded", nil, false},
		"no leader":          {500, "No cluster leader", nil, false},
		"what is not JSON":   {200, `<html>`, nil, false},
		"closed connections": {0, "", nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			cfg := plain(f)
			cfg.TokenFile = t.TempDir() + "/token"
			writeFile(t, cfg.TokenFile, "the-daemons-own")
			f.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				sent, err := io.ReadAll(r.Body)
				const asks = `[{"Resource":"service","Segment":"web","Access":"write"},{"Resource":"mesh","Access":"read"}]`
				if r.Method != http.MethodPost || r.URL.String() != rightsPath || r.Header.Get("X-Consul-Token") != "the-proxys-own" || string(sent) != asks || err != nil {
					t.Errorf("asked: %s %s with %q: %s, %v", r.Method, r.URL, r.Header.Get("X-Consul-Token"), sent, err)
				}
				if tt.status == 0 {
					panic(http.ErrAbortHandler)
				}
				w.WriteHeader(tt.status)
				fmt.Fprint(w, tt.body)
			})
			err := resolved(t, cfg).Rights(t.Context(), RightsQuery{
				Token: "the-proxys-own", ProxyID: "web-1", Node: "n", Service: "web", Namespace: "default", Partition: "default",
			})
			for _, kind := range []error{ErrToken, ErrRightsUntold} {
				if errors.Is(err, kind) != (tt.is == kind) { //nolint:errorlint // which of the two it is
					t.Errorf("error %v, want %v", err, tt.is)
				}
			}
			if tt.good != (err == nil) {
				t.Errorf("error %v", err)
			}
			if err != nil && strings.Contains(err.Error(), "the-proxys-own") {
				t.Errorf("the token is quoted: %v", err)
			}
		})
	}
}

// Where HTTP is not open nobody is asked; where nobody answers, nobody waits long.
func TestRightsNowhere(t *testing.T) {
	for name, cfg := range map[string]Config{
		"gRPC only": {Addresses: "127.0.0.1:1", TLS: TLS{Disabled: true}, GRPCOnly: true},
		"balancer":  {Addresses: "127.0.0.1:1", TLS: TLS{Disabled: true}, WatchDisabled: true},
	} {
		if err := resolved(t, cfg).Rights(t.Context(), RightsQuery{Service: "web"}); !errors.Is(err, ErrRightsUntold) {
			t.Errorf("%s: %v", name, err)
		}
	}
	f := newFake(t)
	f.Config.Handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then is its end noticed
		<-r.Context().Done()
	})
	c := resolved(t, plain(f))
	c.timing.answer = 100 * time.Millisecond
	began := time.Now()
	errs := make(chan error)
	const askers = 20
	for range askers {
		go func() { errs <- c.Rights(t.Context(), RightsQuery{Service: "web"}) }()
	}
	for range askers {
		if err := <-errs; err == nil || errors.Is(err, ErrToken) || errors.Is(err, ErrRightsUntold) {
			t.Errorf("a server that hangs: %v", err)
		}
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("they wait for each other: %v", took)
	}
}
