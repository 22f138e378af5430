package registry

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lictor-mesh/lictor/state"
)

// story is what a daemon goes through until it is killed. It keeps what was
// answered; what was not answered may or may not hold.
func story(h *host, told *promises) {
	h.servers("s1", "s2", "s3")
	var wg sync.WaitGroup
	for _, id := range []string{"a", "b", "c"} {
		wg.Go(func() { told.register(h, request(id)) })
	}
	wg.Wait()
	told.deregister(h, "b")
	told.drain(h, "s1", true)
	h.servers("s1", "s2", "s4")
	time.Sleep(300 * time.Millisecond) // a flush
	told.register(h, request("d"))
	told.register(h, request("a"))
	told.drain(h, "s1", false)
	told.note(h, "a", "t1", true)
	settings := request("a")
	settings.Envoy = &state.EnvoySettings{AdminBind: "127.0.0.1:19001"}
	told.register(h, settings)
	told.note(h, "a", "t2", true)
	told.note(h, "a", "t1", false)
	owner := request("c")
	owner.Owner.ID, owner.Override = 7777, true
	told.register(h, owner)
	h.maps.edit(func() { clear(h.maps.vips) })
	time.Sleep(6 * time.Second) // a reconcile
}

// A daemon is killed before, between and after any two of its steps: each
// commit, each entry written, each word of the kernel cleared. What was
// answered is in force when the next daemon has started, and what was not is
// wholly there or wholly absent.
func TestCrashAtEachStep(t *testing.T) {
	disks := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		lived := false
		for steps := 0; !lived; steps++ {
			h := newHost(t, filepath.Join(disks, fmt.Sprint(steps)))
			told := newPromises()
			h.startKilled(steps)
			if h.r != nil {
				story(h, told)
			}
			if lived = h.life.spare(); !lived {
				h.reap()
				h.start()
			}
			told.check(h)
			told.settle(h)
			story(h, told) // and it can all be done on what is left
			told.check(h)
			h.stop()
			if t.Failed() {
				t.Fatalf("killed after %d steps", steps)
			}
			if lived {
				t.Logf("killed at each of %d steps", steps)
				if steps < 40 {
					t.Error("there are more steps than that in the story")
				}
			}
		}
	})
}

// promises is a simple model of what callers were told.
type promises struct {
	mu      sync.Mutex
	proxies map[string]promised
	drains  map[string]holds
	logins  map[string]holds     // by accessor
	left    map[string]time.Time // by VIP: when its proxy was told that it is gone
}

type promised struct {
	registered holds
	vip        string // "" when nobody was told
	owner      uint64 // 0 when it may be the old or the new one
	admin      string // Envoy's setting; unclear when it may be the old or the new one
}

const unclear = "unclear"

// adminOf is the setting that tests change.
func adminOf(s *state.EnvoySettings) string {
	if s == nil {
		return ""
	}
	return s.AdminBind
}

// holds says whether something holds, as far as anybody was told.
type holds int

const (
	no holds = iota
	yes
	maybe
)

func newPromises() *promises {
	return &promises{proxies: map[string]promised{}, drains: map[string]holds{}, logins: map[string]holds{}, left: map[string]time.Time{}}
}

func (m *promises) register(h *host, req Request) {
	v, err := h.r.Register(h.ctx(), req)
	m.mu.Lock()
	defer m.mu.Unlock()
	was := m.proxies[req.ID]
	switch {
	case err != nil || h.life.killed():
		if was.registered == no {
			was = promised{registered: maybe}
		}
		if was.owner != req.Owner.ID {
			was.owner, was.admin = 0, unclear
		}
		if req.Envoy != nil {
			was.admin = unclear
		}
		m.proxies[req.ID] = was
		return
	case was.registered == yes && v.VIP.String() != was.vip:
		h.t.Errorf("%s: told %s, was told %s before", req.ID, v.VIP, was.vip)
	}
	vip := v.VIP.String()
	for id, other := range m.proxies {
		if id != req.ID && other.registered == yes && other.vip == vip {
			h.t.Errorf("%s: told %s, which %s has", req.ID, vip, id)
		}
	}
	if left, ok := m.left[vip]; ok && was.vip != vip && time.Since(left) < restFor {
		h.t.Errorf("%s: told %s, which was given up %s ago", req.ID, vip, time.Since(left))
	}
	now := promised{registered: yes, vip: vip, owner: req.Owner.ID, admin: adminOf(req.Envoy)}
	if req.Envoy == nil {
		switch {
		case was.registered == maybe, was.registered == yes && was.owner == 0:
			now.admin = unclear // it may be new, or have been another's, and lost
		case was.registered == yes && was.owner == req.Owner.ID:
			now.admin = was.admin
		}
	}
	if got := adminOf(v.Envoy); now.admin != unclear && got != now.admin {
		h.t.Errorf("%s: told settings %q, asked for %q", req.ID, got, now.admin)
	}
	m.proxies[req.ID] = now
}

// note has a token issued or deleted.
func (m *promises) note(h *host, proxy, accessor string, issued bool) {
	want := no
	var fact state.Body = state.LoggedOut{ID: proxy, Accessor: accessor}
	if issued {
		want, fact = yes, state.LoggedIn{ID: proxy, Accessor: accessor, AuthMethod: "m", Key: accessor}
	}
	err := h.r.Note(h.ctx(), fact)
	if err == nil && !h.life.killed() {
		m.logins[accessor] = want
	} else if m.logins[accessor] != want {
		m.logins[accessor] = maybe
	}
}

func (m *promises) deregister(h *host, id string) {
	err := h.r.Deregister(h.ctx(), id, state.LeaveOperator, nil)
	m.mu.Lock()
	defer m.mu.Unlock()
	was := m.proxies[id]
	if err == nil && !h.life.killed() {
		if was.vip != "" {
			m.left[was.vip] = time.Now()
		}
		m.proxies[id] = promised{}
	} else if was.registered == yes {
		was.registered = maybe
		m.proxies[id] = was
	}
}

func (m *promises) drain(h *host, id string, drained bool) {
	want := no
	if drained {
		want = yes
	}
	err := h.r.Drain(h.ctx(), id, "uid 0", drained)
	if err == nil && !h.life.killed() {
		m.drains[id] = want
	} else if m.drains[id] != want {
		m.drains[id] = maybe
	}
}

// settle finds out what holds of what nobody was told.
func (m *promises) settle(h *host) {
	snap := h.snapshot()
	for id, p := range m.proxies {
		if is := snap.State.Proxies[id]; is != nil {
			m.proxies[id] = promised{registered: yes, vip: is.VIP.String(), owner: is.Owner.ID, admin: adminOf(is.Envoy)}
		} else {
			if p.vip != "" && p.registered == maybe {
				m.left[p.vip] = time.Now().Add(-restFor) // since when it rests is not known
			}
			m.proxies[id] = promised{}
		}
	}
	for id := range m.drains {
		m.drains[id] = no
		if _, is := snap.State.Drained[id]; is {
			m.drains[id] = yes
		}
	}
	for token := range m.logins {
		m.logins[token] = no
		if _, is := snap.State.Logins[token]; is {
			m.logins[token] = yes
		}
	}
}

// check fails the test unless what was told is in force.
func (m *promises) check(h *host) {
	h.t.Helper()
	snap := h.snapshot()
	entries := 0
	for id, p := range m.proxies {
		is := snap.State.Proxies[id]
		switch {
		case p.registered == yes && is == nil:
			h.t.Errorf("%s was registered and is not there", id)
		case p.registered == no && is != nil:
			h.t.Errorf("%s was deregistered and is there", id)
		}
		if is == nil {
			continue
		}
		if p.vip != "" && is.VIP.String() != p.vip {
			h.t.Errorf("%s was told %s and has %s", id, p.vip, is.VIP)
		}
		if p.owner != 0 && is.Owner.ID != p.owner {
			h.t.Errorf("%s was told owner %d and has %d", id, p.owner, is.Owner.ID)
		}
		if admin := adminOf(is.Envoy); p.registered == yes && p.admin != unclear && admin != p.admin {
			h.t.Errorf("%s was told settings %q and has %q", id, p.admin, admin)
		}
		h.inForce(id)
		entries += len(h.r.keys(is))
	}
	for id, p := range m.drains {
		_, is := snap.State.Drained[id]
		if p == yes && !is || p == no && is {
			h.t.Errorf("drain of %s: %t", id, is)
		}
	}
	for token, p := range m.logins {
		_, is := snap.State.Logins[token]
		if p == yes && !is || p == no && is {
			h.t.Errorf("token %s is to be deleted: %t", token, is)
		}
	}
	actual, _ := h.maps.VIPs()
	if len(actual) != entries {
		h.t.Errorf("%d entries in the map for %d proxies", len(actual), entries)
	}
	for _, v := range actual {
		for _, b := range v.Ranked {
			for id, p := range m.drains {
				if p == yes && b.Slot == snap.Slots[id] {
					h.t.Errorf("%s leads to %s, which is drained", v.Key.Addr, id)
				}
			}
		}
	}
}
