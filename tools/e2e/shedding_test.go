package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// placedOn registers proxies with lictord, not with Consul, until n of them are
// placed first on one server, and returns those.
func (w *world) placedOn(server string, n int) []string {
	w.Helper()
	var ids []string
	for i := 0; len(ids) < n; i++ {
		id := fmt.Sprintf("p%d-sidecar-proxy", i)
		var r v1.Registered
		w.must(json.Unmarshal([]byte(w.cli("register", id, "--node-name", w.host.Name+"-virtual", "--any", "--json")), &r))
		if r.Server.ID == server {
			ids = append(ids, id)
		}
	}
	return ids
}

// Fifteen Envoys that all start on one server, which by its own rule may take
// six of them, settle on three within two seconds.
func TestAFullServerSendsItsEnvoysElsewhere(t *testing.T) {
	w := newWorld(t, 3, time.Minute)
	if took := w.startOnOneServer(fifteen); took > 2*time.Second {
		t.Errorf("all have their listeners after %v, want 2s", took)
	}
}

// fifteen Envoys on three servers: each takes six, ceil(15 / 3 × 1.1).
const fifteen, sixEach = 15, 6

// startOnOneServer starts Envoys that are all placed on one server, and returns
// how long after the last start all of them had their listeners.
func (w *world) startOnOneServer(envoys int) time.Duration {
	w.Helper()
	ids := w.placedOn("consul-1", envoys)
	members := make([]member, envoys)
	for i, id := range ids {
		pod, err := w.host.NewPod(fmt.Sprintf("pod-%d", i))
		w.must(err)
		p, err := w.cluster.Register(w.ctx, bed.Service{Name: "web", ID: id[:len(id)-len("-sidecar-proxy")], Pod: pod})
		w.must(err)
		members[i] = member{pod: pod, proxy: p}
	}
	running := make([]*bed.Envoy, envoys)
	for i, m := range members {
		running[i] = w.envoy(m)
	}
	started := time.Now()
	for _, e := range running {
		w.must(e.WaitUp(w.ctx))
	}
	took := time.Since(started)
	w.Logf("all have their listeners %v after the last start", took)
	return took
}

// And there they stay, for twice as long as anything is held down or waits.
func TestStreamsStayWhereTheySettled(t *testing.T) {
	w := newWorld(t, 3, 2*time.Minute)
	w.startOnOneServer(fifteen)
	established := func() (n uint64, per []uint64) {
		servers, err := w.lictor.Client().Servers(w.ctx)
		w.must(err)
		for _, s := range servers {
			n += s.Established
			per = append(per, s.Active)
		}
		return n, per
	}
	before, per := established()
	t.Logf("streams per server: %v, connections made: %d", per, before)
	time.Sleep(time.Minute)
	after, per := established()
	if after != before {
		t.Errorf("%d more connections within a minute: streams ended", after-before)
	}
	if slices.Max(per) > sixEach {
		t.Errorf("streams per server: %v, more than %d on one", per, sixEach)
	}
	t.Log(w.cli("proxies"))
	t.Log(w.cli("servers"))
}
