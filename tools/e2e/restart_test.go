package e2e

import (
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// Envoys that `lictor exec` became run on while lictord is killed and started
// again, and while it is replaced by another version and back: their streams
// are the same sockets all the time, and every connection that was made or
// ended meanwhile is in the counts.
func TestEnvoysRunOnWithoutLictord(t *testing.T) {
	w := newWorld(t, 3, 3*time.Minute)
	usual := bed.LictorOptions{Cluster: w.cluster}
	other := bed.LictorOptions{Cluster: w.cluster, Binary: buildVersion(w, "v9.9.9-e2e")}
	members := map[string]member{}
	envoys := map[string]*bed.Envoy{}
	for i := range 4 {
		name := fmt.Sprintf("web-%d", i)
		m := w.enlist(name)
		e, err := w.lictor.Exec(w.ctx, m.pod.Node, bed.ExecOptions{Proxy: m.proxy})
		w.must(err)
		members[name], envoys[name] = m, e
	}
	for name, e := range envoys {
		w.must(e.WaitUp(w.ctx))
		m := members[name]
		m.Registered = w.register(m.pod.Node, m.proxy)
		members[name] = m
	}
	// One that ends while nobody looks.
	short := w.enlist("short")
	fleet, err := short.pod.StartFleet()
	w.must(err)
	short.Registered = w.register(short.pod.Node, short.proxy)

	established := w.established()
	if established != uint64(len(envoys)) {
		t.Errorf("%d connections are counted, want %d", established, len(envoys))
	}
	before := w.streamCookies(members)
	for i, change := range []struct {
		name string
		end  func() error
		to   bed.LictorOptions
	}{
		{"killed", w.lictor.Kill, usual},
		{"upgraded", func() error { return w.lictor.Term(w.ctx) }, other},
		{"killed and downgraded", w.lictor.Kill, usual},
	} {
		w.must(fleet.Add(short.proxy, short.vip(), nil))
		w.must(fleet.WaitUp(w.ctx, 1))
		w.must(change.end())
		// One more connection, and the end of one, without a daemon.
		w.must(w.connects(members["web-0"].pod.Node, members["web-0"].vip(), 0))
		w.must(fleet.Remove(short.proxy.ID))
		w.eventually(5*time.Second, func() error {
			on, err := w.cluster.XDSServers(short.pod.Node)
			w.must(err)
			return expect("number of servers connected to", len(on), 0)
		})
		established += 2
		w.must(w.lictor.Start(change.to))
		w.must(w.lictor.WaitReady(w.ctx))

		if after := w.streamCookies(members); !maps.Equal(after, before) {
			t.Errorf("lictord was %s: streams are the sockets %v, were %v", change.name, after, before)
		}
		w.eventually(5*time.Second, func() error {
			active := uint64(0)
			for _, s := range w.counts() {
				active += s.Active
			}
			return errors.Join(expect("number of connections", w.established(), established),
				expect("number of live ones", active, uint64(len(envoys))))
		})
		had := map[string]uint64{}
		for name, e := range envoys {
			if had[name], err = e.Updates(w.ctx); err != nil {
				t.Fatal(err)
			}
		}
		for name := range envoys {
			w.must(w.cluster.Intend(w.ctx, fmt.Sprintf("caller-%d", i), name, api.IntentionActionDeny))
		}
		for name, e := range envoys {
			w.must(e.WaitUpdates(w.ctx, had[name]+1))
		}
		if after := w.streamCookies(members); !maps.Equal(after, before) {
			t.Errorf("lictord was %s: after a change streams are the sockets %v, were %v", change.name, after, before)
		}
		if n := len(w.proxies()); n != len(members)+1 {
			t.Errorf("lictord was %s: %d proxies are registered, want %d", change.name, n, len(members)+1)
		}
	}
	w.must(w.connects(w.host.Node, members["web-0"].vip(), unix.EPERM)) // the hook is in effect
}

// enlist makes a pod with a service and a proxy that Consul knows, and lictord
// does not.
func (w *world) enlist(name string) member {
	w.Helper()
	pod, err := w.host.NewPod(name)
	w.must(err)
	proxy, err := w.cluster.Register(w.ctx, bed.Service{Name: name, Pod: pod})
	w.must(err)
	return member{pod: pod, proxy: proxy}
}

// streamCookies are the sockets of the members' streams: no other socket of this
// boot has the number.
func (w *world) streamCookies(members map[string]member) map[string]string {
	w.Helper()
	all := map[string]string{}
	for name, m := range members {
		list, err := m.pod.Sockets()
		w.must(err)
		for _, s := range list {
			if s.Established && s.Remote.Port() == bed.DefaultGRPCPort {
				all[name] += fmt.Sprintf("%d ", s.Cookie)
			}
		}
	}
	return all
}
