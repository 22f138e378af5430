package e2e

import (
	"testing"
	"time"
)

// A real Envoy in a pod gets its configuration through its VIP, from the server
// that lictord said.
func TestEnvoyGetsItsConfigurationThroughTheVIP(t *testing.T) {
	w := newWorld(t, 3, time.Minute)
	m := w.join("web")
	e := w.envoy(m)
	w.must(e.WaitUp(w.ctx))

	streams, err := w.cluster.XDSServers(m.pod.Node)
	w.must(err)
	for server, n := range streams {
		if server.Addr() != m.Server.Address || n != 1 {
			t.Errorf("%d streams to %s, want 1 to %s", n, server.Name, m.Server.ID)
		}
	}
	if len(streams) != 1 {
		t.Errorf("streams to %d servers, want 1", len(streams))
	}
}
