package credentials

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/daemon/catalog"
	"github.com/lictor-mesh/lictor/state"
)

var (
	noWrite = &catalog.Problem{Sentence: "the token lacks service:write", Err: fmt.Errorf("%w: lacks service:write", catalog.ErrToken)}
	untold  = &catalog.Problem{Sentence: "nobody tells", Err: catalog.ErrRightsUntold}
	notNow  = &catalog.Problem{Sentence: "no leader", Err: errors.New("status 500")}
)

func (r *rig) rights(err error) { r.consul.set(func(s *servers) { s.rights = err }) }

func (r *rig) wanted() (n int) {
	r.consul.set(func(s *servers) { n = s.wanted })
	return n
}

// states are those that were journaled.
func (r *rig) states() (all []state.CredentialState) {
	for _, body := range r.book.of(state.KindCredentialChanged) {
		all = append(all, body.(state.CredentialChanged).State)
	}
	return all
}

func (r *rig) wantStates(want ...state.CredentialState) {
	r.t.Helper()
	if got := r.states(); fmt.Sprint(got) != fmt.Sprint(want) {
		r.t.Errorf("journaled: %v, want %v", got, want)
	}
}

// A token that servers know, and that xDS will not have: refused, once in the
// journal, and well again soon after it was given the right.
func TestRightsMissing(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.consul.know("static-token-1")
		r.rights(noWrite)
		r.register("web", static(), "static-token-1", "")
		if f := r.files("web"); f.Token != "static-token-1" {
			t.Errorf("files %+v: the bootstrap is handed out all the same", f)
		}
		pass(10 * time.Minute)
		r.wantStates(state.CredentialRefused)
		if p := r.book.proxy("web").CredentialProblem; p != noWrite.Sentence {
			t.Errorf("problem %q", p)
		}
		if n := strings.Count(r.log.String(), "proxy has trouble"); n != 1 {
			t.Errorf("said %d times in the log", n)
		}
		if s := r.m.Stats(); s.Proxies[state.CredentialRefused] != 1 || s.Failures["refused"] == 0 {
			t.Errorf("stats %+v", s)
		}
		if n := r.wanted(); n < 8 || n > 25 {
			t.Errorf("asked %d times in ten minutes", n)
		}
		r.rights(nil)
		pass(2 * retryMost)
		r.wantStates(state.CredentialRefused, state.CredentialOK)
	})
}

// What is not told is no problem, and asked again while it may be.
func TestRightsNotTold(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.consul.know("static-token-1")
		r.rights(untold)
		r.register("never", static(), "static-token-1", "")
		pass(time.Hour)
		if n := r.wanted(); n != 1 {
			t.Errorf("asked %d times what nobody tells", n)
		}
		r.rights(notNow)
		r.register("later", static(), "static-token-1", "")
		pass(10 * time.Minute)
		r.wantStates(state.CredentialOK, state.CredentialOK)
		r.rights(noWrite)
		pass(2 * retryMost)
		r.wantState("later", state.CredentialRefused)
		r.wantState("never", state.CredentialOK)

		r.rights(notNow) // and nobody says that it is otherwise
		pass(10 * time.Minute)
		r.wantStates(state.CredentialOK, state.CredentialOK, state.CredentialRefused)
		r.consul.know("static-token-2")
		r.register("later", static(), "static-token-2", "") // of which nothing bad is known
		pass(10 * time.Second)
		r.wantStates(state.CredentialOK, state.CredentialOK, state.CredentialRefused, state.CredentialOK)
	})
}

// A proxy that Consul does not know yet has no service that could be asked for.
func TestRightsOnceKnown(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.consul.know("static-token-1")
		r.rights(noWrite)
		r.consul.set(func(s *servers) { s.params = &catalog.Problem{Sentence: "not yet", Err: catalog.ErrProxyUnknown} })
		r.register("web", static(), "static-token-1", "")
		pass(10 * time.Minute)
		r.wantStates(state.CredentialOK)
		if n := r.wanted(); n != 0 {
			t.Errorf("asked %d times", n)
		}
		r.consul.set(func(s *servers) { s.params = nil })
		pass(2 * retryMost)
		r.wantStates(state.CredentialOK, state.CredentialRefused)
	})
}

// A right may be taken away later, of which no connection tells.
func TestRightsTakenAway(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.consul.know("static-token-1")
		r.register("web", static(), "static-token-1", "")
		pass(time.Minute)
		before := r.wanted()
		for range 60 { // while servers shed, they are spared
			r.m.Bounced("web", netip.MustParseAddrPort("10.0.0.1:8502"))
			pass(500 * time.Millisecond)
		}
		if n := r.wanted() - before; n > 2 {
			t.Errorf("asked %d times for bounces of half a minute", n)
		}
		r.rights(noWrite)
		pass(2 * rightsEvery)
		r.wantStates(state.CredentialOK, state.CredentialRefused)
		if n := r.wanted() - before; n > 40 {
			t.Errorf("asked %d times", n)
		}
	})
}

// What a broken disk kept from being journaled is journaled soon after it works,
// not with the next look at the rights.
func TestRightsJournaledSoon(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.consul.know("static-token-1")
		r.book.breakDisk(errors.New("disk full"))
		r.register("web", static(), "static-token-1", "")
		pass(30 * time.Second)
		r.wantStates()
		r.book.breakDisk(nil)
		pass(30 * time.Second)
		r.wantStates(state.CredentialOK)
	})
}
