package mesh

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/tools/testbed/pki"
)

// pids are the processes that a rotation must not cost.
func (s *secure) pids() map[string]int {
	pids := map[string]int{"lictord": s.lictor.Process().PID()}
	for _, server := range s.cluster.Servers() {
		pids[server.Name] = server.Process().PID()
	}
	for _, m := range s.members() {
		pids[m.envoy.Name] = m.pid
	}
	return pids
}

// unharmed fails the test when one of the processes of before has ended or is
// another one.
func (s *secure) unharmed(before map[string]int) {
	s.Helper()
	for name, pid := range s.pids() {
		if before[name] != pid {
			s.Errorf("%s was restarted", name)
		}
	}
	for _, m := range s.members() {
		s.sameProcess(m)
	}
	if !s.lictor.Process().Alive() {
		s.Error("lictord has ended")
	}
}

// rotateCA replaces the CA and every certificate by it in the order in which it
// is done in production: trust both, show the new one, trust the new one alone.
func (s *secure) rotateCA() {
	before := s.pids()
	old := s.cluster.CA()
	next, err := pki.NewCA("testbed CA 2")
	s.must(err)
	s.must(s.lictor.TLS.Trust(old, next))
	s.must(s.cluster.Trust(s.ctx, old, next))
	s.everyEnvoyHas(next)

	s.must(s.cluster.Reissue(s.ctx, next))
	leaf, err := next.Issue(pki.Request{Name: "lictor." + s.host.Name})
	s.must(err)
	s.must(s.lictor.TLS.Show(leaf))
	s.everyFile("a proxy has the new client certificate", leaf.Cert)

	s.must(s.lictor.TLS.Trust(next))
	s.everyFile("a proxy trusts the new CA alone", next.PEM())
	s.must(s.cluster.Trust(s.ctx, next))

	s.change(15*time.Second, s.members()...)
	s.reconnect() // streams that were there before the rotation live on; new ones must come up as well
	s.change(15*time.Second, s.members()...)
	s.answers(s.web, s.api)
	s.must(s.lictor.WaitReady(s.ctx))
	s.unharmed(before)
}

// everyEnvoyHas waits until each proxy's directory has that CA in it.
func (s *secure) everyEnvoyHas(ca *pki.CA) {
	s.Helper()
	s.everyFile("a proxy trusts the new CA too", ca.PEM())
}

// everyFile waits until a file with such content is in each proxy's directory of
// secrets.
func (s *secure) everyFile(what string, content []byte) {
	s.Helper()
	for _, m := range s.members() {
		s.eventually(20*time.Second, func() error {
			return holds(s.secretsDir(m), what, content)
		})
	}
}

// secretsDir is where the daemon writes what the member's Envoy reads.
func (s *secure) secretsDir(m *member) string {
	s.Helper()
	dir, err := m.envoy.Directory()
	s.must(err)
	return dir
}

func holds(dir, what string, content []byte) error {
	found := errors.New("not so: " + what)
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		text = bytes.ReplaceAll(text, []byte(`\n`), []byte("\n")) // as JSON has them
		if err == nil && bytes.Contains(text, bytes.TrimSpace(content)) {
			found = nil
		}
		return err
	})
	return errors.Join(found, err)
}

// reconnect makes every Envoy open a new stream, once at each server: they are
// drained in turn.
func (s *secure) reconnect() {
	s.Helper()
	for _, server := range s.cluster.Servers() {
		_, err := s.lictor.CLI(s.ctx, s.host.Node, "drain", server.Name)
		s.must(err)
		s.eventually(15*time.Second, func() error {
			for _, m := range s.members() {
				streams, err := s.cluster.XDSServers(m.pod.Node)
				if err != nil {
					return err
				}
				n := 0
				for at, count := range streams {
					if at == server {
						return fmt.Errorf("%s is still connected to %s", m.pod.Name, server.Name)
					}
					n += count
				}
				if n == 0 {
					return fmt.Errorf("%s is connected to no server", m.pod.Name)
				}
			}
			return nil
		})
		_, err = s.lictor.CLI(s.ctx, s.host.Node, "undrain", server.Name)
		s.must(err)
	}
}

// rotateToken gives a proxy a new token by the file that it is followed in, and
// deletes the old one.
func (s *secure) rotateToken() {
	before := s.pids()
	old := s.tokens[s.web]
	next := s.token("web")
	s.tokens[s.web] = next
	s.file(s.web, "token", next.SecretID)
	s.eventually(15*time.Second, func() error {
		return holds(s.secretsDir(s.web), "the Envoy of web has the new token", []byte(next.SecretID))
	})
	s.must(s.cluster.DeleteToken(s.ctx, old.AccessorID))
	s.change(15*time.Second, s.members()...)
	s.reconnect()
	s.change(15*time.Second, s.members()...)
	s.state(s.web, "ok")
	s.answers(s.web, s.api)
	s.unharmed(before)
}

// outlive waits until the token that api's login gave has expired, and shows that
// nothing is the worse for it.
func (s *secure) outlive() {
	before := s.pids()
	time.Sleep(time.Until(s.loggedIn.Add(loginLifetime + 2*time.Second)))
	s.eventually(10*time.Second, func() error { // the renewal is not at the same moment as our look
		now := s.onlyLogin("api")
		if now.AccessorID == s.firstLogin {
			return errors.New("the login's token is still the first one")
		}
		return nil
	})
	s.change(15*time.Second, s.members()...)
	s.reconnect()
	s.change(15*time.Second, s.members()...)
	s.state(s.api, "ok")
	s.answers(s.web, s.api)
	s.unharmed(before)
}

// released waits until the Envoy that was killed is missed for good: its proxy's
// VIP is given back and its token deleted, and the journal has why.
func (s *secure) released() {
	client := s.lictor.Client()
	defer client.Close()
	s.eventually(30*time.Second, func() error { // most of the minute has gone by meanwhile
		_, err := client.Proxy(s.ctx, s.late.proxy.ID)
		var problem *v1.ProblemError
		if errors.As(err, &problem) && problem.Type == v1.ProblemNotFound {
			return nil
		}
		return fmt.Errorf("%s is still registered (%v)", s.late.proxy.ID, err)
	})
	why := ""
	s.must(client.Journal(s.ctx, 0, false, func(e v1.JournalEvent) error {
		if e.Kind == "ProxyDeregistered" && bytes.Contains(e.Data, []byte(`"`+s.late.proxy.ID+`"`)) {
			why = string(e.Data)
		}
		return nil
	}))
	if !strings.Contains(why, "process-gone") {
		s.Errorf("the journal has %q for it, not that the process was gone", why)
	}
	s.eventually(10*time.Second, func() error {
		list, err := s.cluster.Tokens(s.ctx, s.login.Name)
		if err == nil && len(list) != 1 {
			err = fmt.Errorf("there are %d tokens of logins, want that of api alone", len(list))
		}
		return err
	})
	s.onlyLogin("api")
}

// logout ends a member: no token of it, no file and no VIP stays.
func (s *secure) logout() {
	dir := s.secretsDir(s.api)
	s.leave(s.api)
	s.eventually(15*time.Second, func() error {
		list, err := s.cluster.Tokens(s.ctx, s.login.Name)
		if err == nil && len(list) != 0 {
			err = fmt.Errorf("%d tokens of logins are left", len(list))
		}
		return err
	})
	s.eventually(5*time.Second, func() error {
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			return fmt.Errorf("%s is left: %v", dir, err)
		}
		return nil
	})
}
