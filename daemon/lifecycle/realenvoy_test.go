package lifecycle

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/tools/testbed/binaries"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// A bootstrap with an inbound listener before an application.
const bootstrap = `
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 19000}}}
static_resources:
  listeners:
  - name: inbound
    traffic_direction: INBOUND
    address: {socket_address: {address: 127.0.0.1, port_value: 8080}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: inbound
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: "/"}, route: {cluster: app}}]}]}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: app
    type: STATIC
    load_assignment: {cluster_name: app, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 9000}}}}]}]}
`

// realEnvoy starts a real Envoy, as lictor exec does where a grace is asked for,
// before an application whose answers to /slow take a second.
func realEnvoy(t *testing.T, s state.EnvoySettings, stdout io.Writer) *pod {
	t.Helper()
	testenv.Privileged(t)
	binary, err := binaries.Envoy(context.Background(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	testenv.NoLeaks(t)
	p := &pod{ns: testenv.Netns(t), registry: &fakeRegistry{}}
	p.client = clientIn(p.ns)
	listenIn(t, p.ns, "127.0.0.1:9000", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			time.Sleep(time.Second)
		}
		fmt.Fprint(w, "served")
	}))
	path := filepath.Join(t.TempDir(), "envoy.yaml")
	if err := os.WriteFile(path, []byte(bootstrap), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := blocked(binary, "-c", path, "--disable-hot-restart", "--concurrency", "1",
		"-l", "error", "--drain-time-s", "30", "--drain-strategy", "immediate")
	cmd.Stdout = stdout
	p.child = start(t, p.ns, cmd)
	p.registry.register(processOf(t, p.child.Process.Pid), s, ownerOf(t, p.ns))
	eventually(t, "Envoy serves", func() bool {
		_, err := get(p.client, "http://127.0.0.1:8080/")
		return err == nil
	})
	return p
}

// slow asks for what takes a second.
func (p *pod) slow() chan error {
	done := make(chan error, 1)
	go func() {
		body, err := get(p.client, "http://127.0.0.1:8080/slow")
		if err == nil && body != "served" {
			err = fmt.Errorf("answered %q", body)
		}
		done <- err
	}()
	time.Sleep(100 * time.Millisecond) // it is on its way
	return done
}

// A request that is in flight at SIGTERM is answered; so is one that comes after
// it within the grace, which is told to come no more. Then Envoy ends.
func TestRealEnvoyDrains(t *testing.T) {
	p := realEnvoy(t, state.EnvoySettings{ShutdownDrain: true, ShutdownGraceSeconds: 2, GracefulBind: "127.0.0.1:20300"}, nil)
	m, _ := manage(t, p.registry, time.Minute)
	p.served(t, "127.0.0.1:20300")
	if _, err := get(p.client, "http://127.0.0.1:20300/graceful_startup"); err != nil {
		t.Error(err)
	}
	inFlight := p.slow()
	began := time.Now()
	if err := unix.Kill(p.child.Process.Pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it drains", func() bool { return phase(m) == Draining })
	eventually(t, "Envoy drains", func() bool {
		answer, err := p.client.Get("http://127.0.0.1:8080/")
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		return answer.Close // it says "connection: close"
	})
	drained := time.Since(began)
	if err := <-inFlight; err != nil {
		t.Errorf("the request in flight: %v", err)
	}
	<-p.child.ended
	t.Logf("drains after %s, ended after %s", drained.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	if took := time.Since(began); took < 2*time.Second || took > 4*time.Second {
		t.Errorf("it ended after %s with a grace of 2 s", took)
	}
	if state := p.child.ProcessState; !state.Success() {
		t.Errorf("it ended with %s", state)
	}
}

// With the manager dead Envoy serves on after SIGTERM, and the next manager
// drains it.
func TestRealEnvoyDrainsLater(t *testing.T) {
	p := realEnvoy(t, state.EnvoySettings{ShutdownDrain: true, ShutdownGraceSeconds: 1}, nil)
	m, stop := manage(t, p.registry, time.Minute)
	eventually(t, "it is watched", func() bool { return phase(m) == Running })
	stop()
	if err := unix.Kill(p.child.Process.Pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	if _, err := get(p.client, "http://127.0.0.1:8080/"); err != nil || !p.child.alive() {
		t.Fatalf("without a manager it does not serve on: %v", err)
	}
	inFlight := p.slow()
	began := time.Now()
	manage(t, p.registry, time.Minute)
	if err := <-inFlight; err != nil {
		t.Errorf("the request in flight: %v", err)
	}
	<-p.child.ended
	t.Logf("ended %s after the next manager began", time.Since(began).Round(time.Millisecond))
}

// Merged metrics of a real Envoy, its application being down.
func TestRealEnvoyMetrics(t *testing.T) {
	p := realEnvoy(t, state.EnvoySettings{Prometheus: &state.PrometheusSettings{
		MergePort: 20100, ServiceMetricsURL: "http://127.0.0.1:9999/metrics",
	}}, nil)
	manage(t, p.registry, time.Minute)
	p.served(t, "127.0.0.1:20100")
	body, err := get(p.client, "http://127.0.0.1:20100/stats/prometheus")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\nenvoy_server_live{} 1\n", "\nlictor_merged_scrape_success{source=\"envoy\"} 1\n", "\nlictor_merged_scrape_success{source=\"service\"} 0\n"} {
		if !strings.Contains(body, want) {
			t.Errorf("without %q", want)
		}
	}
	t.Logf("%d bytes", len(body))
}

// Envoy's configuration at its end, in its own log.
func TestRealEnvoyDump(t *testing.T) {
	var stdout strings.Builder // by a pipe, which exec makes
	p := realEnvoy(t, state.EnvoySettings{DumpConfigOnExit: true}, &stdout)
	manage(t, p.registry, time.Minute)
	if err := unix.Kill(p.child.Process.Pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-p.child.ended
	var dump struct {
		Configs []any `json:"configs"`
	}
	if err := json.Unmarshal([]byte(stdout.String()), &dump); err != nil || len(dump.Configs) < 3 {
		t.Errorf("%d configurations, %v", len(dump.Configs), err)
	}
}
