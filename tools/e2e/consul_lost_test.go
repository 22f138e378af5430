package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// cutOff makes Consul unreachable for lictord, which is on the host, and not for
// the proxies, which are in pods.
func (w *world) cutOff() {
	w.Helper()
	for _, s := range w.cluster.Servers() {
		w.must(w.host.PartitionFrom(s.Node, bed.Silent))
	}
}

// goesTo is an error unless a member's connect arrives at that server.
func (w *world) goesTo(m member, server string) error {
	got, err := m.pod.Connect(w.ctx, bed.Connect{To: m.vip()})
	w.must(err)
	if at := w.server(server).XDS(); got.Errno != 0 || got.Server != at {
		return fmt.Errorf("connect: errno %v, server %v; want %s at %v", got.Errno, got.Server, server, at)
	}
	return nil
}

// reaches checks that a member's connect arrives at the server that lictord
// says, and tells which.
func (w *world) reaches(m member) (server string) {
	w.Helper()
	server = w.assignment(m.proxy.ID).Servers[0].ID
	w.must(w.goesTo(m, server))
	return server
}

// said checks that the problems that lictord tells of name this one.
func said(st v1.Status, what string) error {
	if !strings.Contains(strings.Join(st.Problems, "\n"), what) {
		return fmt.Errorf("problems are %q, without %q", st.Problems, what)
	}
	return nil
}

// isInContact is an error while lictord has no contact with Consul.
func (w *world) isInContact() error {
	st := w.status()
	if !st.Consul.NoContact.IsZero() || st.Consul.LastContact.IsZero() || len(st.Problems) > 0 {
		return fmt.Errorf("contact %+v, problems %q", st.Consul, st.Problems)
	}
	return nil
}

// lictord starts while Consul is unreachable: what is journaled is in force,
// and new proxies are served too; status says since when there was no contact.
func TestConsulIsUnreachableAtStart(t *testing.T) {
	w := newWorld(t, 3, time.Minute)
	m := w.join("web")
	before := w.reaches(m)
	w.must(w.lictor.Kill())
	w.cutOff()
	if err := w.goesTo(m, before); err != nil {
		t.Error("without lictord:", err)
	}

	started := time.Now()
	w.must(w.lictor.Start())
	w.must(w.lictor.WaitReady(w.ctx)) // there are servers to go to
	if after := w.reaches(m); after != before {
		t.Errorf("after the restart the proxy is on %s, before on %s", after, before)
	}
	w.eventually(10*time.Second, func() error {
		return said(w.status(), "No contact with Consul since lictord was started at")
	})
	st := w.status()
	if !st.Ready || st.Started.Before(started) || !st.Consul.NoContact.Equal(st.Started) || !st.Consul.LastContact.IsZero() {
		t.Errorf("ready %v, started %v, no contact since %v, last contact %v; want ready, none since the start after %v",
			st.Ready, st.Started, st.Consul.NoContact, st.Consul.LastContact, started)
	}
	if text := w.cli("status"); !strings.Contains(text, "No contact with Consul since") {
		t.Errorf("`lictor status` says nothing of it:\n%s", text)
	}
	late := w.join("late")
	if late.Server == nil {
		t.Fatal("a new proxy has no server, though the journal knows three")
	}
	w.reaches(late)
	if since := w.status().Consul.NoContact; !since.Equal(st.Consul.NoContact) {
		t.Errorf("no contact since %v, a moment ago since %v", since, st.Consul.NoContact)
	}

	w.must(w.host.Heal())
	w.eventually(15*time.Second, w.isInContact)
	if after := w.reaches(m); after != before {
		t.Errorf("Consul is back, and the proxy moved from %s to %s", before, after)
	}
}

// All Consul servers die while lictord runs. It stays ready with the servers
// that it knows, and goes on by itself when they are back.
func TestConsulIsLostLater(t *testing.T) {
	w := newWorld(t, 3, time.Minute)
	m := w.join("web")
	w.reaches(m)

	killed := time.Now()
	for _, s := range w.cluster.Servers() {
		w.must(s.Kill())
	}
	w.eventually(10*time.Second, func() error { return said(w.status(), "No contact with Consul since") })
	st := w.status()
	if since := st.Consul.NoContact; since.Before(killed.Add(-time.Second)) || since.After(killed.Add(5*time.Second)) || st.Consul.LastContact.After(since) {
		t.Errorf("no contact since %v, last contact %v; the servers died at %v", since, st.Consul.LastContact, killed)
	}
	if _, err := w.lictor.Get(w.ctx, "/readyz"); err != nil {
		t.Error("not ready:", err)
	}
	got, err := m.pod.Connect(w.ctx, bed.Connect{To: m.vip()})
	w.must(err)
	if got.Errno != unix.ECONNREFUSED {
		t.Errorf("connect while all servers are dead: errno %v, want their own ECONNREFUSED", got.Errno)
	}
	if w.placements()[m.proxy.ID] == "" {
		t.Error("the proxy has no server any more")
	}

	var group errgroup.Group
	for _, s := range w.cluster.Servers() {
		group.Go(func() error { return s.Restart(w.ctx) })
	}
	w.must(group.Wait())
	w.eventually(20*time.Second, w.isInContact)
	w.eventually(20*time.Second, func() error {
		got, err := m.pod.Connect(w.ctx, bed.Connect{To: m.vip()})
		w.must(err)
		return expect("errno", got.Errno, 0)
	})
	if n := w.status().Servers; n != 3 {
		t.Errorf("%d servers are known, want 3", n)
	}
}

// A host that never knew a server is not ready, and says why; what registers is
// promised its VIP all the same, and connects once there is a server.
func TestAFreshHostWaitsForConsul(t *testing.T) {
	w := newBareWorld(t, time.Minute, bed.ClusterOptions{Servers: 3})
	w.cutOff()
	var err error
	w.lictor, err = w.host.StartLictor(bed.LictorOptions{Cluster: w.cluster})
	w.must(err)
	w.must(w.lictor.WaitSocket(w.ctx))
	_, err = w.lictor.Get(w.ctx, "/readyz")
	if err == nil || !strings.Contains(err.Error(), "503") || !strings.Contains(err.Error(), "No Consul server is known") {
		t.Errorf("readyz = %v, want 503 and a sentence", err)
	}
	w.eventually(10*time.Second, func() error { return said(w.status(), "No contact with Consul since") })

	m := w.join("web")
	if m.Server != nil {
		t.Errorf("server = %v, want none", m.Server)
	}
	got, err := m.pod.Connect(w.ctx, bed.Connect{To: m.vip()})
	w.must(err)
	if got.Errno != unix.ECONNREFUSED || got.Took > 100*time.Millisecond {
		t.Errorf("connect: errno %v after %v, want ECONNREFUSED at once", got.Errno, got.Took)
	}
	if _, err := w.lictor.CLI(w.ctx, m.pod.Node, "bootstrap", m.proxy.ID); err == nil || !strings.Contains(err.Error(), "no Consul server is known yet") {
		t.Errorf("bootstrap = %v, want a refusal that says why", err)
	}

	w.must(w.host.Heal())
	w.must(w.lictor.WaitReady(w.ctx))
	w.reaches(m)
	w.eventually(5*time.Second, w.isInContact)
}
