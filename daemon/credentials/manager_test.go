package credentials

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/daemon/catalog"
	"github.com/lictor-mesh/lictor/state"
)

func static() state.Credential { return state.Credential{Type: state.CredentialStatic} }

// A token that came with the registration: kept, written, replaced.
func TestStatic(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.consul.know("static-token-1", "static-token-2")
		r.register("web", static(), "static-token-1", "")
		if f := r.files("web"); f.Token != "static-token-1" || f.Dir != r.base.Path("web") || f.CA || f.Client {
			t.Errorf("files %+v", f)
		}
		pass(5 * time.Second)
		r.wantFile("web", "static-token-1")
		r.wantState("web", state.CredentialOK)
		if n := r.streams.count(); n != 0 {
			t.Errorf("streams closed %d times for the first token", n)
		}

		r.register("web", static(), "static-token-2", "")
		if f := r.files("web"); f.Token != "static-token-2" {
			t.Errorf("files of the former registration: %+v", f)
		}
		pass(time.Second)
		r.wantFile("web", "static-token-2")
		before := r.streams.count()
		pass(settle * 3 / 2)
		if n := r.streams.count() - before; n != 1 {
			t.Errorf("streams closed %d times for the new token", n)
		}
		pass(time.Hour)
		if n := len(r.book.of(state.KindCredentialChanged)); n != 1 {
			t.Errorf("state journaled %d times", n)
		}
		r.deregister("web")
		pass(time.Second)
		if names, err := r.cfg.Store.List(); len(names) != 0 || err != nil {
			t.Errorf("left sealed: %q, %v", names, err)
		}
		if _, err := os.Stat(r.base.Path("web")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("left: %v", err)
		}
	})
}

// Who may not register a proxy changes nothing by trying.
func TestPreparedOnly(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.register("web", static(), "static-token-1", "")
		c := static()
		attempt, err := r.m.Prepare("web", &c, "static-token-of-another", "")
		if err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		r.wantFile("web", "static-token-1")
		if err := attempt.Abort(); err != nil {
			t.Fatal(err)
		}
		if names, err := r.cfg.Store.List(); !slices.Equal(names, []string{"given-web"}) || err != nil {
			t.Errorf("sealed: %q, %v", names, err)
		}
	})
}

// A look at the registrations between a promise and its secret is no trouble.
func TestSecretArrives(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.consul.know("static-token")
		c := static()
		prepared, err := r.m.Prepare("web", &c, "static-token", "")
		if err != nil {
			t.Fatal(err)
		}
		r.book.do(state.ProxyRegistered{Proxy: state.Registration{ID: "web", Node: "n", Credential: &c}})
		pass(time.Minute)
		if n := len(r.book.of(state.KindCredentialChanged)); n != 0 {
			t.Errorf("state journaled %d times", n)
		}
		if err := prepared.Commit(); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		r.wantFile("web", "static-token")
		r.wantState("web", state.CredentialOK)
		if n := len(r.book.of(state.KindCredentialChanged)); n != 1 {
			t.Errorf("state journaled %d times", n)
		}
	})
}

// A crash between the seal and the answer: the registration was promised, or it
// was not.
func TestCrashWhilePreparing(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		c := static()
		for _, id := range []string{"promised", "refused"} {
			if _, err := r.m.Prepare(id, &c, "static-token-of-"+id, ""); err != nil {
				t.Fatal(err)
			}
		}
		r.book.do(state.ProxyRegistered{Proxy: state.Registration{ID: "promised", Node: "n", Credential: &c}})
		r.stop()
		r.start()
		r.files("promised")
		r.wantFile("promised", "static-token-of-promised")
		if names, err := r.cfg.Store.List(); !slices.Equal(names, []string{"given-promised"}) || err != nil {
			t.Errorf("sealed: %q, %v", names, err)
		}
	})
}

// A file as Kubernetes projects it: a link to a link that is replaced.
func TestFile(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		dir := filepath.Join(r.dir, "projected")
		project := func(version, token string) {
			t.Helper()
			err := errors.Join(os.MkdirAll(filepath.Join(dir, version), 0o755),
				os.WriteFile(filepath.Join(dir, version, "token"), []byte(token), 0o600),
				os.Symlink(version, filepath.Join(dir, "..new")), os.Rename(filepath.Join(dir, "..new"), filepath.Join(dir, "..data")))
			if err != nil {
				t.Fatal(err)
			}
		}
		project("..1", "static-token-1\n")
		if err := os.Symlink("..data/token", filepath.Join(dir, "token")); err != nil {
			t.Fatal(err)
		}
		r.consul.know("static-token-1", "static-token-2")
		r.register("web", state.Credential{Type: state.CredentialFile, TokenFile: filepath.Join(dir, "token")}, "", "")
		r.files("web")
		r.wantFile("web", "static-token-1")
		project("..2", "static-token-2")
		before := r.streams.count()
		pass(pollEvery + settle + time.Second)
		r.wantFile("web", "static-token-2")
		if n := r.streams.count(); n <= before {
			t.Error("streams with the old token were not closed")
		}
		r.wantState("web", state.CredentialOK)

		// Gone for a while: what was there stays in force, and is said.
		if err := os.Remove(filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
		pass(10 * time.Second)
		r.wantState("web", state.CredentialUnreadable)
		r.wantFile("web", "static-token-2")
		project("..3", "static-token-2")
		pass(retryMost * 2)
		r.wantState("web", state.CredentialOK)
		if n := len(r.book.of(state.KindCredentialChanged)); n != 3 {
			t.Errorf("journaled %d changes: %+v", n, r.book.of(state.KindCredentialChanged))
		}
	})
}

func TestNoToken(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.register("web", state.Credential{}, "", "")
		if f := r.files("web"); f.Token != "" {
			t.Errorf("files %+v", f)
		}
		pass(time.Second)
		r.wantFile("web", "")
		r.wantState("web", state.CredentialRefused) // Consul wants one
		r.consul.set(func(s *servers) { s.tokens[""] = true })
		pass(2 * retryMost)
		r.wantState("web", state.CredentialOK)
	})
}

// Renewed at two thirds of its life; the former one is deleted only after the
// streams that began with it were closed.
func TestRenewal(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.consul.life = time.Hour
		r.login("web")
		r.files("web")
		pass(time.Second)
		first := r.consul.logins()[0]
		if m := first.query.Meta; m["lictor-host"] != "host-1" || m["lictor-proxy"] != "web" || m["pod"] != "web" || first.query.BearerToken != "bearer-of-web" {
			t.Errorf("login %+v", m)
		}
		r.wantFile("web", first.secret)
		r.write(filepath.Join(r.dir, "bearer-web"), "bearer-of-web-2\n")
		pass(41 * time.Minute)
		issued := r.consul.logins()
		if len(issued) != 2 {
			t.Fatalf("%d logins", len(issued))
		}
		if at := issued[1].at.Sub(first.at); at < 36*time.Minute || at > 41*time.Minute {
			t.Errorf("renewed after %v", at)
		}
		if issued[1].query.BearerToken != "bearer-of-web-2" {
			t.Error("the bearer was not read anew")
		}
		r.wantFile("web", issued[1].secret)
		pass(time.Minute)
		if out := r.consul.out(); !slices.Equal(out, []string{first.secret}) {
			t.Errorf("logged out %q", out)
		}
		pass(5 * time.Hour)
		r.wantState("web", state.CredentialOK)
		if n := len(r.book.of(state.KindCredentialChanged)); n != 1 {
			t.Errorf("journaled %d changes", n)
		}
		in, out := len(r.book.of(state.KindLoggedIn)), len(r.book.of(state.KindLoggedOut))
		if in != out+1 || in != len(r.consul.logins()) || len(r.consul.left()) != 1 {
			t.Errorf("%d logins, %d logouts journaled; %d tokens left", in, out, len(r.consul.left()))
		}
		if s := r.m.Stats(); s.Logins != uint64(in) || s.Logouts != uint64(out) || s.Proxies[state.CredentialOK] != 1 || s.Leaving != 0 {
			t.Errorf("stats %+v", s)
		}
	})
}

// The order around a swap: new token in the file, streams closed, old one out.
func TestSwapOrder(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.consul.life = time.Hour
		r.login("web")
		r.files("web")
		pass(30 * time.Minute)
		closedBefore := r.streams.count()
		for range 3600 {
			pass(time.Second)
			second := r.consul.logins()
			if len(second) < 2 {
				continue
			}
			swapped := r.inFile("web") == second[1].secret
			reopened := r.streams.count() > closedBefore
			loggedOut := len(r.consul.out()) > 0
			if reopened && !swapped || loggedOut && !reopened {
				t.Fatalf("swapped %v, reopened %v, logged out %v", swapped, reopened, loggedOut)
			}
			if loggedOut {
				return
			}
		}
		t.Error("the old token was never logged out")
	})
}

// A bounce for the token's fault leads to a new login at once; shedding to
// nothing.
func TestBounced(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.login("web")
		r.files("web")
		pass(10 * time.Second)
		at := netipAddr("10.0.0.1:8502")
		r.m.Bounced("web", at)
		r.m.Bounced("nobody", at)
		pass(10 * time.Second)
		if n := len(r.consul.logins()); n != 1 {
			t.Fatalf("shedding led to %d logins", n)
		}
		if !slices.Contains(r.consul.asked, at) {
			t.Error("that server was not asked")
		}
		r.consul.set(func(s *servers) { s.params = &catalog.Problem{Sentence: "busy", Err: catalog.ErrBusy} })
		r.m.Bounced("web", at)
		pass(10 * time.Second)
		r.wantState("web", state.CredentialOK)
		r.consul.set(func(s *servers) { s.params = nil })

		r.consul.revoke(r.consul.logins()[0].secret)
		r.m.Bounced("web", at)
		pass(time.Second)
		if n := len(r.consul.logins()); n != 2 {
			t.Fatalf("%d logins a second after the bounce", n)
		}
		r.wantFile("web", r.consul.logins()[1].secret)
		pass(time.Minute)
		r.wantState("web", state.CredentialOK)
		changes := r.book.of(state.KindCredentialChanged)
		if len(changes) != 3 || changes[1].(state.CredentialChanged).State != state.CredentialRefused {
			t.Errorf("journaled %+v", changes)
		}
		if n := len(r.consul.left()); n != 1 {
			t.Errorf("%d tokens left", n)
		}
	})
}

// A bearer that is refused: said once, and mended as soon as its file is.
func TestBadBearer(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.consul.refuse = &catalog.Problem{Sentence: "the bearer token is expired", Err: catalog.ErrBearer}
		file := r.login("web")
		if _, err := r.m.Ready(t.Context(), "web"); err == nil || err.Error() != "the bearer token is expired" {
			t.Errorf("not ready: %v", err)
		}
		pass(10 * time.Minute)
		r.wantState("web", state.CredentialBadBearer)
		if n := len(r.book.of(state.KindCredentialChanged)); n != 1 {
			t.Errorf("journaled %d times", n)
		}
		r.consul.set(func(s *servers) { s.refuse = nil })
		r.write(file, "bearer-of-web-anew")
		pass(3 * time.Second)
		r.wantState("web", state.CredentialOK)
		r.wantFile("web", "secret-1-of-a-login")
		if f := r.m.Stats().Failures; f[ReasonBearer] < 5 || f[ReasonBearer] > 30 {
			t.Errorf("failures %v", f)
		}
	})
}

// While the token in hand is valid, a renewal that fails is no trouble yet; when
// it ends, it is, and the file keeps what it has.
func TestRenewalFails(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.consul.life = time.Hour
		file := r.login("web")
		r.files("web")
		pass(time.Minute)
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		pass(55 * time.Minute)
		r.wantState("web", state.CredentialOK)
		if !strings.Contains(r.log.String(), "token cannot be renewed yet") {
			t.Error("it is not said")
		}
		pass(10 * time.Minute)
		r.wantState("web", state.CredentialUnreadable)
		r.wantFile("web", "secret-1-of-a-login")
		r.write(file, "bearer-of-web")
		pass(5 * time.Second)
		r.wantState("web", state.CredentialOK)
		r.wantFile("web", "secret-2-of-a-login")
	})
}

// A token that may not do what it should is not exchanged for its like again and
// again.
func TestNoRights(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.consul.params = &catalog.Problem{Sentence: "may not read its service", Err: fmt.Errorf("%w: Permission denied", catalog.ErrToken)}
		r.login("web")
		r.files("web")
		pass(time.Hour)
		r.wantState("web", state.CredentialRefused)
		if n := len(r.consul.logins()); n < 2 || n > 10 {
			t.Errorf("%d logins in an hour", n)
		}
		if n := len(r.book.of(state.KindCredentialChanged)); n != 1 {
			t.Errorf("journaled %d times", n)
		}
		r.consul.set(func(s *servers) { s.params = nil })
		pass(2 * time.Minute)
		r.wantState("web", state.CredentialOK)
		n := len(r.consul.logins())
		pass(time.Hour)
		if again := len(r.consul.logins()) - n; again > 0 || len(r.consul.left()) != 1 {
			t.Errorf("%d more logins though it is well, %d tokens left", again, len(r.consul.left()))
		}
	})
}

func TestDeregistered(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.login("web")
		r.login("api")
		r.files("web")
		r.files("api")
		r.consul.set(func(s *servers) { s.logouts = errors.New("no server answers") })
		r.deregister("web")
		pass(5 * time.Second)
		if r.m.Stats().Leaving != 1 || len(r.book.of(state.KindLoggedOut)) != 0 {
			t.Errorf("stats %+v", r.m.Stats())
		}
		r.consul.set(func(s *servers) { s.logouts = nil })
		pass(2 * retryMost)
		if out := r.consul.out(); len(out) != 1 || len(r.consul.left()) != 1 {
			t.Errorf("logged out %q, %d left", out, len(r.consul.left()))
		}
		if names, err := r.cfg.Store.List(); len(names) != 1 || err != nil {
			t.Errorf("sealed: %q, %v", names, err)
		}
		if _, err := os.Stat(r.base.Path("web")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("left: %v", err)
		}
		r.wantState("api", state.CredentialOK)
	})
}

// The same id comes back at once, with the same secret.
func TestRegisteredAgain(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.consul.know("static-token")
		r.register("web", static(), "static-token", "")
		r.files("web")
		for range 20 {
			r.deregister("web")
			r.register("web", static(), "static-token", "")
		}
		pass(time.Minute)
		r.files("web")
		r.wantFile("web", "static-token")
		r.wantState("web", state.CredentialOK)
	})
}

func TestReasonsAreKnown(t *testing.T) {
	m := New(Config{})
	for _, err := range []error{catalog.ErrBearer, catalog.ErrAuthMethod, catalog.ErrBinding, catalog.ErrNoACLs, catalog.ErrLimited, errors.New("x")} {
		m.explainLogin(err)
	}
	for reason := range m.Stats().Failures {
		if !slices.Contains(Reasons, reason) {
			t.Errorf("%s is not listed", reason)
		}
	}
	if n := len(m.Stats().Failures); n != 6 {
		t.Errorf("%d reasons", n)
	}
}
