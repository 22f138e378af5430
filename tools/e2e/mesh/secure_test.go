package mesh

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
	"github.com/lictor-mesh/lictor/tools/testbed/pki"
)

// loginLifetime is of the tokens that logins give, Consul's least.
const loginLifetime = time.Minute

// A mesh in which servers and clients verify each other and everything is denied
// to whom has no token: what flows, what is said when a credential is no good,
// and what a rotation of everything costs, which is nothing.
func TestMeshWithTLSAndACLs(t *testing.T) {
	w := newWorld(t, 3*time.Minute, bed.ClusterOptions{Servers: 3, TLS: bed.MutualTLS, ACL: true})
	login, err := w.cluster.NewLogin(w.ctx, bed.LoginOptions{TokenLifetime: loginLifetime})
	w.must(err)
	s := &secure{world: w, login: login}
	for _, step := range []struct {
		name string
		do   func(*secure)
	}{
		{"requests flow by a static token and by a login", (*secure).requests},
		{"no secret is in a bootstrap, a log or the journal", (*secure).secrets},
		{"a revoked token is a state of its proxy alone", (*secure).revokedToken},
		{"a token that does not exist", (*secure).badToken},
		{"an expired bearer is waited out", (*secure).expiredBearer},
		{"a proxy that Consul does not know is waited for", (*secure).unknownProxy},
		{"a proxy's own trust is its own", (*secure).ownTrust},
		{"the CA is rotated", (*secure).rotateCA},
		{"a token is rotated", (*secure).rotateToken},
		{"a login outlives its token", (*secure).outlive},
		{"a proxy whose process has ended is released", (*secure).released},
		{"a proxy that is deregistered is logged out", (*secure).logout},
	} {
		if !t.Run(step.name, func(t *testing.T) {
			in := *s
			in.world = w.in(t)
			step.do(&in)
			in.world = w
			*s = in
		}) {
			return // the steps share what they run on
		}
	}
}

// secure is what the steps tell each other.
type secure struct {
	*world
	login *bed.Login

	static, web, api *member // by a static token, a token in a file, a login
	late             *member // by a login too; its Envoy is killed and stays away
	tokens           map[*member]*api.ACLToken
	loggedIn         time.Time
	firstLogin       string // accessor of the token that the first login gave
}

func (s *secure) token(service string) *api.ACLToken {
	s.Helper()
	token, err := s.cluster.NewToken(s.ctx, bed.TokenOptions{Services: []string{service}})
	s.must(err)
	return token
}

// bearer writes a bearer token for a member's service, good for that long.
func (s *secure) bearer(m *member, lifetime time.Duration) string {
	s.Helper()
	text, err := s.login.Bearer(m.proxy.Service, lifetime)
	s.must(err)
	return s.file(m, "bearer", text)
}

func (s *secure) requests() {
	s.tokens = map[*member]*api.ACLToken{}
	s.web, s.api, s.static = s.deploy("web", "api"), s.deploy("api"), s.deploy("static", "api")
	for _, from := range []*member{s.web, s.static} {
		s.tokens[from] = s.token(from.proxy.Service)
	}
	s.intend("web", "api", api.IntentionActionAllow)

	s.loggedIn = time.Now()
	s.start(s.api, bed.ExecOptions{Credential: bed.Credential{Login: s.login, Bearer: s.bearer(s.api, time.Hour)}})
	s.start(s.web, bed.ExecOptions{Credential: bed.Credential{TokenFile: s.file(s.web, "token", s.tokens[s.web].SecretID)}})
	s.start(s.static, bed.ExecOptions{Credential: bed.Credential{Token: s.tokens[s.static].SecretID}})
	s.firstLogin = s.onlyLogin("api").AccessorID

	s.answers(s.web, s.api)
	s.through(s.web, s.api)
	s.denied(s.static) // by default
	s.must(s.cluster.SetConfig(s.ctx, &api.ServiceIntentionsConfigEntry{
		Kind: api.ServiceIntentions, Name: "api",
		Sources: []*api.SourceIntention{
			{Name: "web", Action: api.IntentionActionDeny},
			{Name: "static", Action: api.IntentionActionAllow},
		},
	}))
	s.denied(s.web)
	s.answers(s.static, s.api)
	s.intend("*", "api", api.IntentionActionAllow)
	s.answers(s.web, s.api)
	for _, m := range s.members() {
		s.throughTheVIP(m)
		s.noOtherProcess(m)
		s.state(m, "ok")
	}
	// A first token is no new one: no stream had to be opened again for it.
	if n := s.sum(s.lictor, `^lictor_credential_reopens_total `); n != 0 {
		s.Errorf("streams of %v proxies were closed for a new token, though each has its first", n)
	}
}

func (s *secure) members() []*member { return []*member{s.web, s.api, s.static} }

// onlyLogin is the one token that logins have made for a service.
func (s *secure) onlyLogin(service string) *api.ACLTokenListEntry {
	s.Helper()
	list, err := s.cluster.Tokens(s.ctx, s.login.Name)
	s.must(err)
	list = slices.DeleteFunc(list, func(t *api.ACLTokenListEntry) bool {
		return len(t.ServiceIdentities) != 1 || t.ServiceIdentities[0].ServiceName != service
	})
	if len(list) != 1 {
		s.Fatalf("logins have made %d tokens for %s, want one", len(list), service)
	}
	return list[0]
}

// state waits until lictord says so of a proxy's credential.
func (s *secure) state(m *member, want string) {
	s.Helper()
	client := s.lictor.Client()
	defer client.Close()
	s.eventually(15*time.Second, func() error {
		p, err := client.Proxy(s.ctx, m.proxy.ID)
		if err != nil {
			return err
		}
		if string(p.CredentialState) != want {
			return fmt.Errorf("the credential of %s is %q (%s), not %q", m.proxy.ID, p.CredentialState, p.CredentialProblem, want)
		}
		return nil
	})
}

// secrets looks for tokens wherever others than root and Envoy's user may read.
func (s *secure) secrets() {
	client, err := s.cluster.Client(s.ctx)
	s.must(err)
	login, _, err := client.ACL().TokenRead(s.firstLogin, nil)
	s.must(err)
	bearer, err := os.ReadFile(filepath.Join(s.api.pod.Dir, "bearer"))
	s.must(err)
	secrets := []string{login.SecretID, strings.TrimSpace(string(bearer))}
	for _, token := range s.tokens {
		secrets = append(secrets, token.SecretID)
	}
	if slices.Contains(secrets, "") {
		s.Fatal("a secret is empty, so that nothing is proved")
	}
	places := []string{s.lictor.Process().Log}
	for _, m := range s.members() {
		places = append(places, m.envoy.Log)
	}
	err = filepath.WalkDir(s.lictor.State, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			places = append(places, path)
		}
		return err
	})
	s.must(err)
	text := map[string]string{}
	for _, path := range places {
		content, err := os.ReadFile(path)
		s.must(err)
		text[path] = string(content)
	}
	for _, m := range s.members() {
		dump, err := m.envoy.Admin(s.ctx, http.MethodGet, "/config_dump")
		s.must(err)
		text["config dump of "+m.pod.Name] = string(dump)
		cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", m.pid))
		s.must(err)
		text["command line of "+m.pod.Name] = string(cmdline)
	}
	for where, content := range text {
		for _, secret := range secrets {
			if strings.Contains(content, secret) {
				s.Errorf("a token is in %s", where)
			}
		}
	}
}

func (s *secure) revokedToken() {
	token := s.token("web")
	s.file(s.web, "token", token.SecretID)
	s.state(s.web, "ok")
	old := s.tokens[s.web]
	s.must(s.cluster.DeleteToken(s.ctx, old.AccessorID))
	s.must(s.cluster.DeleteToken(s.ctx, token.AccessorID))
	// An idle stream's token is looked at again at the next change.
	s.speakHTTP("web-2")
	s.intend("*", "web", api.IntentionActionAllow)
	s.state(s.web, "refused")
	s.troubled(s.lictor, s.web.proxy.ID, "token")
	s.metric(s.lictor, `^lictor_proxy_credentials\{.*state="refused".*\} `, 1)
	s.state(s.api, "ok")
	s.state(s.static, "ok")
	s.must(s.asks(s.web, s.api)) // what it has been told stays in force

	s.tokens[s.web] = s.token("web")
	s.file(s.web, "token", s.tokens[s.web].SecretID)
	s.state(s.web, "ok")
	s.change(15*time.Second, s.web, s.api, s.static)
	s.sameProcess(s.web)
}

// badToken starts an Envoy with a token that no server knows.
func (s *secure) badToken() {
	m := s.deploy("poor")
	const secret = "deadbeef-0000-0000-0000-000000000000"
	s.exec(m, bed.ExecOptions{Credential: bed.Credential{Token: secret}})
	s.state(m, "refused")
	s.troubled(s.lictor, m.proxy.ID, "does not exist")
	s.says(m, "does not exist")
	if strings.Contains(m.envoy.Tail(10_000), secret) {
		s.Error("lictor exec repeats the token")
	}
	s.leave(m)
}

func (s *secure) expiredBearer() {
	m := s.deploy("late")
	path := s.bearer(m, -time.Minute)
	s.exec(m, bed.ExecOptions{Credential: bed.Credential{Login: s.login, Bearer: path}})
	s.troubled(s.lictor, m.proxy.ID, "expired")
	s.state(m, "bad-bearer")
	s.metric(s.lictor, `^lictor_proxy_credentials\{.*state="bad-bearer".*\} `, 1)
	s.says(m, "expired")
	if up, err := m.envoy.Updates(s.ctx); err == nil {
		s.Errorf("there is an Envoy, with %d updates", up)
	}
	s.bearer(m, time.Hour)
	s.must(m.envoy.WaitUp(s.ctx))
	s.sameProcess(m)
	s.state(m, "ok")
	s.must(m.envoy.Kill())
	s.late = m
}

// says waits until the standard error of the member's lictor exec has a word.
func (s *secure) says(m *member, word string) {
	s.Helper()
	s.eventually(10*time.Second, func() error {
		if text := m.envoy.Tail(10_000); !strings.Contains(text, word) {
			return fmt.Errorf("lictor exec does not say %q: %s", word, text)
		}
		return nil
	})
}

// leave ends a member's Envoy and takes it out of everything.
func (s *secure) leave(m *member) {
	s.Helper()
	s.must(m.envoy.Kill())
	_, err := s.lictor.CLI(s.ctx, s.host.Node, "deregister", m.proxy.ID)
	s.must(err)
}

func (s *secure) unknownProxy() {
	pod, err := s.host.NewPod("unknown")
	s.must(err)
	_, err = pod.StartApp(s.ctx, bed.AppOptions{})
	s.must(err)
	m := &member{pod: pod, proxy: bed.Proxy{ID: "unknown-sidecar-proxy", Service: "unknown", NodeName: s.host.Name + "-virtual"}}
	token := s.token("unknown")
	s.exec(m, bed.ExecOptions{Credential: bed.Credential{Token: token.SecretID}})
	s.says(m, "does not know the proxy "+m.proxy.ID)
	time.Sleep(1500 * time.Millisecond)
	if n := strings.Count(m.envoy.Tail(10_000), "does not know the proxy"); n != 1 {
		s.Errorf("lictor exec says so %d times: %s", n, m.envoy.Tail(10_000))
	}
	m.proxy = s.enlist("unknown", pod)
	s.must(m.envoy.WaitUp(s.ctx))
	s.sameProcess(m)
	s.leave(m)
}

// A proxy may verify the servers by a CA or a name of its own. Where that is not
// theirs its Envoy must not speak to them, whatever the daemon trusts.
func (s *secure) ownTrust() {
	foreign, err := pki.NewCA("foreign")
	s.must(err)
	m := s.deploy("careful")
	bundle := s.file(m, "foreign.pem", string(foreign.PEM()))
	token := s.token("careful")
	for _, tt := range []struct{ flag, state, says string }{
		{"--ca-certs=" + bundle, "wrong-ca", "unknown authority"},
		{"--tls-server-name=server.dc2.consul", "wrong-name", "other names than server.dc2.consul"},
	} {
		s.exec(m, bed.ExecOptions{Flags: []string{tt.flag}, Credential: bed.Credential{Token: token.SecretID}})
		s.state(m, tt.state)
		s.troubled(s.lictor, m.proxy.ID, tt.says)
		s.says(m, tt.says)
		s.metric(s.lictor, `^lictor_proxy_credentials\{.*state="`+tt.state+`".*\} `, 1)
		if n, err := m.envoy.Updates(s.ctx); err == nil {
			s.Errorf("there is an Envoy, which took %d updates from servers that it must not trust", n)
		}
		s.leave(m)
	}
}
