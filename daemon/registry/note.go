package registry

import (
	"context"
	"fmt"

	"github.com/lictor-mesh/lictor/state"
)

// Note journals what became of a credential: LoggedIn, LoggedOut or
// CredentialChanged. It is a promise: when it returns nil the fact is on the
// disk. What holds already is not journaled again. A login is noted whether its
// proxy is registered or not, as its token is to be deleted some day either way;
// how an unregistered proxy stands is nobody's concern, and success.
func (r *Registry) Note(ctx context.Context, fact state.Body) error {
	p := &promise{}
	var holds func() bool
	switch fact := fact.(type) {
	case state.LoggedIn:
		p.subject = loginSubject(fact.Accessor)
		holds = func() bool { _, known := r.s.Logins[fact.Accessor]; return known }
	case state.LoggedOut:
		p.subject = loginSubject(fact.Accessor)
		holds = func() bool { _, known := r.s.Logins[fact.Accessor]; return !known }
	case state.CredentialChanged:
		p.subject = fact.ID
		holds = func() bool {
			proxy := r.s.Proxies[fact.ID]
			return proxy == nil || proxy.CredentialState == fact.State && proxy.CredentialProblem == fact.Problem
		}
	default:
		return fmt.Errorf("note %T: it is no fact about a credential", fact)
	}
	p.decide = func(*batch) ([]state.Body, error) {
		if holds() {
			return nil, nil
		}
		return []state.Body{fact}, nil
	}
	return r.submit(ctx, p)
}

// loginSubject is no proxy's id and no server's subject.
func loginSubject(accessor string) string { return "  " + accessor }
