package registry

import (
	"maps"
	"sync"
	"time"

	"github.com/lictor-mesh/lictor/daemon/reconcile"
	"github.com/lictor-mesh/lictor/state"
)

// Observer is told what happens, for metrics. Its methods must not block.
type Observer interface {
	JournalAppended(took time.Duration)
	Reconciled(took time.Duration)
	Placed(reason state.PlaceReason)
}

// stats are what others read of the registry without asking Run, so that a
// status is answered whatever Run waits for.
type stats struct {
	mu      sync.Mutex
	problem error // why the journal was not writable at the last try
	drift   map[reconcile.Drift]uint64
	began   time.Time     // when the write to the journal under way began; zero: none is
	took    time.Duration // how long the last one did
	over    time.Time     // when it ended
}

func (s *stats) journal(problem error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problem = problem
}

func (s *stats) journalProblem() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.problem
}

func (s *stats) reconciled(drift map[reconcile.Drift]int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for kind, n := range drift {
		s.drift[kind] += uint64(n)
	}
}

// Drift is the number of differences repaired so far, by kind; 0 for a kind that
// never was.
func (r *Registry) Drift() map[reconcile.Drift]uint64 {
	r.stats.mu.Lock()
	defer r.stats.mu.Unlock()
	return maps.Clone(r.stats.drift)
}

// JournalProblem says why the last batch could not be journaled; nil when it
// could.
func (r *Registry) JournalProblem() error { return r.stats.journalProblem() }
