package metrics

import (
	"context"
	"errors"
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/daemon/catalog"
	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/state"
)

var update = flag.Bool("update", false, "write testdata anew")

// full is a reading in which everything has a value.
func full() Reading {
	r := Reading{
		Ready: true, Hook: true,
		Proxies: map[v1.ProxyState]int{v1.ProxyConnected: 17, v1.ProxyWaiting: 2, v1.ProxyNoOwner: 1},
		Servers: []Server{
			{
				ID: "consul-1", Proxies: 20, Listed: true,
				Counters: kernel.Counters{
					Redirected: 110, Attempted: 107, Established: 100, Failed: 6, Closed: 40, Bounced: 3,
					BytesIn: 123456, BytesOut: 6543,
				},
				Latency: kernel.Histogram{Sum: 25 * time.Millisecond},
			},
			{ID: "[fd00::1]:8502", Proxies: 0, Drained: true},
		},
		Reasons: map[kernel.Reason]uint64{
			kernel.ReasonStranger: 4, kernel.ReasonWaiting: 9, kernel.ReasonRingDropped: 12, kernel.ReasonUntracked: 8,
		},
		RingDropped: 12,
		Drift:       map[string]uint64{"missing": 1, "changed": 2},
		Journal:     Journal{Seq: 4711, Bytes: 4 << 20, Writable: true, Pending: 3},
		Consul:      Consul{Contact: true, LastContact: time.UnixMilli(1767323045500), Failed: map[catalog.Reason]uint64{catalog.ReasonContact: 2}},
		Fleet:       Fleet{State: v1.FleetCut, Drains: 1, Reported: time.UnixMilli(1767323040000)},
	}
	r.Servers[0].Latency.Buckets[5] = 60
	r.Servers[0].Latency.Buckets[9] = 39
	r.Servers[0].Latency.Buckets[23] = 1
	return r
}

// used are the metrics of a daemon that has done one of everything.
func used(s Source) *Metrics {
	m := New("1.2.3")
	m.JournalAppended(700 * time.Microsecond)
	m.Reconciled(3 * time.Millisecond)
	m.Placed(state.PlaceBounced)
	m.RingEvent(kernel.EventEstablished)
	m.Collect(s)
	m.CollectCredentials(func() Credentials {
		return Credentials{
			Proxies: map[state.CredentialState]int{"": 1, state.CredentialOK: 7, state.CredentialRefused: 2},
			Logins:  5, Logouts: 4, Reopened: 3, Leaving: 1, Failures: map[string]uint64{"contact": 2, "bearer": 1},
		}
	})
	return m
}

func scrape(t *testing.T, m *Metrics) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	return w
}

func reading(context.Context) (Reading, error) { return full(), nil }

func TestExposition(t *testing.T) {
	w := scrape(t, used(reading))
	if w.Code != http.StatusOK {
		t.Fatalf("%d: %s", w.Code, w.Body)
	}
	got := regexp.MustCompile(`goversion="[^"]*"`).ReplaceAllString(w.Body.String(), `goversion="go"`)
	got = regexp.MustCompile(`(?m)^(# (HELP|TYPE) )?process_.*\n`).ReplaceAllString(got, "") // differ each time
	golden := filepath.Join("testdata", "exposition.txt")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the exposition differs from %s; look at it, and run with -update\n%s", golden, got)
	}
}

func TestLint(t *testing.T) {
	problems, err := promlint.New(scrape(t, used(reading)).Body).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// The names are a contract: dashboards and alerts are written against them.
func TestNames(t *testing.T) {
	want := []string{
		"lictor_build_info",
		"lictor_consul_contact",
		"lictor_consul_last_contact_timestamp_seconds",
		"lictor_consul_query_errors_total{reason}",
		"lictor_credential_failures_total{reason}",
		"lictor_credential_reopens_total",
		"lictor_denied_total{reason}",
		"lictor_fleet_drains{state}",
		"lictor_fleet_report_timestamp_seconds",
		"lictor_fleet_state{state}",
		"lictor_hook_in_effect",
		"lictor_irregular_total{reason}",
		"lictor_journal_append_seconds",
		"lictor_journal_bytes",
		"lictor_journal_pending_events",
		"lictor_journal_seq",
		"lictor_journal_writable",
		"lictor_logins_total",
		"lictor_logouts_pending",
		"lictor_logouts_total",
		"lictor_placements_total{reason}",
		"lictor_proxies{server}",
		"lictor_proxy_credentials{state}",
		"lictor_proxy_states{state}",
		"lictor_ready",
		"lictor_reconcile_drift_total{kind}",
		"lictor_reconcile_seconds",
		"lictor_ring_events_dropped_total",
		"lictor_ring_events_total{kind}",
		"lictor_server_bytes_total{direction,server}",
		"lictor_server_connect_seconds{server}",
		"lictor_server_connections_active{server,service}",
		"lictor_server_connections_total{result,server,service}",
		"lictor_server_drained{server}",
		"lictor_server_listed{server}",
	}
	families, err := used(reading).registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range families {
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		name := f.GetName()
		if strings.HasPrefix(name, "process_") {
			continue // of the client library, for every process
		}
		if len(labels) > 0 && name != "lictor_build_info" {
			slices.Sort(labels)
			name += "{" + strings.Join(labels, ",") + "}"
		}
		got = append(got, name)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Half a set of series would read as a fall to nothing.
func TestSourceFails(t *testing.T) {
	w := scrape(t, used(func(context.Context) (Reading, error) { return Reading{}, errors.New("no map") }))
	if w.Code != http.StatusInternalServerError || !strings.Contains(w.Body.String(), "no map") {
		t.Errorf("%d: %s", w.Code, w.Body)
	}
}

// A source that hangs is told when to stop.
func TestSourceHasADeadline(t *testing.T) {
	scrape(t, used(func(ctx context.Context) (Reading, error) {
		if _, ok := ctx.Deadline(); !ok {
			t.Error("no deadline")
		}
		return full(), nil
	}))
}

// Counters that are read while they are counted may be ahead of one another.
func TestTornCounters(t *testing.T) {
	m := used(func(context.Context) (Reading, error) {
		r := full()
		r.Servers[0].Counters = kernel.Counters{Redirected: 4, Attempted: 5, Established: 6, Closed: 7}
		return r, nil
	})
	body := scrape(t, m).Body.String()
	for _, want := range []string{
		`lictor_server_connections_active{server="consul-1",service="xds"} 0`,
		`lictor_server_connections_total{result="failed_local",server="consul-1",service="xds"} 0`,
	} {
		if !strings.Contains(body, want+"\n") {
			t.Errorf("no line %q", want)
		}
	}
}

// A name that Prometheus does not take is an error of the scrape, and no panic.
func TestLabelThatIsNotUTF8(t *testing.T) {
	w := scrape(t, used(func(context.Context) (Reading, error) {
		return Reading{Servers: []Server{{ID: "a\xff"}}}, nil
	}))
	if w.Code != http.StatusInternalServerError {
		t.Errorf("%d: %s", w.Code, w.Body)
	}
}

func TestRingEvents(t *testing.T) {
	m := New("1.2.3")
	for range 3 {
		m.RingEvent(kernel.EventBounced)
	}
	got := m.RingEvents()
	if got["bounced"] != 3 || got["established"] != 0 || len(got) != 6 {
		t.Errorf("got %v", got)
	}
}

// A scrape at a hundred servers; proxies are not in the labels.
func BenchmarkScrape(b *testing.B) {
	r := full()
	for i := range 98 {
		s := r.Servers[0]
		s.ID = "consul-x" + string(rune('0'+i/10)) + string(rune('0'+i%10))
		r.Servers = append(r.Servers, s)
	}
	h := used(func(context.Context) (Reading, error) { return r, nil }).Handler()
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/metrics", nil))
	}
}
