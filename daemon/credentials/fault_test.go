package credentials

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lictor-mesh/lictor/daemon/catalog"
	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// faulty is a Consul whose answers make lictord panic.
type faulty struct {
	*servers
	now atomic.Bool
}

func (f *faulty) BootstrapParams(ctx context.Context, ask catalog.ParamsQuery) (catalog.Params, error) {
	if f.now.Load() && ask.ProxyID == "web" {
		panic("a fault")
	}
	return f.servers.BootstrapParams(ctx, ask)
}

func (f *faulty) Logout(ctx context.Context, secret, datacenter string) error {
	if f.now.Load() {
		panic("a fault")
	}
	return f.servers.Logout(ctx, secret, datacenter)
}

// A panic in what is done for one proxy is that proxy's trouble, and done again;
// the others, and the daemon, go on.
func TestAFaultOfOurs(t *testing.T) {
	testenv.Files(t)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		consul := &faulty{servers: r.consul}
		r.cfg.Consul = consul
		r.start()
		consul.now.Store(true)
		r.consul.know("static-token")
		for _, id := range []string{"web", "api"} {
			r.register(id, state.Credential{Type: state.CredentialStatic}, "static-token", "")
		}
		r.login("job")
		pass(10 * time.Second)
		r.wantState("web", state.CredentialUnreadable)
		if why := r.book.proxy("web").CredentialProblem; !strings.Contains(why, "a fault of its own") {
			t.Errorf("its trouble is %q", why)
		}
		r.wantState("api", state.CredentialOK)
		r.deregister("job")
		pass(time.Minute)
		if n := len(r.book.logins()); n != 1 {
			t.Errorf("%d tokens are to be logged out", n)
		}
		r.wantFile("web", "static-token")
		r.m.Bounced("web", netipAddr("10.0.0.1:8502")) // asks, and panics, outside a step
		pass(time.Second)

		consul.now.Store(false)
		pass(3 * time.Minute)
		r.wantState("web", state.CredentialOK)
		if n := len(r.book.logins()); n != 0 {
			t.Errorf("%d tokens were not logged out", n)
		}
		r.deregister("web")
		pass(time.Minute)
		r.wantFile("web", "")
		r.stop()
		r.noSecrets()
	})
}

// What is said of a proxy's trouble is how it is now. Trouble that changes all the
// time is not journaled each time.
func TestTheSentenceOfATrouble(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		file := r.dir + "/token"
		r.register("web", state.Credential{Type: state.CredentialFile, TokenFile: file}, "", "")
		pass(5 * time.Second)
		first := r.book.proxy("web").CredentialProblem
		r.write(file, "")
		pass(2 * time.Minute)
		r.wantState("web", state.CredentialUnreadable)
		if now := r.book.proxy("web").CredentialProblem; !strings.Contains(first, "no such file") || !strings.Contains(now, "empty") {
			t.Errorf("missing: %q, then empty: %q", first, now)
		}
		n := 0
		r.consul.set(func(s *servers) { s.tokens = map[string]bool{"static-token": true} })
		r.write(file, "static-token")
		pass(2 * time.Minute)
		r.wantState("web", state.CredentialOK)
		for began := time.Now(); time.Since(began) < 4*time.Hour; n++ {
			r.consul.set(func(s *servers) {
				s.rights = &catalog.Problem{Sentence: fmt.Sprintf("the server %d says no", n), Err: fmt.Errorf("%w: no", catalog.ErrToken)}
			})
			r.m.Bounced("web", netipAddr("10.0.0.1:8502"))
			pass(time.Minute)
		}
		noted := len(r.book.of(state.KindCredentialChanged))
		if most := notesBurst + int(4*time.Hour/notesEvery) + 5; noted > most || noted < notesBurst {
			t.Errorf("%d notes of %d troubles, at most %d wanted", noted, n, most)
		}
		r.consul.set(func(s *servers) { s.rights = nil })
		pass(2 * time.Minute)
		r.wantState("web", state.CredentialOK) // that waits for nothing
	})
}
