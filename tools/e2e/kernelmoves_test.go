package e2e

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
	"github.com/lictor-mesh/lictor/tools/testbed/xds"
)

// What the kernel decided while lictord was stopped or dead is evidence: it is
// journaled with its reason and stays in force, and is not repaired as drift.
func TestWhatTheKernelDecidedIsJournaled(t *testing.T) {
	for _, c := range []struct {
		name    string
		away    func(*bed.Lictor) error
		back    func(*bed.Lictor) error
		trouble func(w *world, m member, f *bed.Fleet, first *bed.Server)
		reason  string
	}{
		{"a failed server, lictord stopped", (*bed.Lictor).Stop, (*bed.Lictor).Cont, failing, "connect-failed"},
		{"a failed server, lictord dead", (*bed.Lictor).Kill, restart, failing, "connect-failed"},
		{"a bounce, lictord dead", (*bed.Lictor).Kill, restart, bouncing, "bounced"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 3, time.Minute)
			m := w.join("web")
			var first *bed.Server
			for _, s := range w.cluster.Servers() {
				if s.Name == m.Server.ID {
					first = s
				}
			}
			fleet, err := m.pod.StartFleet()
			w.must(err)
			w.must(c.away(w.lictor))
			c.trouble(w, m, fleet, first)
			w.must(fleet.Wait(w.ctx, "the proxy is up elsewhere", func(all map[string]bed.ProxyState) bool {
				p := all[m.proxy.ID]
				return p.Up && p.Server != first.XDS()
			}))
			now := fleet.State()[m.proxy.ID]
			w.must(c.back(w.lictor))
			w.must(w.lictor.WaitReady(w.ctx))

			w.eventually(10*time.Second, func() error {
				last := w.lastPlaced(m.proxy.ID)
				p := w.proxies()[m.proxy.ID]
				if last.Reason != state.PlaceReason(c.reason) || last.Ranked[0] != p.Servers[0].ID {
					return fmt.Errorf("last placed on %v because of %q, want %q; the API says %v", last.Ranked, last.Reason, c.reason, p.Servers)
				}
				if want := now.Server.Addr(); p.Servers[0].Address != want {
					return fmt.Errorf("placed on %v, the kernel chose %v", p.Servers[0].Address, want)
				}
				return nil
			})
			client := w.lictor.Client()
			defer client.Close()
			st, err := client.Status(w.ctx)
			w.must(err)
			for kind, n := range st.Drift {
				if n != 0 {
					t.Errorf("what the kernel decided is counted as %d %s", n, kind)
				}
			}
			if after := fleet.State()[m.proxy.ID]; !after.Up || after.Streams != now.Streams {
				t.Errorf("the stream did not stay: %+v, before %+v", after, now)
			}
		})
	}
}

func restart(l *bed.Lictor) error { return l.Start() }

// failing has a proxy on its first server, to which the pod then loses the way.
// Consul sees nothing of it.
func failing(w *world, m member, f *bed.Fleet, first *bed.Server) {
	w.Helper()
	w.must(f.Add(m.proxy, m.vip(), nil))
	w.must(f.WaitUp(w.ctx, 1))
	if got := f.State()[m.proxy.ID].Server; got != first.XDS() {
		w.Fatalf("the proxy is on %v, it was promised %v", got, first.XDS())
	}
	w.must(m.pod.PartitionFrom(first.Node, bed.Unreachable))
}

// bouncing fills the first server: of two proxies in the catalog it takes one.
func bouncing(w *world, m member, f *bed.Fleet, first *bed.Server) {
	w.Helper()
	other, err := w.cluster.Register(w.ctx, bed.Service{Name: "other", Addr: "10.66.255.1", ID: "other-1"})
	w.must(err)
	direct, err := w.cluster.Server(0).StartFleet() // on no host: nothing redirects it
	w.must(err)
	w.must(direct.Add(other, first.XDS(), nil))
	w.must(direct.WaitUp(w.ctx, 1))
	// The server counts proxies once a second; it is full when it refuses. Which
	// of the two it refuses, or ends when it took both, is a matter of chance: it
	// is the other's place that is taken once this one has left.
	w.must(direct.Add(m.proxy, first.XDS(), nil))
	w.must(direct.Wait(w.ctx, "the server is full", func(map[string]bed.ProxyState) bool {
		events, _ := direct.Events(0)
		for _, e := range events {
			if e.Kind == xds.Ended && e.Code == codes.ResourceExhausted {
				return true
			}
		}
		return false
	}))
	w.must(direct.Remove(m.proxy.ID))
	w.must(direct.WaitUp(w.ctx, 1))
	w.must(f.Add(m.proxy, m.vip(), nil))
}

// lastPlaced is the last placement in a proxy's history.
func (w *world) lastPlaced(id string) (last state.Placed) {
	w.Helper()
	client := w.lictor.Client()
	defer client.Close()
	h, err := client.History(w.ctx, id)
	w.must(err)
	for _, e := range h.Events {
		if e.Kind == string(state.KindPlaced) {
			last = state.Placed{}
			w.must(json.Unmarshal(e.Data, &last))
		}
	}
	return last
}
