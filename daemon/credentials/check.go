package credentials

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/lictor-mesh/lictor/daemon/catalog"
	"github.com/lictor-mesh/lictor/state"
)

// trouble is a state that a proxy should not be in.
type trouble struct {
	state    state.CredentialState
	sentence string
	// unknownToken says that the servers do not know the token at all, so that
	// only another one can help.
	unknownToken bool
}

func unreadable(err error) *trouble {
	return &trouble{state: state.CredentialUnreadable, sentence: err.Error()}
}

// verdict is what asking a server has shown.
type verdict int

const (
	unclear verdict = iota // no server answered, or it limits requests
	good
	unsettled // nothing is wrong so far, and there is more to ask, which has no answer yet
	bad
)

// check asks a server, or any for the zero address, whether it knows a token. It
// is how a bounce for a token is told from one for want of room.
func (w *worker) check(ctx context.Context, server netip.AddrPort, token string, own *catalog.ProxyTLS, p state.Proxy) (verdict, *trouble) {
	_, err := w.params(ctx, server, token, own, p)
	return judge(err)
}

func (w *worker) params(ctx context.Context, server netip.AddrPort, token string, own *catalog.ProxyTLS, p state.Proxy) (catalog.Params, error) {
	return w.m.cfg.Consul.BootstrapParams(ctx, catalog.ParamsQuery{
		Server: server, Token: token, ProxyID: p.ID, Node: p.Node, Namespace: p.Namespace, Partition: p.Partition, TLS: own,
	})
}

// judge finds the state of a proxy in an answer. A proxy that Consul does not
// know yet has a token that it knows: that is looked at first.
func judge(err error) (verdict, *trouble) {
	if err == nil || errors.Is(err, catalog.ErrProxyUnknown) {
		return good, nil
	}
	if errors.Is(err, catalog.ErrToken) {
		return bad, &trouble{
			state: state.CredentialRefused, sentence: catalog.SentenceOf(err),
			unknownToken: strings.Contains(err.Error(), "ACL not found"),
		}
	}
	var (
		ca    x509.UnknownAuthorityError
		name  x509.HostnameError
		plain tls.RecordHeaderError
		alert *net.OpError
		is    state.CredentialState
	)
	switch {
	case errors.As(err, &ca):
		is = state.CredentialWrongCA
	case errors.As(err, &name):
		is = state.CredentialWrongName
	case errors.As(err, &plain):
		is = state.CredentialNoTLS
	case errors.As(err, &alert) && alert.Op == "remote error": // so crypto/tls calls an alert
		is = state.CredentialTLSRefused
	default:
		return unclear, nil
	}
	return bad, &trouble{state: is, sentence: catalog.SentenceOf(err)}
}

// verify asks any server whether the token in hand does what it is for.
func (w *worker) verify(ctx context.Context, p state.Proxy, own *catalog.ProxyTLS) time.Duration {
	what, problem := w.examine(ctx, netip.AddrPort{}, p, own)
	return w.judged(ctx, p, what, problem)
}

// onBounce asks the server that ended a connection why. Shedding, and a server
// that does not answer, are nothing of the proxy's.
func (w *worker) onBounce(ctx context.Context, server netip.AddrPort) {
	if time.Since(w.checked) < time.Second {
		return
	}
	w.checked = time.Now()
	w.mu.Lock()
	p, own, written := w.reg, w.files.TLS, w.written
	w.mu.Unlock()
	if !written {
		return
	}
	if what, problem := w.examine(ctx, server, p, own); what == bad {
		w.judged(ctx, p, what, problem)
	}
}

// judged draws the consequences, and says when to look again.
func (w *worker) judged(ctx context.Context, p state.Proxy, what verdict, problem *trouble) time.Duration {
	switch what {
	case good:
		w.checkAt, w.failed, w.login.refused = w.rights.lookAt, 0, 0
		w.login.forced = false // that was for rights, which it has now
		w.say(ctx, state.CredentialOK, "")
		return w.wait(p)
	case unsettled:
		w.login.refused = 0
		w.failed++ // that is how often it was asked
		w.say(ctx, state.CredentialOK, "")
	case unclear:
		w.failed++
	case bad:
		w.m.stats.fail(string(problem.state))
		w.failed++
		w.say(ctx, problem.state, problem.sentence)
		if w.refused(*problem) {
			w.checkAt = time.Time{} // the next token's
			return w.wait(p)
		}
	}
	w.checkAt = time.Now().Add(backoff(w.failed))
	return w.wait(p)
}
