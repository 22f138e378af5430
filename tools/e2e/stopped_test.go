package e2e

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// An Envoy that is stopped while its connection is young, having heard next to
// nothing, is not taken for one that was refused. Of one that is killed the
// kernel tells: nothing is counted, no server held down. One that is asked to
// end closes its connection as after a refusal; but no placement changes, and
// once the server is no longer held down, the proxy's next Envoy is on it.
func TestAStoppedEnvoyIsNoRefusal(t *testing.T) {
	w := newWorld(t, 3, 2*time.Minute)
	t.Run("killed", func(t *testing.T) {
		on := *w
		on.TB = t
		s := on.newStopper("killed")
		for i := range 8 {
			e := s.connect()
			time.Sleep(time.Duration(i) * 30 * time.Millisecond) // its configuration takes 0.2 s
			s.end(e, syscall.SIGKILL)
			if now := s.served(); now != s.first {
				t.Errorf("killed after %d ms: the proxy was on %s, and its Envoy was on %s", i*30, s.first, now)
			}
		}
		if n := on.bounced(); n > 0 {
			t.Errorf("%d connections are counted as refused", n)
		}
	})
	t.Run("asked", func(t *testing.T) {
		on := *w
		on.TB = t
		s := on.newStopper("asked")
		for i := range 8 {
			e := s.connect()
			time.Sleep(time.Duration(i) * 30 * time.Millisecond)
			s.end(e, syscall.SIGTERM)
			if now := on.placements()[s.proxy.ID]; now != s.first {
				t.Errorf("asked after %d ms: the proxy was placed on %s, and is on %s", i*30, s.first, now)
			}
		}
		time.Sleep(16 * time.Second) // longer than what a refusal is held against a server
		e := s.connect()
		on.must(e.WaitUp(on.ctx))
		if now := s.served(); now != s.first {
			t.Errorf("at last the proxy is on %s, and was on %s", now, s.first)
		}
		s.end(e, syscall.SIGKILL)
	})
}

// stopper is a proxy whose Envoys are stopped.
type stopper struct {
	*world
	member
	first  string // the server that it is placed on
	before map[string]uint64
}

func (w *world) newStopper(name string) *stopper {
	w.Helper()
	s := &stopper{world: w, member: w.enlist(name)}
	s.Registered = w.register(s.pod.Node, s.proxy)
	s.first = w.placements()[s.proxy.ID]
	return s
}

// connect starts an Envoy and waits until it is connected.
func (s *stopper) connect() *bed.Envoy {
	s.Helper()
	s.before = s.byServer()
	e, err := s.lictor.Exec(s.ctx, s.pod.Node, bed.ExecOptions{Proxy: s.proxy})
	s.must(err)
	s.eventually(10*time.Second, func() error {
		if s.served() == "" {
			return fmt.Errorf("the Envoy of %s has not connected", s.proxy.ID)
		}
		return nil
	})
	return e
}

func (s *stopper) byServer() map[string]uint64 {
	n := map[string]uint64{}
	for _, server := range s.counts() {
		n[server.ID] = server.Established
	}
	return n
}

// served is the server that the last Envoy has connected to.
func (s *stopper) served() (id string) {
	s.Helper()
	for server, n := range s.byServer() {
		if n > s.before[server] {
			id = server
		}
	}
	return id
}

func (s *stopper) end(e *bed.Envoy, sig syscall.Signal) {
	s.Helper()
	s.must(e.Signal(sig))
	select {
	case <-e.Done():
	case <-time.After(20 * time.Second):
		s.Fatalf("the Envoy of %s has not ended", s.proxy.ID)
	}
}
