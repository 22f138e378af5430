package fleet

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// A report goes on with a lictord that was killed and started again, goes away
// with the session of a host that is gone, and two hosts of one name do not write
// over each other.
func TestReportsComeAndGo(t *testing.T) {
	w := newWorld(t, 2)
	one, two := w.hosts[0], w.hosts[1]
	w.eventually(10*time.Second, "hosts that report", func() string { return w.reporting(one) }, "host-1 host-2")
	session := w.sessionOf("host-2")

	w.must(two.lictor.Kill())
	w.must(two.lictor.Start())
	w.must(two.lictor.WaitSocket(w.ctx))
	before := w.status(two).Started
	w.eventually(15*time.Second, "report of the new process", func() string {
		for _, h := range w.fleet(one).Hosts {
			if h.Node == "host-2" {
				return fmt.Sprint(h.Started.Equal(before))
			}
		}
		return "none"
	}, "true")
	if now := w.sessionOf("host-2"); now != session {
		t.Errorf("the session is %s, was %s", now, session)
	}

	// Consul ends a session that nobody renews; here the test does.
	w.must(two.lictor.Kill())
	_, err := w.consul().Session().Destroy(session, nil)
	w.must(err)
	w.eventually(5*time.Second, "hosts that report", func() string { return w.reporting(one) }, "host-1")
	w.must(two.lictor.Start())
	w.eventually(15*time.Second, "hosts that report", func() string { return w.reporting(one) }, "host-1 host-2")

	made, err := w.bed.NewHost("host-3")
	w.must(err)
	twin := &host{Host: made}
	twin.lictor, err = made.StartLictor(bed.LictorOptions{Cluster: w.cluster, Args: []string{"--node-name=host-2"}})
	w.must(err)
	w.must(twin.lictor.WaitReady(w.ctx))
	w.eventually(15*time.Second, "its problem", func() string {
		if strings.Contains(strings.Join(w.status(twin).Problems, " "), "a --node-name of its own") {
			return "said"
		}
		return strings.Join(w.status(twin).Problems, " ")
	}, "said")
	for _, h := range w.fleet(one).Hosts {
		if h.Node == "host-2" && !h.Started.Equal(w.status(two).Started) {
			t.Error("the report of host-2 is the other one's")
		}
	}
}

// sessionOf is the session that holds a host's report.
func (w *world) sessionOf(name string) string {
	w.Helper()
	pair, _, err := w.consul().KV().Get("lictor/hosts/"+name, nil)
	w.must(err)
	if pair == nil || pair.Session == "" {
		w.Fatalf("no session holds the report of %s", name)
	}
	return pair.Session
}

// Tokens that were made by login on hosts that never came back are listed and
// deleted by an operator; those of hosts that report are left alone.
func TestTokensOfHostsThatNeverCameBack(t *testing.T) {
	w := newWorld(t, 1)
	one := w.hosts[0]
	w.eventually(10*time.Second, "hosts that report", func() string { return w.reporting(one) }, "host-1")
	login, err := w.cluster.NewLogin(w.ctx, bed.LoginOptions{})
	w.must(err)
	accessors := map[string]string{}
	for _, host := range []string{"host-1", "host-8", "host-9"} {
		bearer, err := login.Bearer("web", time.Minute)
		w.must(err)
		token, _, err := w.consul().ACL().Login(&api.ACLLoginParams{
			AuthMethod: login.Name, BearerToken: bearer,
			Meta: map[string]string{"lictor-host": host, "lictor-proxy": "web-on-" + host},
		}, nil)
		w.must(err)
		accessors[host] = token.AccessorID
	}
	// Host 9 has reported once, which its node tells; host 8 never has.
	_, err = w.consul().Catalog().Register(&api.CatalogRegistration{
		Node: "lictor-host-9", Address: "10.66.255.9", NodeMeta: map[string]string{"lictor-host": "host-9"},
	}, nil)
	w.must(err)

	token := filepath.Join(one.Dir, "operator")
	w.must(os.WriteFile(token, []byte(bed.ManagementToken), 0o600))
	out := w.cli(one, "fleet", "--token-file="+token)
	t.Logf("lictor fleet:\n%s", out)
	for host, accessor := range accessors {
		if listed := strings.Contains(out, accessor); listed != (host != "host-1") {
			t.Errorf("token of %s listed: %v", host, listed)
		}
	}
	if out := w.cli(one, "fleet", "reap", "--yes", "--token-file="+token); !strings.Contains(out, "nothing to delete") {
		t.Errorf("the tokens are young: %s", out)
	}
	if out := w.cli(one, "fleet", "reap", "--yes", "--older-than=0s", "--token-file="+token); !strings.Contains(out, "deleted 1 token and 1 node") {
		t.Errorf("reap: %s", out)
	}
	left := w.tokens(login)
	if !strings.Contains(left, accessors["host-1"]) || !strings.Contains(left, accessors["host-8"]) || strings.Contains(left, accessors["host-9"]) {
		t.Errorf("left are %s of %v", left, accessors)
	}
	w.cli(one, "fleet", "reap", "host-8", "--yes", "--older-than=0s", "--token-file="+token)
	if left := w.tokens(login); left != accessors["host-1"] {
		t.Errorf("left are %s", left)
	}
}

// tokens lists the accessors of what an auth method gave.
func (w *world) tokens(login *bed.Login) string {
	w.Helper()
	list, err := w.cluster.Tokens(w.ctx, login.Name)
	w.must(err)
	var all []string
	for _, t := range list {
		all = append(all, t.AccessorID)
	}
	return strings.Join(all, " ")
}
