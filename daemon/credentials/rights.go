package credentials

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/lictor-mesh/lictor/daemon/catalog"
	"github.com/lictor-mesh/lictor/state"
)

// rights is what was told of a token's rights over its proxy's service.
type rights struct {
	token   string    // that it is about
	service string    // that they were asked for
	lacks   *trouble  // nil for nothing
	told    time.Time // zero: never
	lookAt  time.Time // zero: there is nothing to look at again
}

// examine is check, and what a server does not look at by itself: whether xDS
// will have the token. Consul tells no proxy that it will not.
//
// Only a plain no counts. What is not told is no problem: a good token must not
// be called a bad one because a port is closed. It is asked again while there
// may be an answer.
func (w *worker) examine(ctx context.Context, server netip.AddrPort, p state.Proxy, own *catalog.ProxyTLS) (verdict, *trouble) {
	params, err := w.params(ctx, server, w.token, own, p)
	if errors.Is(err, catalog.ErrProxyUnknown) {
		return unsettled, nil // the service is not known, so its rights are not
	}
	if what, problem := judge(err); what != good {
		return what, problem
	}
	r := &w.rights
	if r.token != w.token || r.service != params.Service {
		*r = rights{token: w.token, service: params.Service}
	}
	if server.IsValid() && r.lacks == nil && time.Since(r.told) < retryMost {
		return good, nil // servers that shed streams need no more questions
	}
	err = w.m.cfg.Consul.Rights(ctx, catalog.RightsQuery{
		Token: w.token, ProxyID: p.ID, Node: p.Node, Service: params.Service, Namespace: params.Namespace, Partition: params.Partition,
	})
	switch {
	case err == nil:
		r.lacks, r.told, r.lookAt = nil, time.Now(), time.Now().Add(jitter(rightsEvery))
		return good, nil
	case errors.Is(err, catalog.ErrToken):
		r.lacks, r.told, r.lookAt = &trouble{state: state.CredentialRefused, sentence: catalog.SentenceOf(err)}, time.Now(), time.Time{}
		return bad, r.lacks
	case errors.Is(err, catalog.ErrRightsUntold):
		*r = rights{token: r.token, service: r.service}
		return good, nil
	case r.lacks != nil:
		return unclear, nil // it did a moment ago, and nobody says otherwise
	}
	return unsettled, nil
}
