package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// mesh is Envoys of one service, so that one intention is a configuration
// change for all of them.
type mesh struct {
	*world
	envoys  map[*bed.Envoy]member
	intents int
}

// newMesh starts n Envoys, and tells Consul of as many more proxies that never
// connect as make room for the streams of a server that is lost.
func newMesh(w *world, n, absent int) *mesh {
	m := &mesh{world: w, envoys: map[*bed.Envoy]member{}}
	for i := range absent {
		_, err := w.cluster.Register(w.ctx, bed.Service{Name: "absent", ID: fmt.Sprintf("absent-%d", i), Addr: "10.66.255.1"})
		w.must(err)
	}
	for i := range n {
		pod, err := w.host.NewPod(fmt.Sprintf("web-%d", i))
		w.must(err)
		p, err := w.cluster.Register(w.ctx, bed.Service{Name: "web", Pod: pod})
		w.must(err)
		one := member{pod, p, w.register(pod.Node, p)}
		m.envoys[w.envoy(one)] = one
	}
	for e := range m.envoys {
		w.must(e.WaitUp(w.ctx))
	}
	return m
}

// on gives the Envoys whose stream ends at a server.
func (m *mesh) on(s *bed.Server) (on []*bed.Envoy) {
	m.Helper()
	for e, one := range m.envoys {
		streams, err := m.cluster.XDSServers(one.pod.Node)
		m.must(err)
		if streams[s] > 0 {
			on = append(on, e)
		}
	}
	return on
}

// change makes a change for every Envoy and returns what each had before, and
// when it was made.
func (m *mesh) change() (before map[*bed.Envoy]uint64, made time.Time) {
	m.Helper()
	before = map[*bed.Envoy]uint64{}
	for e := range m.envoys {
		n, err := e.Updates(m.ctx)
		m.must(err)
		before[e] = n
	}
	m.intents++
	made = time.Now()
	m.must(m.cluster.Intend(m.ctx, fmt.Sprintf("caller-%d", m.intents), "web", api.IntentionActionDeny))
	return before, made
}

// A Consul server is killed. With room on the others, every Envoy that it
// served gets a configuration change through another one at once, whatever
// lictord does meanwhile.
func TestAKilledServerIsLeft(t *testing.T) {
	for _, lictord := range []struct {
		is string
		do func(*bed.Lictor) error
	}{
		{"alive", func(*bed.Lictor) error { return nil }},
		{"stopped", (*bed.Lictor).Stop},
		{"dead", (*bed.Lictor).Kill},
	} {
		t.Run("lictord "+lictord.is, func(t *testing.T) {
			w := newWorld(t, 3, 2*time.Minute)
			m := newMesh(w, 9, 18)
			leader, err := w.cluster.Leader(w.ctx)
			w.must(err)
			var victim *bed.Server
			for _, s := range w.cluster.Servers() {
				if s != leader {
					victim = s // a change is made by the leader, which must be there
				}
			}
			served := m.on(victim)
			if len(served) == 0 {
				t.Fatalf("no Envoy is served by %s", victim.Name)
			}
			w.must(lictord.do(w.lictor))
			w.must(victim.Kill())
			before, made := m.change()
			for _, e := range served {
				w.must(e.WaitUpdates(w.ctx, before[e]+1))
				took := time.Since(made)
				t.Logf("%s: %v", e.Name, took.Round(time.Millisecond))
				if took > 500*time.Millisecond {
					t.Errorf("%s has the change %v after it was made, want 500ms", e.Name, took)
				}
			}
		})
	}
}
