package mesh

import (
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// From lictor exec to the end: what consul-dataplane does beside Envoy is done
// without a process beside it.
func TestAnEnvoysLife(t *testing.T) {
	w := newWorld(t, 90*time.Second, bed.ClusterOptions{Servers: 1})
	web, backend := w.deploy("web", "api"), w.deploy("api")
	w.intend("web", "api", api.IntentionActionAllow)
	graceful := bed.ExecOptions{Flags: []string{
		"--shutdown-drain-listeners", "--shutdown-grace-period-seconds=2", "--startup-grace-period-seconds=10",
		"--telemetry-prom-service-metrics-url=http://127.0.0.1:8080/metrics",
	}}
	w.exec(backend, graceful)
	w.start(web, bed.ExecOptions{})

	t.Run("the startup endpoint answers when Envoy is ready", func(t *testing.T) {
		w := w.in(t)
		w.ok(backend, "http://127.0.0.1:20300/graceful_startup", "")
		stats, err := backend.envoy.Stats(w.ctx, `^server\.live$`)
		w.must(err)
		if stats["server.live"] != 1 {
			t.Errorf("Envoy is not live: %v", stats)
		}
		w.answers(web, backend)
	})
	t.Run("metrics of Envoy and application in one page", func(t *testing.T) {
		w := w.in(t)
		w.ok(backend, "http://127.0.0.1:20100/stats/prometheus", "envoy_server_live", "app_up 1")
	})
	t.Run("a restart keeps VIP and server", func(t *testing.T) {
		w := w.in(t)
		before := w.assignment(web.proxy.ID)
		w.must(web.envoy.Kill())
		w.start(web, bed.ExecOptions{})
		after := w.assignment(web.proxy.ID)
		if before.VIP != after.VIP || before.Servers[0].ID != after.Servers[0].ID {
			t.Errorf("it was %s on %s, it is %s on %s", before.VIP, before.Servers[0].ID, after.VIP, after.Servers[0].ID)
		}
		w.answers(web, backend)
	})
	t.Run("without a grace SIGTERM ends Envoy at once, lictord dead or not", func(t *testing.T) {
		w := w.in(t)
		w.must(w.lictor.Kill())
		started := time.Now()
		w.must(web.envoy.Signal(syscall.SIGTERM))
		w.must(web.envoy.Wait(w.ctx))
		if took := time.Since(started); took > time.Second {
			t.Errorf("it took %v", took)
		}
		w.must(w.lictor.Start())
		w.must(w.lictor.WaitReady(w.ctx))
		w.start(web, bed.ExecOptions{})
	})
	t.Run("SIGTERM lets a request end", func(t *testing.T) { w.in(t).drained(web, backend) })
	t.Run("SIGTERM while lictord is dead is answered when it is back", func(t *testing.T) {
		w := w.in(t)
		w.start(backend, graceful)
		w.must(w.lictor.Kill())
		w.must(backend.envoy.Signal(syscall.SIGTERM))
		time.Sleep(time.Second)
		w.sameProcess(backend)
		w.answers(web, backend)
		w.must(w.lictor.Start())
		w.must(w.lictor.WaitReady(w.ctx))
		w.ends(backend, 2*time.Second, 15*time.Second)
	})
	t.Run("the shutdown endpoint begins the end", func(t *testing.T) {
		w := w.in(t)
		w.start(backend, graceful)
		w.answers(web, backend)
		w.ok(backend, "http://127.0.0.1:20300/graceful_shutdown", "")
		w.ends(backend, time.Second, 10*time.Second)
	})
}

// ok waits until a page in the member's pod is there, with these words.
func (w *world) ok(m *member, url string, words ...string) {
	w.Helper()
	w.eventually(10*time.Second, func() error {
		status, body, err := w.get(m.pod, url)
		if err != nil {
			return err
		}
		for _, word := range words {
			if status != http.StatusOK || !strings.Contains(body, word) {
				return fmt.Errorf("%s answers %d without %q: %.500s", url, status, word, body)
			}
		}
		return nil
	})
}

// drained stops the backend's Envoy while a request to it is under way.
func (w *world) drained(web, backend *member) {
	w.answers(web, backend)
	done := make(chan error, 1)
	go func() {
		status, body, err := w.get(web.pod, fmt.Sprintf("http://127.0.0.1:%d/slow?for=1500ms", upstreamPort))
		if err == nil && (status != http.StatusOK || body != "hello from api\n") {
			err = fmt.Errorf("the answer is %d %s", status, body)
		}
		done <- err
	}()
	time.Sleep(300 * time.Millisecond)
	w.must(backend.envoy.Signal(syscall.SIGTERM))
	if err := <-done; err != nil {
		w.Errorf("the request that was under way: %v", err)
	}
	w.ends(backend, 0, 10*time.Second)
}

// ends waits until the member's Envoy has ended by itself, not before the least.
func (w *world) ends(m *member, least, most time.Duration) {
	w.Helper()
	started := time.Now()
	select {
	case <-m.envoy.Done():
	case <-time.After(most):
		w.Fatalf("the Envoy of %s has not ended after %v", m.pod.Name, most)
	}
	if err := m.envoy.Wait(w.ctx); err != nil {
		w.Errorf("the Envoy of %s ended badly: %v", m.pod.Name, err)
	}
	if took := time.Since(started); took < least {
		w.Errorf("the Envoy of %s has ended after %v, before its grace", m.pod.Name, took)
	}
}
