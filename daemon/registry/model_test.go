package registry

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/state"
)

// bubbled hides *testing.T from rapid, which asks it for a deadline: there is
// none in a bubble.
type bubbled struct{ rapid.TB }

// Random commands, with crashes between any two steps, on sick disks and
// kernels, against the model of what callers were told. At each end of a daemon
// the journal gives the state that was.
func TestPromisesHold(t *testing.T) {
	disks := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		n := 0
		rapid.Check(bubbled{t}, func(rt *rapid.T) {
			n++
			h := newHost(rt, filepath.Join(disks, fmt.Sprint(n)))
			h.v6 = rapid.Bool().Draw(rt, "v6")
			h.start()
			m := &model{host: h, told: newPromises()}
			defer func() {
				if h.r != nil { // rt has failed: leave no goroutine behind
					h.kill()
				}
			}()
			rt.Repeat(rapid.StateMachineActions(m))
			m.calm()
			h.stop()
			m.oneASecond()
		})
	})
}

type model struct {
	*host
	told *promises
}

var (
	modelIDs     = []string{"a", "b", "c", "d", "e", "f"}
	modelServers = []string{"s1", "s2", "s3", "s4"}
)

func drawSome(rt *rapid.T, of []string, least int) []string {
	return rapid.SliceOfNDistinct(rapid.SampledFrom(of), least, len(of), rapid.ID[string]).Draw(rt, "some")
}

// Register registers some at once.
func (m *model) Register(rt *rapid.T) {
	var wg sync.WaitGroup
	for _, id := range drawSome(rt, modelIDs, 1) {
		wg.Go(func() { m.told.register(m.host, request(id)) })
	}
	wg.Wait()
}

// Deregister deregisters one.
func (m *model) Deregister(rt *rapid.T) {
	m.told.deregister(m.host, rapid.SampledFrom(modelIDs).Draw(rt, "id"))
}

// ChangeOwner registers one with another owner.
func (m *model) ChangeOwner(rt *rapid.T) {
	req := request(rapid.SampledFrom(modelIDs).Draw(rt, "id"))
	req.Owner.ID, req.Override = rapid.Uint64Range(7000, 7002).Draw(rt, "owner"), true
	m.told.register(m.host, req)
}

// ChangeSettings registers one with other settings.
func (m *model) ChangeSettings(rt *rapid.T) {
	req := request(rapid.SampledFrom(modelIDs).Draw(rt, "id"))
	req.Envoy = &state.EnvoySettings{AdminBind: rapid.SampledFrom([]string{"", "127.0.0.1:19001", "127.0.0.1:19002"}).Draw(rt, "admin")}
	m.told.register(m.host, req)
}

// Login has a token issued or deleted.
func (m *model) Login(rt *rapid.T) {
	token := rapid.SampledFrom([]string{"t1", "t2", "t3"}).Draw(rt, "token")
	m.told.note(m.host, rapid.SampledFrom(modelIDs).Draw(rt, "id"), token, rapid.Bool().Draw(rt, "issued"))
}

// Credential tells how the credential of one stands.
func (m *model) Credential(rt *rapid.T) {
	fact := state.CredentialChanged{
		ID:    rapid.SampledFrom(modelIDs).Draw(rt, "id"),
		State: rapid.SampledFrom(state.CredentialStates).Draw(rt, "state"),
	}
	if err := m.r.Note(m.ctx(), fact); err != nil {
		return // a sick disk
	}
	if p := m.snapshot().State.Proxies[fact.ID]; p != nil && p.CredentialState != fact.State {
		m.t.Errorf("%s: told %s, it is %s", fact.ID, fact.State, p.CredentialState)
	}
}

// Servers changes what the catalog lists.
func (m *model) Servers(rt *rapid.T) {
	list := specs(drawSome(rt, modelServers, 0)...)
	if len(list) > 0 && rapid.Bool().Draw(rt, "new port") {
		list[0].Port += 1000
	}
	m.r.SetServers(list)
	synctest.Wait()
}

// Drain drains or undrains a server.
func (m *model) Drain(rt *rapid.T) {
	id := rapid.SampledFrom(modelServers).Draw(rt, "server")
	if _, seen := m.snapshot().Slots[id]; seen {
		m.told.drain(m.host, id, rapid.Bool().Draw(rt, "drained"))
	}
}

// KernelMoves has the kernel pass over the first server of one.
func (m *model) KernelMoves(rt *rapid.T) {
	id := rapid.SampledFrom(modelIDs).Draw(rt, "id")
	if p := m.snapshot().State.Proxies[id]; p != nil && len(p.Ranked) > 1 {
		m.kernelMoves(id, kernel.HoldBounced)
		m.r.Touch(p.Index)
	}
}

// Meddle writes to the map behind the daemon's back.
func (m *model) Meddle(rt *rapid.T) {
	all := rapid.Bool().Draw(rt, "all")
	m.maps.edit(func() {
		for key, v := range m.maps.vips {
			if all {
				delete(m.maps.vips, key)
				continue
			}
			v.Ranked, v.Set = nil, 0
			m.maps.vips[key] = v
		}
	})
}

// Disk makes the disk slow, full or well.
func (m *model) Disk(rt *rapid.T) {
	m.sick(map[string]func() error{
		"slow": func() error { time.Sleep(700 * time.Millisecond); return nil },
		"full": func() error { return errDiskFull },
		"well": nil,
	}[rapid.SampledFrom([]string{"slow", "full", "well"}).Draw(rt, "disk")])
}

// Kernel makes writes of the map fail, or not.
func (m *model) Kernel(rt *rapid.T) {
	m.maps.failing(map[bool]error{true: errors.New("no memory")}[rapid.Bool().Draw(rt, "failing")])
}

// Sleep lets time pass.
func (m *model) Sleep(rt *rapid.T) {
	time.Sleep(time.Duration(rapid.SampledFrom([]int{1, 100, 300, 1000, 4000, 40000}).Draw(rt, "ms")) * time.Millisecond)
	synctest.Wait()
}

// Restart stops the daemon in order, on a disk and with a kernel that are well.
func (m *model) Restart(*rapid.T) {
	m.calm()
	m.restart()
}

// Crash kills the daemon some steps from now, while it does something.
func (m *model) Crash(rt *rapid.T) {
	m.life.mu.Lock()
	m.life.left = rapid.IntRange(0, 12).Draw(rt, "steps")
	m.life.mu.Unlock()
	actions := map[string]func(*rapid.T){
		"register": m.Register, "deregister": m.Deregister, "servers": m.Servers, "drain": m.Drain,
		"owner": m.ChangeOwner, "settings": m.ChangeSettings, "login": m.Login, "sleep": m.Sleep, "stop": func(*rapid.T) {},
	}
	for range 2 {
		actions[rapid.SampledFrom([]string{"register", "deregister", "servers", "drain", "owner", "settings", "login", "sleep", "stop"}).Draw(rt, "meanwhile")](rt)
	}
	m.kill()
	m.maps.failing(nil)
	m.start()
	m.told.settle(m.host)
}

// calm ends all sickness and lets the daemon mend what it can, and then checks
// that everything is as callers were told.
func (m *model) calm() {
	m.sick(nil)
	m.maps.failing(nil)
	time.Sleep(10 * time.Second)
	synctest.Wait()
	m.told.check(m.host)
	m.told.settle(m.host)
	if snap := m.snapshot(); snap.Pending > 0 {
		m.t.Errorf("%d facts are not journaled on a disk that is well", snap.Pending)
	}
}

// oneASecond checks what is journaled: at most one placement a VIP and second.
func (m *model) oneASecond() {
	last := map[string]time.Time{}
	for _, e := range m.events() {
		switch b := e.Body.(type) {
		case state.ProxyDeregistered:
			delete(last, b.ID)
		case state.Placed:
			at := e.Time
			if !b.At.IsZero() {
				at = b.At
			}
			if before, ok := last[b.ID]; ok && at.Sub(before) < time.Second {
				m.t.Errorf("%s placed at %s and at %s", b.ID, before, at)
			}
			last[b.ID] = at
		}
	}
}

// Check is asked after each command: what is promised is known, and VIPs are
// given once.
func (m *model) Check(*rapid.T) {
	snap := m.snapshot()
	if err := snap.State.Check(); err != nil {
		m.t.Errorf("state: %v", err)
	}
	if views, err := m.r.Views(m.ctx()); err == nil {
		var want Tally
		for _, v := range views {
			want[v.Doing()]++
		}
		if got, err := m.r.Tally(m.ctx()); err != nil || got != want {
			m.t.Errorf("tally %v, the views say %v: %v", got, want, err)
		}
	}
	for id, p := range m.told.proxies {
		is := snap.State.Proxies[id]
		if p.registered == yes && (is == nil || is.VIP.String() != p.vip) || p.registered == no && is != nil {
			m.t.Errorf("%s: told %+v, it is %+v", id, p, is)
		}
	}
	for id := range snap.State.Proxies {
		if !slices.Contains(modelIDs, id) {
			m.t.Errorf("nobody registered %s", id)
		}
	}
}
