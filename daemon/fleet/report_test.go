package fleet

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/daemon/catalog"
)

func (s *store) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writes
}

func (s *store) reportOf(node string) (h v1.FleetHost) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = json.Unmarshal(s.keys[HostPrefix+node].Value, &h)
	return h
}

// A host reports once, and again when something has changed that matters; what
// changes all day waits.
func TestReportsOnChange(t *testing.T) {
	s, h := newStore(), newHost("consul-1")
	m, _ := manage(t, "a", h, s)
	eventually(t, "version", func() string { return s.reportOf("a").Version }, "1.0")
	still(t, "reports", func() string { return fmt.Sprint(s.count()) }, "1")

	change := func(change func(*v1.FleetHost)) {
		h.mu.Lock()
		defer h.mu.Unlock()
		change(&h.reports)
	}
	change(func(r *v1.FleetHost) { r.Seq = 77; r.Servers = nil })
	still(t, "reports", func() string { return fmt.Sprint(s.count()) }, "1")
	change(func(r *v1.FleetHost) { r.Proxies.Total = 5 })
	still(t, "reports", func() string { return fmt.Sprint(s.count()) }, "1")
	change(func(r *v1.FleetHost) { r.Ready = false })
	eventually(t, "ready", func() string { return fmt.Sprint(s.reportOf("a").Ready) }, "false")
	if got := s.reportOf("a"); got.Seq != 77 || got.Proxies.Total != 5 || got.ID != "journal of a" || got.Reported.IsZero() {
		t.Errorf("report %+v", got)
	}
	f, err := m.Fleet(t.Context())
	if err != nil || len(f.Hosts) != 1 || f.Hosts[0].Node != "a" || f.Hosts[0].Silent || f.Consul.URL == "" {
		t.Errorf("fleet %+v, %v", f, err)
	}
}

// A lictord that stops says so, unless Consul does not answer; the next one takes
// that back.
func TestAReportSaysThatItStops(t *testing.T) {
	s, h := newStore(), newHost("consul-1")
	_, stop := manage(t, "a", h, s)
	eventually(t, "version", func() string { return s.reportOf("a").Version }, "1.0")
	stop()
	if r := s.reportOf("a"); r.Stopped.IsZero() || r.Ready {
		t.Errorf("report %+v", r)
	}
	_, stop = manage(t, "a", h, s)
	eventually(t, "stopped", func() string { return fmt.Sprint(s.reportOf("a").Stopped.IsZero()) }, "true")
	s.set(func() { s.lost = true })
	began := time.Now()
	stop()
	if took := time.Since(began); took > time.Second {
		t.Errorf("stopping took %v", took)
	}
}

func TestUrgent(t *testing.T) {
	base := func() v1.FleetHost {
		return v1.FleetHost{
			Version: "1", Ready: true, Problems: []string{"a"},
			Servers: []v1.FleetServer{{ID: "s1", Listed: true, Proxies: 2, Active: 2}, {ID: "s2", Drained: true, Active: 3}},
		}
	}
	for _, tc := range []struct {
		name   string
		change func(*v1.FleetHost)
		want   urgency
	}{
		{"nothing", func(*v1.FleetHost) {}, notNow},
		{"journal", func(h *v1.FleetHost) { h.Seq = 9 }, notNow},
		{"connections of a server in use", func(h *v1.FleetHost) { h.Servers[0].Active = 9 }, notNow},
		{"proxies", func(h *v1.FleetHost) { h.Proxies.Total++ }, calm},
		{"proxies of a server", func(h *v1.FleetHost) { h.Servers[0].Proxies++ }, calm},
		{"a server is gone", func(h *v1.FleetHost) { h.Servers = h.Servers[1:] }, calm},
		{"words of a problem", func(h *v1.FleetHost) { h.Problems[0] = "b" }, calm},
		{"another problem", func(h *v1.FleetHost) { h.Problems = append(h.Problems, "b") }, prompt},
		{"connections of a drained one", func(h *v1.FleetHost) { h.Servers[1].Active = 1 }, prompt},
		{"a drain", func(h *v1.FleetHost) { h.Servers[0].Drained = true }, prompt},
		{"ready", func(h *v1.FleetHost) { h.Ready = false }, prompt},
		{"a restart", func(h *v1.FleetHost) { h.Started = time.Now() }, prompt},
	} {
		is := base()
		tc.change(&is)
		if got := urgent(base(), is); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

// A process goes on with the session of the one before; one that has ended is
// replaced, and so is one whose node was taken away.
func TestSessions(t *testing.T) {
	s, h := newStore(), newHost()
	m := newManager("a", h, s)
	write := func() {
		t.Helper()
		if err := m.write(t.Context(), v1.FleetHost{ID: "journal of a"}); err != nil {
			t.Fatal(err)
		}
	}
	write()
	if s.nodes["lictor-a"] == "" || s.sessions["session-1"] != "lictor-a" || s.keys[HostPrefix+"a"].Session != "session-1" {
		t.Fatalf("nodes %v, sessions %v, key %+v", s.nodes, s.sessions, s.keys[HostPrefix+"a"])
	}
	m = newManager("a", h, s)
	write()
	if len(s.sessions) != 1 {
		t.Errorf("sessions %v", s.sessions)
	}
	if err := s.DestroySession(t.Context(), "session-1"); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.keys[HostPrefix+"a"]; ok {
		t.Fatal("the report has outlived its session")
	}
	write()
	if s.keys[HostPrefix+"a"].Session != "session-2" {
		t.Errorf("key %+v", s.keys[HostPrefix+"a"])
	}
	m.renewed = m.renewed.Add(-m.timing.ttl) // due, and it has ended meanwhile
	_ = s.DestroySession(t.Context(), "session-2")
	write()
	if s.keys[HostPrefix+"a"].Session != "session-3" {
		t.Errorf("key %+v", s.keys[HostPrefix+"a"])
	}
}

// Two hosts of one name: the second says so and leaves the first alone, until
// that has been silent.
func TestTwoHostsOfOneName(t *testing.T) {
	s, h := newStore(), newHost()
	first, second := newManager("a", h, s), newManager("a", h, s)
	second.cfg.ID = "another journal"
	if err := first.write(t.Context(), v1.FleetHost{ID: first.cfg.ID}); err != nil {
		t.Fatal(err)
	}
	err := second.write(t.Context(), v1.FleetHost{ID: second.cfg.ID})
	if !errors.Is(err, errCollision) || !strings.Contains(err.Error(), "--node-name") {
		t.Fatalf("the second: %v", err)
	}
	second.amiss(t.Context(), partReport, err)
	if !strings.Contains(second.Status().Problem, "--node-name") {
		t.Errorf("status %+v", second.Status())
	}
	if s.reportOf("a").ID != first.cfg.ID {
		t.Error("the first one's report is gone")
	}
	second.now = func() time.Time { return time.Now().Add(time.Hour) }
	if err := second.write(t.Context(), v1.FleetHost{ID: second.cfg.ID}); err != nil {
		t.Fatalf("after an hour: %v", err)
	}
	if s.reportOf("a").ID != second.cfg.ID {
		t.Error("it has not taken over")
	}
}

// Reports are bounded, whatever a host says.
func TestReportOf(t *testing.T) {
	var servers []v1.Server
	for i := range 200 {
		servers = append(servers, v1.Server{ID: fmt.Sprintf("consul-%d", i), Active: 3})
	}
	st := v1.Status{Node: "a", Version: "1", Journal: v1.Journal{UUID: "u", Seq: 7}}
	for range 20 {
		st.Problems = append(st.Problems, strings.Repeat("é", 1000))
	}
	raw, err := json.Marshal(ReportOf(st, servers))
	if err != nil || len(raw) > 16<<10 {
		t.Errorf("%d bytes, %v", len(raw), err)
	}
}

// What others wrote is shown as far as it can be read.
func TestParseHost(t *testing.T) {
	m := newManager("a", newHost(), newStore())
	old := time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)
	for _, tc := range []struct {
		key, value string
		ok         bool
		check      func(v1.FleetHost) bool
	}{
		{HostPrefix + "b", `{"node":"liar","version":"2","reported_at":"` + old + `","new":{}}`, true,
			func(h v1.FleetHost) bool { return h.Node == "b" && h.Version == "2" && h.Silent }},
		{HostPrefix + "c", "garbage", true, func(h v1.FleetHost) bool { return h.Node == "c" && h.Unreadable != "" }},
		{HostPrefix, "", false, nil},
		{"elsewhere/x", "{}", false, nil},
	} {
		h, ok := m.parseHost(catalog.KVPair{Key: tc.key, Value: []byte(tc.value)})
		if ok != tc.ok || ok && !tc.check(h) {
			t.Errorf("%s: %+v, %v", tc.key, h, ok)
		}
	}
}
