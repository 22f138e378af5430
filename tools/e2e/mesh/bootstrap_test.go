package mesh

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// What Consul's configuration has for Envoy, and is malformed, is said by key and
// entry, to whoever starts an Envoy; and whoever asks for what is not his, or not
// there, is told that.
func TestBootstrapsThatCannotBeMade(t *testing.T) {
	w := newWorld(t, 60*time.Second, bed.ClusterOptions{Servers: 1})
	m := w.deploy("web")

	t.Run("unknown proxy", func(t *testing.T) {
		w.in(t).refused("nobody", v1.ProblemNotFound, "nobody")
	})
	t.Run("of a name that none can have", func(t *testing.T) {
		w.in(t).refused("a/../b", v1.ProblemInvalid)
	})
	t.Run("another pod's", func(t *testing.T) {
		w := w.in(t)
		w.registered(m)
		other := w.deploy("other")
		out, err := w.lictor.CLIAs(w.ctx, other.pod.Node, bed.Nobody, "bootstrap", m.proxy.ID)
		if err == nil || !strings.Contains(err.Error(), m.proxy.ID) {
			t.Errorf("it gets %.200s, %v", out, err)
		}
	})
	t.Run("not in the catalog yet", func(t *testing.T) {
		w := w.in(t)
		early := &member{pod: m.pod, proxy: bed.Proxy{ID: "early-sidecar-proxy", Service: "early", NodeName: "host-1-virtual"}}
		w.registered(early)
		w.refused(early.proxy.ID, v1.ProblemNotYet, "early-sidecar-proxy", "host-1-virtual")
	})
	for _, tt := range []struct{ key, value, entry string }{
		{"envoy_extra_static_clusters_json", `{"name": `, "proxy-defaults"},
		{"envoy_extra_static_listeners_json", `{"nam": "x"}`, "proxy-defaults"},
		{"envoy_tracing_json", `[]`, "proxy-defaults"},
		{"envoy_stats_config_json", `nothing`, "proxy-defaults"},
		{"envoy_prometheus_bind_addr", "everywhere", "proxy-defaults"},
		{"envoy_statsd_url", "http://statsd", "proxy-defaults"},
		{"envoy_bootstrap_json_tpl", "{{ .NoSuchThing }}", "proxy-defaults"},
	} {
		t.Run(tt.key, func(t *testing.T) {
			w := w.in(t)
			w.registered(m)
			w.central(map[string]any{tt.key: tt.value})
			defer w.central(nil)
			w.refused(m.proxy.ID, "", tt.key, tt.entry)
		})
	}
	t.Run("by exec, and then corrected", func(t *testing.T) { w.in(t).corrected(m) })
	t.Run("no server answers", func(t *testing.T) {
		w := w.in(t)
		w.must(w.cluster.Server(0).Kill())
		w.refused(m.proxy.ID, "", w.cluster.Server(0).Addr().String())
	})
}

// registered makes the member's proxy known to lictord, from its own pod.
func (w *world) registered(m *member) {
	w.Helper()
	_, err := w.lictor.CLI(w.ctx, m.pod.Node, "register", m.proxy.ID, "--node-name="+m.proxy.NodeName)
	w.must(err)
}

// central sets what all proxies have in Consul.
func (w *world) central(config map[string]any) {
	w.Helper()
	w.must(w.cluster.SetConfig(w.ctx, &api.ProxyConfigEntry{Kind: api.ProxyDefaults, Name: api.ProxyConfigGlobal, Config: config}))
}

// refused waits until the API refuses a bootstrap with such a problem, "" being
// any, in such words.
func (w *world) refused(id string, problem v1.ProblemType, words ...string) {
	w.Helper()
	client := w.lictor.Client()
	defer client.Close()
	w.eventually(10*time.Second, func() error {
		ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
		defer cancel()
		doc, err := client.Bootstrap(ctx, id)
		var refusal *v1.ProblemError
		if !errors.As(err, &refusal) {
			return fmt.Errorf("the answer is %.200s, %w", doc, err)
		}
		if problem != "" && refusal.Type != problem {
			return fmt.Errorf("the problem is %s, not %s: %w", refusal.Type, problem, err)
		}
		for _, word := range words {
			if !strings.Contains(refusal.Detail, word) {
				return fmt.Errorf("it does not say %q: %w", word, err)
			}
		}
		return nil
	})
}

// corrected starts an Envoy while the configuration for it is malformed, and again
// when that is corrected.
func (w *world) corrected(m *member) {
	set := func(config map[string]any) {
		w.must(w.cluster.SetRawConfig(w.ctx, map[string]any{
			"Kind": api.ServiceDefaults, "Name": "web", "Protocol": "http",
		}))
		w.central(config)
	}
	set(map[string]any{"envoy_extra_static_clusters_json": "{"})
	w.exec(m, bed.ExecOptions{})
	w.eventually(10*time.Second, func() error {
		text := m.envoy.Tail(5000)
		for _, word := range []string{"envoy_extra_static_clusters_json", "proxy-defaults"} {
			if !strings.Contains(text, word) {
				return fmt.Errorf("lictor exec does not say %q: %s", word, text)
			}
		}
		return nil
	})
	// Nothing is waited for that somebody has to correct: it ends, and is started
	// again by whoever supervises it.
	w.eventually(10*time.Second, func() error {
		if m.envoy.Alive() {
			return errors.New("lictor exec goes on")
		}
		return nil
	})
	set(nil)
	w.start(m, bed.ExecOptions{})
	w.must(m.envoy.Kill())
}
