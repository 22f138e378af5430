package catalog

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Errors of Login and Logout, each within a *Problem, whose sentence says what
// to do.
var (
	// ErrAuthMethod: Consul has no auth method of that name.
	ErrAuthMethod = errors.New("unknown auth method")
	// ErrBearer: the auth method refuses the bearer token, which may be expired.
	ErrBearer = errors.New("bearer token refused")
	// ErrBinding: no binding rule of the auth method gives this bearer anything.
	ErrBinding = errors.New("no binding rule matches")
	// ErrLimited: Consul limits requests; later it will answer.
	ErrLimited = errors.New("requests are limited")
	// ErrNoACLs: ACLs are off in Consul.
	ErrNoACLs = errors.New("ACLs are disabled")
)

// LoginQuery asks for an ACL token by an auth method of Consul. To Consul the
// types jwt and kubernetes are alike: each takes a bearer token.
type LoginQuery struct {
	AuthMethod  string
	BearerToken string
	Datacenter  string // "" means that of the servers
	Namespace   string // of the auth method; "" means default
	Partition   string // of the auth method; "" means default
	// Meta becomes part of the token's description in Consul, as JSON.
	Meta map[string]string
}

// Token is what a login was answered with.
type Token struct {
	SecretID   string
	AccessorID string // the token's public name
	// Expires is when the token ends; zero when it does not, or when Consul does
	// not say so.
	Expires time.Time
	// ExpiryUnknown says that Expires is zero because Consul's gRPC login does
	// not tell it.
	ExpiryUnknown bool
}

// loginTries is how many servers a login or a logout is tried on at most, each
// for loginAnswer: it takes a commit of the leader, and the auth method may ask
// a peer of its own.
const (
	loginTries  = 4
	loginAnswer = 10 * time.Second
)

// Login exchanges a bearer token for an ACL token. It asks the server that is
// followed first, others after it; each hands the request to the leader, so a
// refusal is final and only what is no answer is tried elsewhere. It goes over
// HTTP, or over gRPC with GRPCOnly and WatchDisabled, where HTTP may not be
// open. No error of it holds a secret.
func (c *Catalog) Login(ctx context.Context, q LoginQuery) (Token, error) {
	var token Token
	err := c.onSomeServer(ctx, func(ctx context.Context, target string) (err error) {
		if c.overGRPC() {
			token, err = c.loginGRPC(ctx, target, q)
		} else {
			token, err = c.loginHTTP(ctx, target, q)
		}
		return withoutSecret(err, q.BearerToken)
	})
	if err == nil && (token.SecretID == "" || token.AccessorID == "") {
		err = &Problem{Sentence: "Consul answers a login without a token: is what --consul-addresses names a Consul server?"}
	}
	if err != nil {
		return Token{}, err
	}
	return token, nil
}

// Logout deletes a token that a login gave. One that is gone already, by its
// expiry or by an operator, is success.
func (c *Catalog) Logout(ctx context.Context, secretID, datacenter string) error {
	return c.onSomeServer(ctx, func(ctx context.Context, target string) (err error) {
		if c.overGRPC() {
			err = c.logoutGRPC(ctx, target, secretID, datacenter)
		} else {
			err = c.logoutHTTP(ctx, target, secretID, datacenter)
		}
		return withoutSecret(err, secretID)
	})
}

func (c *Catalog) overGRPC() bool { return c.cfg.GRPCOnly || c.cfg.WatchDisabled }

// onSomeServer calls a function with one server after the other until one
// answers.
func (c *Catalog) onSomeServer(ctx context.Context, ask func(ctx context.Context, target string) error) error {
	order, err := c.serversToAsk()
	if err != nil {
		return err
	}
	for _, target := range order[:min(len(order), loginTries)] {
		asked, cancel := context.WithTimeout(ctx, loginAnswer)
		err = ask(asked, target)
		cancel()
		if err == nil || final(err) || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// final says that another server would say the same. A limit is each server's
// own.
func final(err error) bool {
	return errors.Is(err, ErrAuthMethod) || errors.Is(err, ErrBearer) || errors.Is(err, ErrBinding) || errors.Is(err, ErrNoACLs)
}

// serversToAsk is every server, the one that is followed first, the others in
// any order, so that hosts do not all ask the same. It is an error when none is
// known.
func (c *Catalog) serversToAsk() ([]string, error) {
	var all []string
	if c.cfg.WatchDisabled { // no server is followed
		all = c.grpcTargets()
	} else {
		c.targets.mu.Lock()
		all = c.targets.all()
		c.targets.mu.Unlock()
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	if followed := c.Status().Server; followed != "" && !c.cfg.WatchDisabled {
		all = slices.DeleteFunc(all, func(a string) bool { return a == followed })
		all = slices.Insert(all, 0, followed)
	}
	if len(all) == 0 {
		return nil, &Problem{Sentence: "no Consul server is known: check --consul-addresses and this host's DNS"}
	}
	return all, nil
}

// withoutSecret makes sure that what Consul said does not quote a secret.
func withoutSecret(err error, secret string) error {
	if err == nil || secret == "" || !strings.Contains(err.Error(), secret) {
		return err
	}
	sentence := "Consul refuses, and quotes the secret that it was sent"
	if p := (*Problem)(nil); errors.As(err, &p) && !strings.Contains(p.Sentence, secret) {
		sentence = p.Sentence
	}
	var kind error
	for _, known := range []error{ErrAuthMethod, ErrBearer, ErrBinding, ErrLimited, ErrNoACLs, ErrRightsUntold} {
		if errors.Is(err, known) {
			kind = known
		}
	}
	return &Problem{Sentence: sentence, Err: kind}
}

// refusedLogin finds the sentence for what Consul says to a login. said is its
// message, by HTTP or gRPC; kind is nil for what is no refusal.
func refusedLogin(q LoginQuery, said string) error {
	var kind error
	var sentence string
	switch {
	case strings.Contains(said, "ACL support disabled"):
		kind, sentence = ErrNoACLs, "Consul has ACLs disabled, so that nobody can log in: enable them, or register the proxy without a login"
	case strings.Contains(said, "auth method") && strings.Contains(said, "not found"), strings.Contains(said, "ACL not found"):
		kind = ErrAuthMethod
		sentence = fmt.Sprintf("Consul has no auth method %q%s: check the name, and its namespace and partition", q.AuthMethod, q.where())
	case strings.Contains(said, "is expired"), strings.Contains(said, "has expired"):
		kind = ErrBearer
		sentence = fmt.Sprintf("the bearer token for the auth method %q is expired: whoever writes its file must write a new one", q.AuthMethod)
	case bearerRefused(said):
		kind = ErrBearer
		sentence = fmt.Sprintf("the auth method %q refuses the bearer token: check that its file is for this auth method, and the method's keys, issuer and audiences", q.AuthMethod)
	case strings.Contains(said, "Permission denied"):
		kind = ErrBinding
		sentence = fmt.Sprintf("no binding rule of the auth method %q gives this bearer token any right: check the rules' selectors", q.AuthMethod)
	default:
		return nil
	}
	return &Problem{Sentence: sentence, Err: fmt.Errorf("%w: %.300s", kind, said)}
}

func (q LoginQuery) where() string {
	where := ""
	if q.Namespace != "" {
		where += fmt.Sprintf(" in namespace %q", q.Namespace)
	}
	if q.Partition != "" {
		where += fmt.Sprintf(" in partition %q", q.Partition)
	}
	return where
}

// bearerRefused knows how Consul's validators say so: they have no error codes
// (internal/go-sso/oidcauth/jwt.go, agent/consul/authmethod/kubeauth/k8s.go).
// What they say when their own peer is unreachable is none of these.
func bearerRefused(said string) bool {
	for _, phrase := range []string{
		"error validating claims", "error parsing token", "error verifying token: failed to verify signature",
		"no known key successfully validated the token signature", "no issue time, notbefore, or expiration",
		"missing jwt", "failed to parse and validate JWT", "lookup failed:", "claim ", "unable to extract claim",
	} {
		if strings.Contains(said, phrase) {
			return true
		}
	}
	return false
}
