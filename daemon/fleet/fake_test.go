package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/daemon/catalog"
	"github.com/lictor-mesh/lictor/daemon/registry"
	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// host is a registry and what a host says of itself.
type host struct {
	mu      sync.Mutex
	s       state.State
	sick    error // of its journal
	reports v1.FleetHost
}

func newHost(servers ...string) *host {
	h := &host{s: state.New(), reports: v1.FleetHost{Version: "1.0", Ready: true}}
	for _, id := range servers {
		h.see(id)
	}
	return h
}

// see lists a server.
func (h *host) see(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.s = state.Fold(h.s, state.Event{Body: state.ServerSeen{Server: state.ServerSpec{ID: id, Slot: uint16(len(h.s.Slots) + 1)}}})
}

func (h *host) Snapshot(context.Context) (registry.Snapshot, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	snap := registry.Snapshot{State: h.s.Clone(), Slots: map[string]uint16{}}
	for id, t := range h.s.Slots {
		snap.Slots[id] = t.Slot
	}
	return snap, nil
}

func (h *host) Drain(_ context.Context, id, by string, drained bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, seen := h.s.Slots[id]; !seen {
		return fmt.Errorf("%w: %s", registry.ErrNotRegistered, id)
	}
	if h.sick != nil {
		return h.sick
	}
	var body state.Body = state.ServerUndrained{ID: id, By: by}
	if drained {
		body = state.ServerDrained{ID: id, By: by}
	}
	h.s = state.Fold(h.s, state.Event{Body: body})
	return nil
}

func (h *host) report(context.Context) (v1.FleetHost, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.reports, nil
}

// drained are the servers drained on the host, with who wanted it.
func (h *host) drained() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []string
	for id, d := range h.s.Drained {
		out = append(out, id+" "+d.By)
	}
	return strings.Join(out, ", ")
}

// store is Consul's KV store with faults.
type store struct {
	mu       sync.Mutex
	index    uint64
	keys     map[string]catalog.KVPair
	sessions map[string]string // node by id
	nodes    map[string]string // address by name
	made     int
	lost     bool            // nothing is answered
	hide     map[string]bool // prefixes that may not be read
	deny     map[string]bool // calls and prefixes that may not be written
	behind   *catalog.KVList // listed instead of the drains
	changed  chan struct{}
	asked    int // lists
	writes   int // of reports
}

func newStore() *store {
	return &store{
		index: 1, keys: map[string]catalog.KVPair{}, sessions: map[string]string{},
		nodes: map[string]string{}, hide: map[string]bool{}, deny: map[string]bool{}, changed: make(chan struct{}),
	}
}

// set changes something and wakes who waits.
func (s *store) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	s.touch()
}

func (s *store) touch() {
	s.index++
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *store) put(key, value string) {
	s.set(func() { s.keys[key] = catalog.KVPair{Key: key, Value: []byte(value), ModifyIndex: s.index + 1} })
}

func (s *store) remove(key string) { s.set(func() { delete(s.keys, key) }) }

var errLost = &catalog.Problem{Sentence: "no Consul server answers", Err: catalog.ErrNoServer}

func denied(what string) error {
	return &catalog.Problem{Sentence: "the token of --consul-token-file lacks " + what, Err: catalog.ErrDenied}
}

func (s *store) KVList(ctx context.Context, prefix string, index uint64) (catalog.KVList, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	if index > 0 && index == s.index {
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		s.mu.Lock()
	}
	if ctx.Err() != nil {
		return catalog.KVList{}, ctx.Err()
	}
	if s.lost {
		return catalog.KVList{}, errLost
	}
	if s.behind != nil && prefix == DrainPrefix {
		return *s.behind, nil
	}
	list := catalog.KVList{Index: s.index}
	for key, pair := range s.keys {
		if strings.HasPrefix(key, prefix) {
			if s.hide[prefix] {
				list.Filtered = true
				continue
			}
			list.Pairs = append(list.Pairs, pair)
		}
	}
	return list, nil
}

func (s *store) KVGet(_ context.Context, key string) (catalog.KVPair, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost {
		return catalog.KVPair{}, false, errLost
	}
	for prefix := range s.hide {
		if strings.HasPrefix(key, prefix) {
			return catalog.KVPair{}, false, denied("key:read on " + key)
		}
	}
	pair, ok := s.keys[key]
	if !ok {
		pair.ModifyIndex = s.index
	}
	return pair, ok, nil
}

func (s *store) KVPut(_ context.Context, key string, value []byte, ifAbsent bool, session string) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost {
		return false, errLost
	}
	for prefix := range s.deny {
		if strings.HasPrefix(key, prefix) {
			return false, denied("key:write on " + key)
		}
	}
	old, is := s.keys[key]
	if session != "" {
		if _, alive := s.sessions[session]; !alive {
			return false, &catalog.Problem{Sentence: "ended", Err: catalog.ErrSession}
		}
		if old.Session != "" && old.Session != session {
			return false, nil
		}
	}
	if ifAbsent && is {
		return false, nil
	}
	s.keys[key] = catalog.KVPair{Key: key, Value: value, Session: session, ModifyIndex: s.index + 1}
	if strings.HasPrefix(key, HostPrefix) {
		s.writes++
	}
	s.touch()
	return true, nil
}

func (s *store) KVDelete(_ context.Context, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.deny[DrainPrefix] {
		return denied("key:write on " + key)
	}
	delete(s.keys, key)
	s.touch()
	return nil
}

func (s *store) RegisterNode(_ context.Context, name, addr string, _ map[string]string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.deny["node"] {
		return denied("node:write on " + name)
	}
	s.nodes[name] = addr
	return nil
}

func (s *store) CreateSession(_ context.Context, _, node string, _ time.Duration) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.nodes[node] == "" {
		return "", errors.New("Missing node registration")
	}
	s.made++
	id := fmt.Sprintf("session-%d", s.made)
	s.sessions[id] = node
	return id, nil
}

func (s *store) RenewSession(_ context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost {
		return errLost
	}
	if _, alive := s.sessions[id]; !alive {
		return &catalog.Problem{Sentence: "ended", Err: catalog.ErrSession}
	}
	return nil
}

func (s *store) DestroySession(_ context.Context, id string) error {
	s.set(func() {
		delete(s.sessions, id)
		for key, pair := range s.keys {
			if pair.Session == id {
				delete(s.keys, key)
			}
		}
	})
	return nil
}

func (s *store) URL() string { return "http://127.0.0.1:8500" }

// manage runs a host's manager until the test, or stop, ends it.
func manage(t *testing.T, node string, h *host, s *store) (m *Manager, stop func()) {
	t.Helper()
	m = newManager(node, h, s)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = m.Run(ctx) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return m, stop
}

func newManager(node string, h *host, s *store) *Manager {
	m := New(Config{
		Node: node, ID: "journal of " + node, Registry: h, Consul: s, Report: h.report, Log: slog.New(slog.DiscardHandler),
	})
	m.timing.apply, m.timing.spurious = 5*time.Millisecond, 20*time.Millisecond
	m.timing.retry, m.timing.retryTo, m.timing.denied = 2*time.Millisecond, 5*time.Millisecond, 5*time.Millisecond
	m.timing.lost = time.Millisecond
	m.timing.watch = 2 * time.Millisecond
	m.timing.look, m.timing.prompt, m.timing.spread = 2*time.Millisecond, 2*time.Millisecond, time.Millisecond
	return m
}

// eventually waits until a word is what it should be.
func eventually(t *testing.T, what string, got func() string, want string) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		is := got()
		if is == want {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s is %q, want %q", what, is, want)
		}
	}
}

// still checks for a while that a word stays what it is.
func still(t *testing.T, what string, got func() string, want string) {
	t.Helper()
	for end := time.Now().Add(60 * time.Millisecond); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if is := got(); is != want {
			t.Fatalf("%s has become %q, want %q", what, is, want)
		}
	}
}
