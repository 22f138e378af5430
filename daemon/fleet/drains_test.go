package fleet

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/daemon/catalog"
)

const drain2 = DrainPrefix + "consul-2"

// A drain that somebody asked for on one host is in force on all, and ends on
// all; what was drained on a host alone stays.
func TestDrainsReachEveryHost(t *testing.T) {
	s := newStore()
	a, b := newHost("consul-1", "consul-2", "consul-3"), newHost("consul-1", "consul-2", "consul-3")
	ma, _ := manage(t, "a", a, s)
	mb, _ := manage(t, "b", b, s)
	if err := b.Drain(t.Context(), "consul-1", "uid 0", true); err != nil {
		t.Fatal(err)
	}

	if err := ma.Drain(t.Context(), "consul-2", "uid 0 on a", true); err != nil {
		t.Fatal(err)
	}
	eventually(t, "on a", a.drained, "consul-2 fleet: uid 0 on a")
	if by, ok := ma.Holds("consul-2"); !ok || by != "uid 0 on a" {
		t.Errorf("the fleet holds it by %q, %v", by, ok)
	}
	eventually(t, "drains of b", func() string { return strings.Join(mb.Status().Drains, " ") }, "consul-2")
	if err := mb.Drain(t.Context(), "consul-2", "uid 7 on b", true); err != nil {
		t.Errorf("the same again: %v", err)
	}
	still(t, "on a", a.drained, "consul-2 fleet: uid 0 on a")

	if err := mb.Drain(t.Context(), "consul-2", "uid 0 on b", false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "on a", a.drained, "")
	eventually(t, "on b", b.drained, "consul-1 uid 0")
	if err := mb.Drain(t.Context(), "consul-2", "uid 0 on b", false); err != nil {
		t.Errorf("ending what has ended: %v", err)
	}
}

// A drain of the fleet does not take over one of the host's own, and ends
// without it.
func TestALocalDrainStaysLocal(t *testing.T) {
	s, h := newStore(), newHost("consul-1", "consul-2")
	m, _ := manage(t, "a", h, s)
	if err := h.Drain(t.Context(), "consul-2", "uid 0", true); err != nil {
		t.Fatal(err)
	}
	s.put(drain2, `{"by":"uid 0 on b"}`)
	eventually(t, "drains", func() string { return strings.Join(m.Status().Drains, " ") }, "consul-2")
	s.remove(drain2)
	eventually(t, "drains", func() string { return strings.Join(m.Status().Drains, " ") }, "")
	still(t, "on the host", h.drained, "consul-2 uid 0")
}

// An operator who ends a fleet's drain on one host alone does not end it.
func TestAFleetDrainIsPutBack(t *testing.T) {
	s, h := newStore(), newHost("consul-1", "consul-2")
	manage(t, "a", h, s)
	s.put(drain2, "")
	eventually(t, "on the host", h.drained, "consul-2 fleet: the key lictor/drains/consul-2")
	if err := h.Drain(t.Context(), "consul-2", "uid 0", false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "on the host", h.drained, "consul-2 fleet: the key lictor/drains/consul-2")
}

// A host that was away while a drain was set, and while another ended, has both
// when it is back, also if the server is seen later only.
func TestAHostThatWasAway(t *testing.T) {
	s, h := newStore(), newHost("consul-1", "consul-3")
	s.put(DrainPrefix+"consul-1", `{"by":"x"}`)
	_, stop := manage(t, "a", h, s)
	eventually(t, "on the host", h.drained, "consul-1 fleet: x")
	stop()
	s.remove(DrainPrefix + "consul-1")
	s.put(drain2, `{"by":"y"}`)
	m, _ := manage(t, "a", h, s)
	eventually(t, "on the host", h.drained, "")
	eventually(t, "waiting", func() string { return strings.Join(m.Status().Waiting, " ") }, "consul-2")
	h.see("consul-2")
	eventually(t, "on the host", h.drained, "consul-2 fleet: y")
	eventually(t, "waiting", func() string { return strings.Join(m.Status().Waiting, " ") }, "")
}

// What is not known to be gone stays drained: without Consul, with a token that
// may not read, on the word of a server that is behind, and of a store that was
// never written to.
func TestDrainsOutliveConsul(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fault func(*store)
		why   string // in the status
	}{
		{"lost", func(s *store) { s.lost = true }, "no Consul server answers"},
		{"filtered", func(s *store) { s.hide[DrainPrefix] = true }, `give it key_prefix "lictor/drains/" read`},
		{"behind", func(s *store) { s.behind = &catalog.KVList{Index: 3} }, ""},
		{"another Consul", func(s *store) { s.keys, s.index = map[string]catalog.KVPair{}, 0 }, "replaced or set back"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, h := newStore(), newHost("consul-1", "consul-2")
			s.index = 1000
			s.put(drain2, `{"by":"x"}`)
			m, stop := manage(t, "a", h, s)
			const want = "consul-2 fleet: x"
			eventually(t, "on the host", h.drained, want)
			s.set(func() { tc.fault(s) })
			// Neither the process that saw it nor one that did not.
			still(t, "on the host", h.drained, want)
			st := m.Status()
			if tc.name != "another Consul" { // which a new process cannot know
				stop()
				m = newManager("a", h, s)
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() { defer close(done); m.watch(ctx) }()
				t.Cleanup(func() { cancel(); <-done })
				still(t, "on the host", func() string { _, _ = m.apply(t.Context()); return h.drained() }, want)
				st = m.Status()
			}
			if tc.why == "" {
				if st.Why != "" || st.Problem != "" {
					t.Errorf("status %+v", st)
				}
			} else if !strings.Contains(st.Why+st.Problem, tc.why) {
				t.Errorf("status %+v says nothing of %q", st, tc.why)
			}
		})
	}
}

// A drain that a replaced store cannot end is ended by setting it there and
// taking it away.
func TestAReplacedStore(t *testing.T) {
	s, h := newStore(), newHost("consul-1", "consul-2")
	s.index = 1000
	s.put(drain2, `{"by":"x"}`)
	m, _ := manage(t, "a", h, s)
	eventually(t, "on the host", h.drained, "consul-2 fleet: x")
	s.set(func() { s.keys, s.index = map[string]catalog.KVPair{}, 0 })
	eventually(t, "problem", func() string {
		if strings.Contains(m.Status().Problem, "lictor drain consul-2 --fleet and then lictor undrain consul-2 --fleet") {
			return "said"
		}
		return m.Status().Problem
	}, "said")
	for _, drained := range []bool{true, false} {
		if err := m.Drain(t.Context(), "consul-2", "x", drained); err != nil {
			t.Fatal(err)
		}
		if drained {
			eventually(t, "problem", func() string { return m.Status().Problem }, "")
		}
	}
	eventually(t, "on the host", h.drained, "")
}

// When Consul is back, what happened meanwhile is caught up with.
func TestConsulComesBack(t *testing.T) {
	s, h := newStore(), newHost("consul-1", "consul-2")
	s.put(drain2, `{"by":"x"}`)
	m, _ := manage(t, "a", h, s)
	eventually(t, "on the host", h.drained, "consul-2 fleet: x")
	s.set(func() { s.lost = true })
	eventually(t, "state", func() string { return string(m.Status().State) }, "no contact")
	s.remove(drain2)
	still(t, "on the host", h.drained, "consul-2 fleet: x")
	s.set(func() { s.lost = false })
	eventually(t, "on the host", h.drained, "")
	eventually(t, "state", func() string { return string(m.Status().State) }, "on")
}

// Who gives no permission has switched it off: a sentence, and no problem. Taken
// away while a drain is in force it is one.
func TestWithoutPermission(t *testing.T) {
	s, h := newStore(), newHost("consul-1", "consul-2")
	s.hide[DrainPrefix], s.deny["node"], s.deny[DrainPrefix] = true, true, true
	m, _ := manage(t, "a", h, s)
	eventually(t, "state", func() string { return string(m.Status().State) }, "off")
	eventually(t, "both halves", func() string {
		if why := m.Status().Why; strings.Contains(why, `"lictor/drains/" read`) && strings.Contains(why, `"lictor-" write`) {
			return "said"
		}
		return m.Status().Why
	}, "said")
	if st := m.Status(); st.Problem != "" {
		t.Errorf("a problem: %s", st.Problem)
	}
	err := m.Drain(t.Context(), "consul-2", "x", true)
	if !errors.Is(err, ErrForbidden) || !strings.Contains(err.Error(), "consul kv put lictor/drains/") {
		t.Errorf("draining: %v", err)
	}
	s.set(func() { clear(s.hide) })
	s.put(drain2, `{"by":"x"}`)
	eventually(t, "on the host", h.drained, "consul-2 fleet: x")
	s.set(func() { s.hide[DrainPrefix] = true })
	eventually(t, "problem", func() string {
		if strings.Contains(m.Status().Problem, "not followed") {
			return "said"
		}
		return m.Status().Problem
	}, "said")
}

// A journal that cannot be written is said, and the drain comes into force when
// it can.
func TestASickJournal(t *testing.T) {
	s, h := newStore(), newHost("consul-1", "consul-2")
	h.sick = errors.New("disk is full")
	m, _ := manage(t, "a", h, s)
	s.put(drain2, `{"by":"x"}`)
	eventually(t, "problem", func() string { return m.Status().Problem },
		"consul-2 is drained for the fleet, but not on this host yet: disk is full")
	h.mu.Lock()
	h.sick = nil
	h.mu.Unlock()
	eventually(t, "on the host", h.drained, "consul-2 fleet: x")
	eventually(t, "problem", func() string { return m.Status().Problem }, "")
}

// A server that nobody has seen here is not drained from here.
func TestDrainRefuses(t *testing.T) {
	s, h := newStore(), newHost("consul-1", "consul-2")
	m := newManager("a", h, s)
	if err := m.Drain(t.Context(), "typo", "x", true); !errors.Is(err, ErrUnknown) {
		t.Errorf("an unknown server: %v", err)
	}
	s.lost = true
	if err := m.Drain(t.Context(), "consul-2", "x", true); !errors.Is(err, ErrUnavailable) {
		t.Errorf("without Consul: %v", err)
	}
	m.cfg.Off = "because"
	if err := m.Drain(t.Context(), "consul-2", "x", false); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "because") {
		t.Errorf("off: %v", err)
	}
	if f, err := m.Fleet(t.Context()); err != nil || f.Status.State != v1.FleetOff || f.Status.Why != "because" {
		t.Errorf("fleet %+v, %v", f, err)
	}
}

// The last server of a host is not drained, whoever wants it; a drain waits until
// there is another one.
func TestTheLastServerIsNotDrained(t *testing.T) {
	s, h := newStore(), newHost("consul-1", "consul-2")
	s.put(drain2, `{"by":"x"}`)
	m, _ := manage(t, "a", h, s)
	eventually(t, "on the host", h.drained, "consul-2 fleet: x")
	if err := m.Drain(t.Context(), "consul-1", "x", true); !errors.Is(err, ErrLast) {
		t.Errorf("draining the last one: %v", err)
	}
	s.put(DrainPrefix+"consul-1", `{"by":"y"}`)
	eventually(t, "problem", func() string { return m.Status().Problem },
		"consul-1 is drained for the fleet, but not on this host: it has no other server")
	still(t, "on the host", h.drained, "consul-2 fleet: x")
	h.see("consul-3")
	eventually(t, "both", func() string { return strings.Join(m.Status().Drains, " ") }, "consul-1 consul-2")
}

// What the store holds may be anything.
func TestParseDrains(t *testing.T) {
	long := strings.Repeat("é", 200_000) // near what Consul takes
	found := parseDrains([]catalog.KVPair{
		{Key: DrainPrefix}, {Key: "elsewhere/x"}, {Key: DrainPrefix + "a/b"}, {Key: DrainPrefix + "-flag"},
		{Key: DrainPrefix + "plain", Value: []byte("yes")},
		{Key: DrainPrefix + "nothing"},
		{Key: DrainPrefix + "json", Value: []byte(`{"by":"op\u001b[31m","since":"2026-03-01T12:00:00Z","more":1}`)},
		{Key: DrainPrefix + "long", Value: []byte(`{"by":"` + long + `"}`)},
	})
	if len(found) != 4 {
		t.Errorf("found %v", found)
	}
	if d := found["json"]; d.By != "op[31m" || !d.Since.Equal(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)) {
		t.Errorf("json is %+v", d)
	}
	if by := found["long"].By; len(by) > maxBy || !strings.HasPrefix(long, by) {
		t.Errorf("long is %d bytes: %s", len(by), by)
	}
	if by := found["plain"].By; by != "the key lictor/drains/plain" {
		t.Errorf("plain is by %q", by)
	}
}

// Nothing is below the prefix but the mark, and hosts report beside it: the
// queries slow down.
func TestSpuriousAnswersSlowDown(t *testing.T) {
	s, h := newStore(), newHost("consul-1", "consul-2")
	m, _ := manage(t, "a", h, s)
	eventually(t, "read", func() string {
		if m.Status().Read.IsZero() {
			return "no"
		}
		return "yes"
	}, "yes")
	time.Sleep(60 * time.Millisecond)
	s.mu.Lock()
	before := s.asked
	s.mu.Unlock()
	for range 200 {
		s.put("elsewhere", "x")
		time.Sleep(time.Millisecond)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.asked - before; n > 40 {
		t.Errorf("%d queries for 200 writes elsewhere", n)
	}
	if _, ok := s.keys[DrainPrefix]; !ok {
		t.Error("there is no mark")
	}
}
