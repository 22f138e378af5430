package registry

import (
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/state"
)

var errKilled = errors.New("killed")

// lifeline kills a daemon between two of its steps: nothing that it does from
// then on has an effect.
type lifeline struct {
	mu   sync.Mutex
	left int // steps until then; negative: it lives
	dead bool
}

// step says whether the daemon lives to do the next thing.
func (l *lifeline) step() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.left == 0 {
		l.dead = true
	}
	l.left--
	return !l.dead
}

// spare lets the daemon live on, unless it is dead.
func (l *lifeline) spare() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.left = -1
	return !l.dead
}

func (l *lifeline) killed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dead
}

// fakeMaps are the kernel's maps in memory. They outlive the daemon.
type fakeMaps struct {
	mu     sync.Mutex
	life   *lifeline
	vips   map[kernel.VIPKey]kernel.VIP
	states map[uint32]kernel.VIPState
	meta   kernel.Meta
	fail   error // of every write, while set
	// sockets are those that count on slots, and cleared the servers' slots made
	// as new.
	sockets []kernel.Socket
	cleared []uint16
	puts    int // entries written
	began   time.Time
}

func newFakeMaps() *fakeMaps {
	return &fakeMaps{
		vips: map[kernel.VIPKey]kernel.VIP{}, states: map[uint32]kernel.VIPState{},
		// A kernel that has been up for an hour.
		began: time.Now().Add(-time.Hour),
	}
}

// write does one write, unless writes fail or the daemon is dead.
func (m *fakeMaps) write(do func()) error {
	if !m.life.step() {
		return errKilled
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	do()
	return nil
}

func (m *fakeMaps) VIPs() ([]kernel.VIP, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.vips)), nil
}

func (m *fakeMaps) PutVIPs(vips []kernel.VIP) error {
	for _, v := range vips {
		if err := m.write(func() { m.vips[v.Key] = v; m.puts++ }); err != nil {
			return err
		}
	}
	return nil
}

func (m *fakeMaps) DeleteVIPs(keys []kernel.VIPKey) error {
	for _, k := range keys {
		if err := m.write(func() { delete(m.vips, k) }); err != nil {
			return err
		}
	}
	return nil
}

func (m *fakeMaps) VIPStates(slots []uint32) ([]kernel.VIPState, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]kernel.VIPState, len(slots))
	for i, slot := range slots {
		out[i] = m.states[slot]
		out[i].Slot = slot
	}
	return out, nil
}

func (m *fakeMaps) ResetVIP(slot uint32) error {
	return m.write(func() { delete(m.states, slot) })
}

func (m *fakeMaps) Sockets() ([]kernel.Socket, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.sockets), nil
}

func (m *fakeMaps) ResetServer(slot uint16) error {
	return m.write(func() { m.cleared = append(m.cleared, slot) })
}

func (m *fakeMaps) Meta() (kernel.Meta, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.meta, nil
}

func (m *fakeMaps) SetMeta(meta kernel.Meta) error {
	return m.write(func() { m.meta = meta })
}

func (m *fakeMaps) Now() time.Duration { return time.Since(m.began) }

// failing makes every write fail from now on; nil ends it.
func (m *fakeMaps) failing(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

// edit changes the entries and the kernel's words behind the daemon's back.
func (m *fakeMaps) edit(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

// fakeJournal is a real journal that a kill can part from its daemon.
type fakeJournal struct {
	Journal
	life *lifeline

	mu      sync.Mutex
	commits int
}

func (j *fakeJournal) Append(bodies ...state.Body) ([]state.Event, error) {
	if !j.life.step() {
		return nil, errKilled
	}
	events, err := j.Journal.Append(bodies...)
	if !j.life.step() {
		return nil, errKilled // journaled, and nobody knows
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if err == nil {
		j.commits++
	}
	return events, err
}

func (j *fakeJournal) Snapshot(s state.State) error {
	if !j.life.step() {
		return errKilled
	}
	return j.Journal.Snapshot(s)
}

func (j *fakeJournal) count() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.commits
}
