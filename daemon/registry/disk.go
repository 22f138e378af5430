package registry

import (
	"time"
)

// slowAfter is how long a write to the journal may take until it is said.
const slowAfter = time.Second

// slowFor is how long a slow write is told of after its end.
const slowFor = time.Minute

// begin takes note that a write to the journal is under way; one is at a time.
func (r *Registry) begin() {
	r.inflight = true
	r.stats.write(r.now())
}

// ended takes note that it is over.
func (r *Registry) ended() {
	r.inflight, r.underway = false, 0
	took := r.stats.written(r.now())
	if r.slow && took < slowAfter {
		r.slow = false
		r.log.Info("disk is no longer slow", "took_ms", took.Milliseconds())
	}
	r.watchDisk(took)
}

// watchDisk says once that registrations wait for the disk.
func (r *Registry) watchDisk(took time.Duration) {
	if took >= slowAfter && !r.slow {
		r.slow = true
		r.log.Warn("disk is slow: what is promised waits for it, redirects and failover do not", "took_ms", took.Milliseconds())
	}
}

// probe tries to write when the last try failed and nothing waits to be written:
// else nobody would learn that the disk has room again.
func (r *Registry) probe() {
	if r.stats.journalProblem() == nil || r.pending.len() > 0 || r.flushIn() > 0 {
		return
	}
	r.begin()
	go func() {
		r.committed <- commit{kind: commitProbe, err: r.cfg.Journal.Probe()}
	}()
}

// DiskDelay says for how long the write to the journal that is under way has
// been, or how long the last one took when it was slow and is not long over. It
// is 0 when there is nothing to complain of.
func (r *Registry) DiskDelay() time.Duration {
	return r.stats.delay(r.now())
}

// write and written bracket a write to the journal.
func (s *stats) write(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.began = now
}

func (s *stats) written(now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.took, s.over, s.began = now.Sub(s.began), now, time.Time{}
	return s.took
}

func (s *stats) delay(now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.began.IsZero() {
		if age := now.Sub(s.began); age >= slowAfter {
			return age
		}
	}
	if s.took >= slowAfter && now.Sub(s.over) < slowFor {
		return s.took
	}
	return 0
}
