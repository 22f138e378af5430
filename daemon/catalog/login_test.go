package catalog

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/tools/testbed/lone"
)

// Both ways to log in, on a real Consul: what a token is answered with, what it
// is called there, and each refusal with its sentence.
func TestLogin(t *testing.T) {
	s := lone.Start(t)
	issuer, stranger := lone.NewIssuer(t), lone.NewIssuer(t)
	s.JWTMethod("mesh", issuer, time.Hour)
	k := lone.NewKubernetes(t)
	account := stranger.Bearer("web", time.Hour) // any JWT: the API decides
	s.KubernetesMethod("k8s", k, account)
	k.Know(account, "web")

	over := map[string]Config{
		"HTTP": {Addresses: s.HTTP, TLS: TLS{Disabled: true}},
		"gRPC": {Addresses: s.GRPC, TLS: TLS{Disabled: true}, GRPCOnly: true},
	}
	for way, cfg := range over {
		t.Run(way, func(t *testing.T) {
			c := resolved(t, cfg)
			token, err := c.Login(t.Context(), LoginQuery{
				AuthMethod: "mesh", BearerToken: issuer.Bearer("web", time.Minute), Meta: map[string]string{"lictor-host": "host-1"},
			})
			if err != nil {
				t.Fatal(err)
			}
			checkToken(t, s, way, token)
			for range 2 { // the second time there is nothing to be done
				if err := c.Logout(t.Context(), token.SecretID, ""); err != nil {
					t.Errorf("logout: %v", err)
				}
			}
			if left := s.Logins(); len(left) != 0 {
				t.Errorf("after the logout: %+v", left)
			}

			token, err = c.Login(t.Context(), LoginQuery{AuthMethod: "k8s", BearerToken: account})
			if err != nil {
				t.Fatalf("kubernetes: %v", err)
			}
			if err := c.Logout(t.Context(), token.SecretID, ""); err != nil {
				t.Errorf("kubernetes: logout: %v", err)
			}
			refusals(t, c, issuer, stranger)
		})
	}
}

func checkToken(t *testing.T, s *lone.Server, way string, token Token) {
	t.Helper()
	made := s.Logins()
	if len(made) != 1 || made[0].AccessorID != token.AccessorID || made[0].SecretID != token.SecretID ||
		!strings.Contains(made[0].Description, `{"lictor-host":"host-1"}`) {
		t.Fatalf("in Consul: %+v; answered %q", made, token.AccessorID)
	}
	if way == "HTTP" && (!token.Expires.Equal(made[0].ExpirationTime) || token.ExpiryUnknown) || way == "gRPC" && !token.ExpiryUnknown {
		t.Errorf("expires %v, unknown %v; in Consul %v", token.Expires, token.ExpiryUnknown, made[0].ExpirationTime)
	}
}

func refusals(t *testing.T, c *Catalog, issuer, stranger *lone.Issuer) {
	t.Helper()
	for name, tt := range map[string]struct {
		method, bearer string
		is             error
		sentence       string
	}{
		"no such method":    {"nope", issuer.Bearer("web", time.Hour), ErrAuthMethod, `no auth method "nope"`},
		"expired bearer":    {"mesh", issuer.Bearer("web", -30*time.Minute), ErrBearer, "is expired"},
		"another's key":     {"mesh", stranger.Bearer("web", time.Hour), ErrBearer, "refuses the bearer token"},
		"no JWT":            {"mesh", "hello", ErrBearer, "refuses the bearer token"},
		"no bearer":         {"mesh", "", ErrBearer, "refuses the bearer token"},
		"wrong audience":    {"mesh", issuer.Sign(map[string]any{"aud": "other"}, time.Hour), ErrBearer, "refuses the bearer token"},
		"nothing binds":     {"mesh", issuer.Bearer("unbound", time.Hour), ErrBinding, "no binding rule"},
		"unknown to k8s":    {"k8s", stranger.Bearer("x", time.Hour), ErrBearer, "refuses the bearer token"},
		"no JWT for k8s":    {"k8s", "hello", ErrBearer, "refuses the bearer token"},
		"no method's name":  {"", issuer.Bearer("web", time.Hour), ErrAuthMethod, `no auth method ""`},
		"secret in a claim": {"mesh", issuer.Sign(map[string]any{"iss": "other"}, time.Hour), ErrBearer, "refuses"},
	} {
		_, err := c.Login(t.Context(), LoginQuery{AuthMethod: tt.method, BearerToken: tt.bearer})
		var p *Problem
		if !errors.Is(err, tt.is) || !errors.As(err, &p) || !strings.Contains(p.Sentence, tt.sentence) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(tt.bearer) > 20 && strings.Contains(err.Error(), tt.bearer) {
			t.Errorf("%s: the error quotes the bearer", name)
		}
	}
}

// resolved is a catalog that knows its addresses, and does nothing more.
func resolved(t *testing.T, cfg Config) *Catalog {
	t.Helper()
	cfg.Dial = dialLoopback
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := c.resolve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var targets []string
	for _, a := range addrs {
		targets = append(targets, a.String())
	}
	c.targets.setOperator(targets)
	t.Cleanup(c.client.CloseIdleConnections)
	return c
}

// A server that gives no answer is passed over; one that refuses is believed.
func TestLoginOnAnotherServer(t *testing.T) {
	for name, tt := range map[string]struct {
		status int
		body   string
		passed bool
		is     error
	}{
		"no leader":   {500, "No cluster leader", true, nil},
		"limits":      {429, "rate limit exceeded", true, ErrLimited},
		"no method":   {403, "rpc error making call: ACL not found", false, ErrAuthMethod},
		"k8s is away": {500, `Post "https://k8s/apis": dial tcp: connection refused`, true, nil},
	} {
		t.Run(name, func(t *testing.T) {
			one, two := newFake(t), newFake(t)
			for _, f := range []*fake{one, two} {
				f.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					f.mu.Lock()
					f.asked = append(f.asked, "login")
					f.mu.Unlock()
					http.Error(w, tt.body, tt.status)
				})
			}
			c := resolved(t, plain(one, two))
			_, err := c.Login(t.Context(), LoginQuery{AuthMethod: "mesh", BearerToken: "bearer"})
			if err == nil || tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("error %v", err)
			}
			if asked := len(one.queries()) + len(two.queries()); (asked == 2) != tt.passed {
				t.Errorf("%d servers were asked", asked)
			}
		})
	}
}

// Nothing is sent but the proxy's own secret, and an answer that quotes it is
// not passed on.
func TestLoginSecrets(t *testing.T) {
	f := newFake(t)
	cfg := plain(f)
	cfg.TokenFile = t.TempDir() + "/token"
	writeFile(t, cfg.TokenFile, "the-daemons-own")
	var sent []string
	f.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent = append(sent, r.Header.Get("X-Consul-Token"))
		http.Error(w, "error parsing token: bearer-secret is no JWT; secret-id", http.StatusInternalServerError)
	})
	c := resolved(t, cfg)
	_, login := c.Login(t.Context(), LoginQuery{AuthMethod: "mesh", BearerToken: "bearer-secret"})
	logout := c.Logout(t.Context(), "secret-id", "")
	if fmt.Sprint(sent) != "[ secret-id]" {
		t.Errorf("sent %q", sent)
	}
	if !errors.Is(login, ErrBearer) || logout == nil {
		t.Errorf("errors %v, %v", login, logout)
	}
	if strings.Contains(login.Error(), "bearer-secret") || strings.Contains(logout.Error(), "secret-id") {
		t.Errorf("quoted: %v, %v", login, logout)
	}
}

// Each of several addresses that are used as they were given is asked by itself.
func TestLoginWithoutWatching(t *testing.T) {
	c := knowing(t, TLS{Disabled: true}, newParamFake(t, nil), newParamFake(t, nil))
	_, err := c.Login(t.Context(), LoginQuery{AuthMethod: "mesh", BearerToken: "bearer"})
	if err == nil || !strings.Contains(err.Error(), "does not know logins over gRPC") { // so says the fake
		t.Errorf("Login: %v", err)
	}
}

func TestLoginNowhere(t *testing.T) {
	c, err := New(Config{Addresses: "127.0.0.1", TLS: TLS{Disabled: true}, Dial: dialLoopback})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Login(t.Context(), LoginQuery{}); err == nil || !strings.Contains(err.Error(), "no Consul server is known") {
		t.Errorf("without an address: %v", err)
	}
	none := resolved(t, Config{Addresses: "127.0.0.1:1", TLS: TLS{Disabled: true}})
	if _, err := none.Login(t.Context(), LoginQuery{}); err == nil || !strings.Contains(err.Error(), "refuses the connection") {
		t.Errorf("nobody listens: %v", err)
	}
	none = resolved(t, Config{Addresses: "127.0.0.1:1", TLS: TLS{Disabled: true}, GRPCOnly: true})
	if _, err := none.Login(t.Context(), LoginQuery{}); err == nil || !strings.Contains(err.Error(), "refuses the connection") {
		t.Errorf("nobody listens for gRPC: %v", err)
	}
}
