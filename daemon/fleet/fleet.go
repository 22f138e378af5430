// Package fleet is what a host agrees on with the others, through Consul's KV
// store and with no protocol of its own:
//
//   - lictor/drains/<server>: servers that every host is to leave. Every host
//     watches that prefix and drains what is there, and undrains what no longer
//     is, except what was drained on the host alone.
//   - lictor/hosts/<node>: each host's report of itself, for people. Nobody
//     watches it. It is held by a session on a node of the host's own, so that
//     the report of a dead host goes away by itself.
//
// What was drained stays drained while Consul does not answer: the registry has
// journaled it. A host that was away catches up when it starts.
package fleet

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/daemon/catalog"
	"github.com/lictor-mesh/lictor/daemon/registry"
)

// Where things are in Consul.
const (
	DrainPrefix = "lictor/drains/" // KV, by server id
	HostPrefix  = "lictor/hosts/"  // KV, by --node-name
	NodePrefix  = "lictor-"        // of the names of nodes and sessions that hold reports
)

// byPrefix begins State.Drained[…].By of a drain that this package has applied,
// which is how it knows what it may undo.
const byPrefix = "fleet: "

// Errors of Fleet and Drain, wrapped in a sentence.
var (
	ErrForbidden   = errors.New("Consul does not permit it")   // the daemon's token may not
	ErrUnavailable = errors.New("the fleet cannot be reached") // no contact, or off
	ErrUnknown     = errors.New("no such server")              // never seen on this host
	ErrLast        = errors.New("no server would be left")     // on this host
	errCollision   = errors.New("two hosts of one name")       // the report's key is another host's
	errUndecided   = errors.New("not taken for the end")       // an answer that may be wrong
)

// Registry is what a Manager needs of the registry.
type Registry interface {
	Snapshot(ctx context.Context) (registry.Snapshot, error)
	Drain(ctx context.Context, id, by string, drained bool) error
}

// Consul is what a Manager needs of the catalog.
type Consul interface {
	KVList(ctx context.Context, prefix string, index uint64) (catalog.KVList, error)
	KVGet(ctx context.Context, key string) (catalog.KVPair, bool, error)
	KVPut(ctx context.Context, key string, value []byte, ifAbsent bool, session string) (bool, error)
	KVDelete(ctx context.Context, key string) error
	CreateSession(ctx context.Context, name, node string, ttl time.Duration) (string, error)
	RenewSession(ctx context.Context, id string) error
	DestroySession(ctx context.Context, id string) error
	RegisterNode(ctx context.Context, name, addr string, meta map[string]string) error
	URL() string
}

// Config is what a Manager works with. All fields but Off and Access are needed.
type Config struct {
	Node     string // --node-name, which names the host in the fleet
	ID       string // the journal's UUID, by which a host knows its own report
	Registry Registry
	Consul   Consul
	// Report says how this host is; see ReportOf.
	Report func(ctx context.Context) (v1.FleetHost, error)
	// Off is a sentence that says why the host takes no part; "" means it does.
	Off string
	// Access is how Consul is verified, for commands; its URL is filled in.
	Access v1.FleetConsul
	Log    *slog.Logger
}

// Manager is this host in the fleet. Its methods are safe for concurrent use;
// they need no Run but for what it keeps up to date.
type Manager struct {
	cfg    Config
	log    *slog.Logger
	timing timing
	now    func() time.Time

	// applyNow and reportNow ask for what is done on a timer too; a request that
	// waits already is enough.
	applyNow, reportNow chan struct{}

	mu     sync.Mutex       // guards what follows
	want   map[string]drain // by server; replaced, never written to
	known  bool             // want is what Consul has, or has had; before that nothing is undone
	status v1.FleetStatus
	why    map[part]trouble

	// Owned by Run's reporter.
	session  string    // that holds the report; "" for none yet
	renewed  time.Time // when it was last kept
	reported report    // last
}

// part is a half of what can be amiss by itself.
type part string

const (
	partDrains part = "drains"
	partApply  part = "apply"
	partReport part = "report"
)

// trouble is what is amiss with a part.
type trouble struct {
	err     error
	why     string
	denied  bool // for want of a permission
	problem bool // it must not stay so
	quiet   bool // it is not worth a line in the log
}

// timing is every duration that tests want shorter.
type timing struct {
	apply    time.Duration // between looks whether the drains are in force
	spurious time.Duration // most between two answers that brought nothing new
	retry    time.Duration // after a query that failed, doubling
	retryTo  time.Duration // up to this
	denied   time.Duration // after one that was not permitted
	lost     time.Duration // after one for which there was no server
	look     time.Duration // between looks at how this host is
	watch    time.Duration // the same while a drain of the fleet is in force
	prompt   time.Duration // least between two reports of what matters
	calm     time.Duration // least between two reports of what changes all the time
	steady   time.Duration // most between two reports; the least is half of it
	spread   time.Duration // over which hosts that have the same to report do so
	silent   time.Duration // age of a report that a running host does not leave
	ttl      time.Duration // of the session
	answer   time.Duration // that this host may take to say how it is
	farewell time.Duration // that a stop may wait for Consul
}

var defaultTiming = timing{
	apply: time.Second, spurious: 5 * time.Second,
	retry: time.Second, retryTo: 15 * time.Second, denied: 30 * time.Second, lost: 200 * time.Millisecond,
	look: 15 * time.Second, watch: 2 * time.Second,
	prompt: 5 * time.Second, calm: time.Minute, steady: 4 * time.Minute,
	spread: time.Second, silent: 10 * time.Minute, ttl: time.Hour,
	answer: 5 * time.Second, farewell: 500 * time.Millisecond,
}

// New makes a manager; it starts nothing.
func New(cfg Config) *Manager {
	m := &Manager{
		cfg: cfg, log: cfg.Log.With("component", "fleet"), timing: defaultTiming, now: time.Now,
		applyNow: make(chan struct{}, 1), reportNow: make(chan struct{}, 1),
		want: map[string]drain{}, why: map[part]trouble{},
	}
	return m
}

// Run takes part in the fleet until ctx ends, and returns nil then.
func (m *Manager) Run(ctx context.Context) error {
	if m.cfg.Off != "" {
		<-ctx.Done()
		return nil
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { m.watch(ctx) })
	wg.Go(func() { m.keep(ctx) })
	wg.Go(func() { m.report(ctx) })
	return nil
}

// Status says how this host takes part.
func (m *Manager) Status() v1.FleetStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.status
	s.State = v1.FleetOn
	if m.cfg.Off != "" {
		s.State, s.Why = v1.FleetOff, m.cfg.Off
		return s
	}
	var whys, problems []string
	for _, p := range []part{partDrains, partApply, partReport} {
		t, amiss := m.why[p]
		switch {
		case !amiss, p == partReport && s.State == v1.FleetCut: // one sentence about Consul is enough
			continue
		case t.problem:
			problems = append(problems, t.why)
		default:
			whys = append(whys, t.why)
		}
		switch {
		case p != partDrains || errors.Is(t.err, errUndecided):
		case t.denied:
			s.State = v1.FleetOff
		default:
			s.State = v1.FleetCut
		}
	}
	s.Why, s.Problem = strings.Join(whys, "; "), strings.Join(problems, "; ")
	return s
}

// Holds says whether a server is drained for the fleet, and who wanted it.
func (m *Manager) Holds(server string) (by string, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, ok := m.want[server]
	return d.By, ok
}

// amiss takes note of what is wrong with a part, nil meaning nothing. It is
// logged once for as long as it stays the same.
func (m *Manager) amiss(ctx context.Context, p part, err error) {
	if ctx.Err() != nil {
		return // stopping
	}
	m.mu.Lock()
	old, was := m.why[p]
	if err == nil {
		delete(m.why, p)
		m.mu.Unlock()
		if was && !old.quiet {
			m.log.Info("fleet works again", "part", string(p))
		}
		return
	}
	t := trouble{
		err: err, why: sentence(err), denied: errors.Is(err, catalog.ErrDenied),
		quiet: errors.Is(err, catalog.ErrNoServer), // the catalog says so itself
	}
	switch {
	case p == partDrains && t.denied:
		// Who gives no permission does not want it; who took it away, while
		// drains are in force, has to know that nothing ends them now.
		t.problem = len(m.status.Drains) > 0
		t.why = "fleet drains are not followed: " + t.why + "; give it key_prefix \"" + DrainPrefix + "\" read"
	case p == partDrains:
		t.problem = errors.Is(err, errUndecided)
		t.why = "fleet drains stay as they are: " + t.why
	case p == partReport && t.denied:
		t.why = "this host is not in lictor fleet: " + t.why + "; give it key_prefix \"" + HostPrefix +
			"\", node_prefix \"" + NodePrefix + "\" and session_prefix \"" + NodePrefix + "\" write"
	case p == partReport:
		t.problem = errors.Is(err, errCollision)
		t.why = "this host's report is not written: " + t.why
	case p == partApply:
		t.problem = true
	}
	m.why[p] = t
	m.mu.Unlock()
	if !t.quiet && (!was || old.why != t.why) {
		m.log.Warn("fleet does not work as it should", "part", string(p), "problem", t.why, "err", err)
	}
}

// sentence is an error for people.
func sentence(err error) string {
	var p *catalog.Problem
	if errors.As(err, &p) {
		return p.Sentence
	}
	return strings.ReplaceAll(err.Error(), "\n", "; ")
}

// kick asks for something to be done now.
func kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// sleep waits for d, for a request, or for the end of ctx. A nil channel brings
// none.
func sleep(ctx context.Context, d time.Duration, now <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-now:
	}
}
