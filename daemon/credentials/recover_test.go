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
	"github.com/lictor-mesh/lictor/daemon/seal"
	"github.com/lictor-mesh/lictor/state"
)

// A daemon that starts again goes on with the token it had, and nothing is done
// to streams.
func TestStartedAgain(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.consul.life = time.Hour
		r.login("web")
		r.files("web")
		pass(20 * time.Minute)
		closedBefore := r.streams.count()
		for range 3 {
			r.stop()
			r.start()
			r.files("web")
			pass(time.Minute)
		}
		if n := len(r.consul.logins()); n != 1 || r.streams.count() != closedBefore {
			t.Errorf("%d logins, streams closed %d times", n, r.streams.count()-closedBefore)
		}
		r.wantFile("web", "secret-1-of-a-login")
		pass(25 * time.Minute) // its time goes on
		if n := len(r.consul.logins()); n != 2 {
			t.Errorf("%d logins", n)
		}
		pass(time.Minute)
		if len(r.consul.left()) != 1 {
			t.Errorf("%d tokens", len(r.consul.left()))
		}
	})
}

// What a crash or a reboot left: tokens of proxies that are gone, one that was
// sealed and not journaled, one that was renewed and not yet logged out.
func TestLeftByACrash(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.login("gone")
		r.login("stays")
		r.files("gone")
		r.files("stays")
		pass(time.Second)
		r.stop()
		r.book.do(state.ProxyDeregistered{ID: "gone", Reason: state.LeaveCatalogGone})
		orphan := `{"proxy":"gone","secret_id":"secret-of-an-orphan","accessor":"orphan","auth_method":"mesh"}`
		former := `{"proxy":"stays","secret_id":"secret-former","accessor":"former","auth_method":"mesh","issued":"2000-01-01T00:00:00Z"}`
		if err := errors.Join(r.cfg.Store.Put("login-orphan", []byte(orphan)), r.cfg.Store.Put("login-former", []byte(former))); err != nil {
			t.Fatal(err)
		}
		r.consul.know("secret-of-an-orphan", "secret-former")
		r.book.do(state.LoggedIn{ID: "stays", Accessor: "former", AuthMethod: "mesh", Key: "login-former"})
		r.write(filepath.Join(r.base.Path("gone"), "left"), "over")

		r.start()
		pass(time.Minute)
		if len(r.consul.left()) != 1 || len(r.consul.logins()) != 2 {
			t.Errorf("tokens left: %v", r.consul.left())
		}
		r.files("stays")
		if token := r.inFile("stays"); !slices.Contains(r.consul.left(), token) {
			t.Errorf("in use: %s; left: %v", token, r.consul.left())
		}
		if names, err := r.cfg.Store.List(); len(names) != 1 || err != nil {
			t.Errorf("sealed: %q, %v", names, err)
		}
		if _, err := os.Stat(r.base.Path("gone")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("left: %v", err)
		}
		if n := len(r.book.logins()); n != 1 {
			t.Errorf("%d logins in the journal", n)
		}
	})
}

// A daemon that ends between the swap of a token and the closing of streams: the
// next one closes them, before the former token goes.
func TestEndedWhileSwapping(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.consul.life = time.Hour
		r.login("web")
		r.consul.know("static-token-1", "static-token-2")
		r.register("api", static(), "static-token-1", "")
		r.files("web")
		r.files("api")
		for len(r.consul.logins()) < 2 {
			pass(500 * time.Millisecond)
		}
		r.register("api", static(), "static-token-2", "")
		pass(200 * time.Millisecond)
		if r.streams.count() != 0 {
			t.Fatal("too late")
		}
		r.stop()
		pass(time.Minute)
		r.start()
		for range 20 {
			pass(time.Second)
			if len(r.consul.out()) > 0 && r.streams.count() == 0 {
				t.Fatal("the former token went before its streams")
			}
		}
		if r.streams.count() != 2 || len(r.consul.out()) != 1 {
			t.Errorf("streams of %q closed, %q logged out", r.streams.times, r.consul.out())
		}
		r.stop()
		r.start()
		pass(time.Minute)
		if r.streams.count() != 2 {
			t.Errorf("streams of %q closed", r.streams.times)
		}
	})
}

// sweeping is a store that does something when it is about to be listed.
type sweeping struct {
	Store
	first func()
}

func (s sweeping) List() ([]string, error) {
	s.first()
	return s.Store.List()
}

// What is committed while a start sweeps what is sealed, stays.
func TestCommittedWhileSweeping(t *testing.T) {
	r := newRig(t)
	store, err := seal.Open(r.dir, seal.Options{MachineID: "m"})
	if err != nil {
		t.Fatal(err)
	}
	var m *Manager
	committed := make(chan error, 1)
	r.cfg.Store = sweeping{store, func() {
		c := static()
		prepared, err := m.Prepare("web", &c, "static-token", "")
		if err != nil {
			t.Fatal(err)
		}
		r.book.do(state.ProxyRegistered{Proxy: state.Registration{ID: "web", Node: "n", Credential: &c}})
		go func() { committed <- prepared.Commit() }()
		select {
		case err := <-committed:
			committed <- err
		case <-time.After(100 * time.Millisecond): // it waits for the sweep
		}
	}}
	m = New(r.cfg)
	if err := errors.Join(m.start(t.Context()), <-committed); err != nil {
		t.Fatal(err)
	}
	if g, err := m.givenTo("web"); g.Token != "static-token" {
		t.Errorf("swept away: %v", err)
	}
}

// What is prepared while a start sweeps what is sealed is not what a crash left.
func TestPreparedWhileSweeping(t *testing.T) {
	r := newRig(t)
	store, err := seal.Open(r.dir, seal.Options{MachineID: "m"})
	if err != nil {
		t.Fatal(err)
	}
	var m *Manager
	r.cfg.Store = sweeping{store, func() {
		c := static()
		if _, err := m.Prepare("web", &c, "static-token", ""); err != nil {
			t.Fatal(err)
		}
	}}
	m = New(r.cfg)
	if err := m.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if names, err := store.List(); err != nil || len(names) != 1 || !strings.HasPrefix(names[0], pendingPrefix) {
		t.Errorf("sealed: %q, %v", names, err)
	}
}

// What came with a registration goes when another one does without it.
func TestNoLongerGiven(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.register("web", static(), "static-token-1", "")
		r.files("web")
		file := filepath.Join(r.dir, "token")
		r.write(file, "static-token-2")
		r.register("web", state.Credential{Type: state.CredentialFile, TokenFile: file}, "", "")
		r.files("web")
		r.wantFile("web", "static-token-2")
		if names, err := r.cfg.Store.List(); len(names) != 0 || err != nil {
			t.Errorf("sealed: %q, %v", names, err)
		}
	})
}

// A sealed file is damaged: the proxy gets a new token; the old one is named for
// somebody to delete, until its time is over.
func TestDamagedSeal(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.consul.life = time.Hour
		r.login("web")
		r.files("web")
		r.stop()
		r.write(filepath.Join(r.dir, "sealed", "login-accessor-1"), "damaged")
		r.start()
		r.files("web")
		r.wantFile("web", "secret-2-of-a-login")
		pass(30 * time.Minute)
		if r.m.Stats().Leaving != 1 {
			t.Errorf("stats %+v", r.m.Stats())
		}
		pass(40 * time.Minute)
		if _, there := r.book.logins()["accessor-1"]; there {
			t.Error("a token whose time is over is still to be logged out")
		}
	})
}

// The process has ended and nobody took its place yet: what there is stays, and
// nobody is logged out.
func TestProcessGone(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.login("web")
		r.files("web")
		dead := *me(t)
		dead.Start++
		r.book.do(state.ProxyChanged{ID: "web", Process: &dead})
		pass(time.Minute)
		r.stop()
		r.start()
		pass(time.Minute)
		if len(r.consul.out()) != 0 || len(r.consul.logins()) != 1 {
			t.Errorf("logged out %q, %d logins", r.consul.out(), len(r.consul.logins()))
		}
		if _, err := r.m.Ready(t.Context(), "web"); err == nil {
			t.Error("files of a process that has ended")
		}
		r.book.do(state.ProxyChanged{ID: "web", Process: me(t)})
		r.files("web")
		r.wantFile("web", "secret-1-of-a-login")
		if len(r.consul.logins()) != 1 {
			t.Errorf("%d logins", len(r.consul.logins()))
		}
	})
}

// A disk that takes nothing: a token that ends by itself is used, and kept when
// it can be; one that would be there for ever is deleted again.
func TestDiskRefuses(t *testing.T) {
	for name, life := range map[string]time.Duration{"ends": time.Hour, "for ever": 0} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				r.consul.life = life
				r.login("web")
				r.book.breakDisk(errors.New("no space left on device"))
				_, err := r.m.Ready(t.Context(), "web")
				if (err == nil) != (life > 0) {
					t.Errorf("ready: %v", err)
				}
				pass(time.Minute)
				if life == 0 && len(r.consul.left()) != 0 {
					t.Errorf("left: %v", r.consul.left())
				}
				r.book.breakDisk(nil)
				pass(2 * retryMost)
				r.wantState("web", state.CredentialOK)
				if len(r.book.logins()) != 1 || len(r.consul.left()) != 1 {
					t.Errorf("journaled %d, tokens %d", len(r.book.logins()), len(r.consul.left()))
				}
				if r.m.Stats().Failures[ReasonDisk] == 0 {
					t.Error("not counted")
				}
			})
		})
	}
}

// Many proxies lose their tokens at once, as when Consul was restored from a
// backup: they do not stampede, and all get one.
func TestStampede(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		const n = 60
		for i := range n {
			r.login(fmt.Sprintf("web-%d", i))
		}
		pass(20 * time.Second)
		if len(r.consul.logins()) != n {
			t.Fatalf("%d logins", len(r.consul.logins()))
		}
		r.consul.set(func(s *servers) { clear(s.tokens) })
		began := time.Now()
		for i := range n {
			r.m.Bounced(fmt.Sprintf("web-%d", i), netipAddr("10.0.0.1:8502"))
		}
		pass(time.Minute)
		again := r.consul.logins()[n:]
		if len(again) != n {
			t.Fatalf("%d logins anew", len(again))
		}
		for i, l := range again {
			if i >= 40 && l.at.Sub(again[i-40].at) < time.Second {
				t.Fatalf("40 logins within %v", l.at.Sub(again[i-40].at))
			}
		}
		t.Logf("%d proxies had a new token after %v", n, again[n-1].at.Sub(began))
		for i := range n {
			if id := fmt.Sprintf("web-%d", i); r.book.proxy(id).CredentialState != state.CredentialOK {
				r.wantState(id, state.CredentialOK)
			}
		}
	})
}

// Over gRPC nobody tells when a token ends: it is found out once, and the next
// are renewed in time.
func TestExpiryLearned(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.consul.life, r.consul.silent = time.Hour, true
		r.login("web")
		r.files("web")
		pass(59 * time.Minute)
		if len(r.consul.logins()) != 1 {
			t.Fatalf("%d logins", len(r.consul.logins()))
		}
		pass(3 * time.Minute)
		if len(r.consul.logins()) != 2 {
			t.Fatalf("%d logins after its end", len(r.consul.logins()))
		}
		r.wantState("web", state.CredentialOK)
		refusals := len(r.book.of(state.KindCredentialChanged))
		pass(42 * time.Minute)
		if len(r.consul.logins()) != 3 {
			t.Errorf("%d logins: the second token was not renewed in time", len(r.consul.logins()))
		}
		if n := len(r.book.of(state.KindCredentialChanged)); n != refusals {
			t.Error("the second token was refused")
		}
	})
}

// The auth method of a proxy is changed: its former token goes.
func TestOtherMethod(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		file := r.login("web")
		r.files("web")
		r.book.do(state.ProxyChanged{ID: "web", Credential: &state.Credential{
			Type: state.CredentialLogin, Login: &state.Login{AuthMethod: "other", BearerTokenFile: file},
		}})
		pass(time.Minute)
		if l := r.consul.logins(); len(l) != 2 || l[1].query.AuthMethod != "other" || len(r.consul.left()) != 1 {
			t.Fatalf("%d logins, %d tokens", len(l), len(r.consul.left()))
		}
		r.wantFile("web", "secret-2-of-a-login")
		r.book.do(state.ProxyChanged{ID: "web", Credential: &state.Credential{}})
		pass(time.Minute)
		r.wantFile("web", "")
		if len(r.consul.left()) != 0 {
			t.Errorf("%d tokens left", len(r.consul.left()))
		}
	})
}

// A bearer that came with the registration is kept sealed for the next login.
func TestGivenBearer(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.consul.life = time.Hour
		c := state.Credential{Type: state.CredentialLogin, Login: &state.Login{AuthMethod: "mesh"}}
		r.register("web", c, "", "bearer-of-web")
		r.files("web")
		r.stop()
		r.start()
		pass(45 * time.Minute)
		l := r.consul.logins()
		if len(l) != 2 || l[1].query.BearerToken != "bearer-of-web" {
			t.Fatalf("logins %+v", l)
		}
		r.consul.set(func(s *servers) { s.refuse = &catalog.Problem{Sentence: "expired", Err: catalog.ErrBearer} })
		pass(2 * time.Hour)
		r.wantState("web", state.CredentialBadBearer)
		r.consul.set(func(s *servers) { s.refuse = nil })
		r.register("web", c, "", "bearer-of-web-anew")
		r.files("web")
		pass(10 * time.Second)
		r.wantState("web", state.CredentialOK)
	})
}

// Consul limits requests: everybody waits a little.
func TestLimited(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.consul.refuse = &catalog.Problem{Sentence: "limits requests", Err: catalog.ErrLimited}
		for i := range 10 {
			r.login(fmt.Sprintf("web-%d", i))
		}
		pass(10 * time.Second)
		if n := r.m.Stats().Failures[ReasonLimited]; n > 60 {
			t.Errorf("%d attempts", n)
		}
		r.consul.set(func(s *servers) { s.refuse = nil })
		pass(2 * retryMost)
		if n := r.m.Stats().Proxies[state.CredentialOK]; n != 10 {
			t.Errorf("stats %+v", r.m.Stats())
		}
	})
}
