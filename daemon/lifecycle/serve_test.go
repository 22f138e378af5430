package lifecycle

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

func itoa(n int) string { return strconv.Itoa(n) }

// served waits until an address in the pod answers.
func (p *pod) served(t *testing.T, at string) {
	t.Helper()
	eventually(t, at+" is served", func() bool {
		var c net.Conn
		err := p.ns.Do(func() (err error) { c, err = net.Dial("tcp", at); return err })
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// The shutdown endpoint answers at once and begins what SIGTERM begins.
func TestGracefulShutdown(t *testing.T) {
	p := newPod(t, state.EnvoySettings{
		ShutdownDrain: true, ShutdownGraceSeconds: 1, GracefulBind: "127.0.0.1:20300", GracefulShutdownPath: "/bye",
	})
	m, _ := manage(t, p.registry, time.Minute)
	p.served(t, "127.0.0.1:20300")
	began := time.Now()
	if _, err := get(p.client, "http://127.0.0.1:20300/bye"); err != nil || time.Since(began) > 500*time.Millisecond {
		t.Fatalf("%v, after %s", err, time.Since(began))
	}
	if _, err := get(p.client, "http://127.0.0.1:20300/bye"); err != nil {
		t.Error(err)
	}
	if _, err := get(p.client, "http://127.0.0.1:20300/graceful_shutdown"); err == nil {
		t.Error("the default path is served beside the one that was given")
	}
	<-p.child.ended
	if got := p.envoy.requests(); !slices.Equal(got, []string{drainCall, quitCall}) {
		t.Errorf("asked %q", got)
	}
	eventually(t, "its end is noticed", func() bool { return phase(m) == Gone })
	if _, err := get(p.client, "http://127.0.0.1:20300/bye"); err == nil {
		t.Error("the endpoint outlives the process")
	}
}

// The startup endpoint answers when Envoy is ready.
func TestGracefulStartup(t *testing.T) {
	p := newPod(t, state.EnvoySettings{StartupGraceSeconds: 10, GracefulBind: "127.0.0.1:20300"})
	manage(t, p.registry, time.Minute)
	p.served(t, "127.0.0.1:20300")
	answered := make(chan string, 1)
	go func() {
		body, err := get(p.client, "http://127.0.0.1:20300/graceful_startup")
		answered <- fmt.Sprint(body, err)
	}()
	select {
	case answer := <-answered:
		t.Fatalf("answered %q before Envoy is ready", answer)
	case <-time.After(300 * time.Millisecond):
	}
	p.envoy.mu.Lock()
	p.envoy.ready = true
	p.envoy.mu.Unlock()
	if answer := <-answered; answer != "ready\n<nil>" {
		t.Errorf("answered %q", answer)
	}
}

// No longer than the grace, which is longer than any other answer may take.
func TestGracefulStartupOver(t *testing.T) {
	p := newPod(t, state.EnvoySettings{StartupGraceSeconds: 1, GracefulBind: "[::1]:20300"})
	manage(t, p.registry, time.Minute)
	p.served(t, "[::1]:20300")
	began := time.Now()
	body, err := get(p.client, "http://[::1]:20300/graceful_startup")
	if err != nil || !strings.Contains(body, "not ready") || time.Since(began) > 3*time.Second {
		t.Errorf("%q, %v after %s", body, err, time.Since(began))
	}
}

// A port that is taken is said, and served when it is free.
func TestPortTaken(t *testing.T) {
	p := newPod(t, state.EnvoySettings{GracefulBind: "127.0.0.1:20300"})
	var taken net.Listener
	if err := p.ns.Do(func() (err error) { taken, err = net.Listen("tcp", "127.0.0.1:20300"); return err }); err != nil {
		t.Fatal(err)
	}
	m, _ := manage(t, p.registry, time.Minute)
	eventually(t, "it is said", func() bool {
		info, _ := m.Info("web-1")
		return len(info.Problems) == 1 && strings.Contains(info.Problems[0], "another process of its pod listens there")
	})
	taken.Close()
	eventually(t, "it is served", func() bool { return len(m.Problems()) == 0 })
	if _, err := get(p.client, "http://127.0.0.1:20300/graceful_startup"); err != nil {
		t.Error(err)
	}
}

// Whatever the paths are that a journal has, they are no patterns, and no reason
// to end.
func TestPathsAreNoPatterns(t *testing.T) {
	for _, path := range []string{"/{x", "/a/{b...}", "/graceful_shutdown"} {
		t.Run(path, func(t *testing.T) {
			p := newPod(t, state.EnvoySettings{GracefulBind: "127.0.0.1:20300", GracefulStartupPath: path})
			manage(t, p.registry, time.Minute)
			p.served(t, "127.0.0.1:20300")
			if _, err := get(p.client, "http://127.0.0.1:20300"+(&url.URL{Path: path}).EscapedPath()); err != nil {
				t.Error(err)
			}
		})
	}
}

// Settings that change take effect for the process that is there.
func TestSettingsChange(t *testing.T) {
	p := newPod(t, state.EnvoySettings{GracefulBind: "127.0.0.1:20300"})
	m, _ := manage(t, p.registry, time.Minute)
	p.served(t, "127.0.0.1:20300")
	p.registry.register(p.registry.proxy.Process, state.EnvoySettings{GracefulBind: "127.0.0.1:20301"}, ownerOf(t, p.ns))
	m.Look()
	p.served(t, "127.0.0.1:20301")
	if _, err := get(p.client, "http://127.0.0.1:20300/graceful_startup"); err == nil {
		t.Error("the old address is still served")
	}
}

// One who is not root gets no port that is for root, and nothing is done in a
// namespace that is not the VIP's.
func TestNotForEverybody(t *testing.T) {
	t.Run("port for root", func(t *testing.T) {
		p := newPod(t, state.EnvoySettings{GracefulBind: "127.0.0.1:80"})
		p.registry.proxy.Process.UID = 65532
		m, _ := manage(t, p.registry, time.Minute)
		eventually(t, "it is refused", func() bool {
			return strings.Contains(strings.Join(m.Problems(), ""), "port 80: a port for root alone")
		})
	})
	t.Run("another namespace", func(t *testing.T) {
		p := newPod(t, state.EnvoySettings{GracefulBind: "127.0.0.1:20300", ShutdownDrain: true})
		p.registry.proxy.Owner = ownerOf(t, testenv.Netns(t))
		m, _ := manage(t, p.registry, time.Minute)
		eventually(t, "it is refused", func() bool {
			return strings.Contains(strings.Join(m.Problems(), ""), "is in another network namespace")
		})
	})
	t.Run("address of no pod", func(t *testing.T) {
		p := newPod(t, state.EnvoySettings{GracefulBind: "192.0.2.1:20300"})
		m, _ := manage(t, p.registry, time.Minute)
		eventually(t, "it is refused", func() bool {
			return strings.Contains(strings.Join(m.Problems(), ""), "not an address of this network namespace")
		})
	})
}

// A pod that opens connections and says nothing has its own places, and gets
// them back.
func TestConnectionsAreBounded(t *testing.T) {
	p := newPod(t, state.EnvoySettings{GracefulBind: "127.0.0.1:20300"})
	manage(t, p.registry, time.Minute)
	p.served(t, "127.0.0.1:20300")
	var open []net.Conn
	for range maxSessionsOf + 4 {
		var c net.Conn
		if err := p.ns.Do(func() (err error) { c, err = net.Dial("tcp", "127.0.0.1:20300"); return err }); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		open = append(open, c)
	}
	closed := 0
	for _, c := range open {
		_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); err == io.EOF {
			closed++
		}
	}
	if closed < 4 || closed > 5 { // that of served may still have had its place
		t.Errorf("%d of %d connections were closed, want 4", closed, len(open))
	}
	for _, c := range open {
		c.Close()
	}
	eventually(t, "there is a place again", func() bool {
		_, err := get(p.client, "http://127.0.0.1:20300/graceful_startup")
		return err == nil
	})
}

const (
	ofEnvoy   = "# TYPE envoy_x counter\nenvoy_x 1\n"
	ofService = "app_x{a=\"b\"} 2\n"
)

// Metrics are those of Envoy and those of the service; what one of them does
// wrong takes nothing from the other.
func TestMergedMetrics(t *testing.T) {
	endless := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, ofService+"app_half 1")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	for name, test := range map[string]struct {
		url     string
		service http.Handler
		want    string // of the service's own
		problem string // "": none
		scraper string // seconds that it waits
	}{
		"both":             {"http://127.0.0.1:9090/m?x=y", says(ofService), ofService, "", ""},
		"by name":          {"http://localhost:9090/m", says(ofService), ofService, "", ""},
		"no last newline":  {"http://127.0.0.1:9090/m", says("app_x 2"), "app_x 2\n", "", ""},
		"OpenMetrics' end": {"http://127.0.0.1:9090/m", says(ofService + "# EOF\n"), ofService, "", ""},
		"no service":       {"", nil, "", "", ""},
		"nobody there":     {"http://127.0.0.1:9091/m", nil, "", "connection refused", ""},
		"fails":            {"http://127.0.0.1:9090/m", http.NotFoundHandler(), "", "answers with status 404", ""},
		"goes elsewhere":   {"http://127.0.0.1:9090/m", http.RedirectHandler("http://127.0.0.1:19000/config_dump", 302), "", "answers with status 302", ""},
		"breaks off":       {"http://127.0.0.1:9090/m", endless, ofService, "context deadline exceeded", "1"},
		"a line too long":  {"http://127.0.0.1:9090/m", says(ofService + strings.Repeat("x", 2*maxLine)), ofService, "a line is longer", ""},
		"not of the pod":   {"http://192.0.2.7:9090/m", nil, "", "neither a loopback address nor one of the pod's", ""},
		"a name":           {"http://metadata.example/m", nil, "", "is not an address", ""},
		"another scheme":   {"file:///etc/shadow", nil, "", "is no URL of the form", ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPod(t, state.EnvoySettings{Prometheus: &state.PrometheusSettings{MergePort: 20100, ServiceMetricsURL: test.url}})
			p.envoy.metrics = ofEnvoy
			if test.service != nil {
				listenIn(t, p.ns, "127.0.0.1:9090", test.service)
			}
			manage(t, p.registry, time.Minute)
			p.served(t, "127.0.0.1:20100")
			req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://127.0.0.1:20100/stats/prometheus", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", test.scraper)
			answer, err := p.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			body, err := io.ReadAll(answer.Body)
			if err != nil {
				t.Fatal(err)
			}
			got := string(body)
			rest, ok := strings.CutPrefix(got, ofEnvoy+test.want+"# HELP lictor_merged_scrape_success ")
			if !ok || !strings.Contains(rest, `lictor_merged_scrape_success{source="envoy"} 1`) {
				t.Errorf("got\n%s", got)
			}
			if test.url != "" {
				gauge := fmt.Sprintf("lictor_merged_scrape_success{source=\"service\"} %d\n", map[bool]int{true: 1}[test.problem == ""])
				if !strings.Contains(rest, gauge) || !strings.Contains(rest, test.problem) {
					t.Errorf("got\n%s\nwithout %q or %q", got, gauge, test.problem)
				}
			}
			if asked := p.envoy.requests(); !slices.Equal(asked, []string{"GET /stats/prometheus"}) {
				t.Errorf("envoy was asked %q", asked)
			}
		})
	}
}

func says(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) })
}

// The namespace of a process that has ended is not kept.
func TestNamespaceIsLeft(t *testing.T) {
	p := newPod(t, state.EnvoySettings{GracefulBind: "127.0.0.1:20300", Prometheus: &state.PrometheusSettings{MergePort: 20100}})
	m, _ := manage(t, p.registry, time.Minute)
	p.served(t, "127.0.0.1:20300")
	p.served(t, "127.0.0.1:20100")
	p.child.kill()
	eventually(t, "its end is noticed", func() bool { return phase(m) == Gone })
	for _, port := range []string{"20300", "20100"} {
		var l net.Listener
		if err := p.ns.Do(func() (err error) { l, err = net.Listen("tcp", "127.0.0.1:"+port); return err }); err != nil {
			t.Errorf("port %s: %v", port, err)
			continue
		}
		l.Close()
	}
}
