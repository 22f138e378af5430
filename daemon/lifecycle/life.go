package lifecycle

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/lictor-mesh/lictor/state"
)

// subject is what is to be looked after: a change of it begins a new life.
type subject struct {
	id       string
	process  state.Process
	settings state.EnvoySettings
	owner    state.Owner
}

func subjectOf(p *state.Proxy) subject {
	s := subject{id: p.ID, process: *p.Process, owner: p.Owner}
	if p.Envoy != nil {
		s.settings = *p.Envoy
	}
	return s
}

func (s subject) equal(o subject) bool {
	return s.process == o.process && s.owner == o.owner && s.settings.Equal(&o.settings)
}

func (s subject) grace() time.Duration {
	return time.Duration(s.settings.ShutdownGraceSeconds) * time.Second
}

// life is the care for one process: its goroutines, its listeners and what is
// known of it.
type life struct {
	subject
	manager *Manager
	log     *slog.Logger
	began   time.Time
	cancel  context.CancelFunc
	done    chan struct{} // closed when all that it started has stopped
	endings chan string   // of one element: who asks for the end, for run to take up

	mu       sync.Mutex
	running  *running // while it is there to be looked at
	phase    Phase
	gone     time.Time // since when, by the monotonic clock; zero: it is there
	problems map[string]string
}

// begin starts to look after a process.
func (m *Manager) begin(ctx context.Context, s subject) *life {
	ctx, cancel := context.WithCancel(ctx)
	l := &life{
		subject: s, manager: m, log: m.log.With("proxy", s.id, "pid", s.process.PID), began: time.Now(),
		cancel: cancel, done: make(chan struct{}), endings: make(chan string, 1),
		phase: Running, problems: map[string]string{},
	}
	go func() {
		defer close(l.done)
		l.persist(ctx, func() { l.run(ctx) })
	}()
	return l
}

// stop ends the care and waits until its listeners are closed.
func (l *life) stop() {
	l.cancel()
	<-l.done
}

func (l *life) info() Info {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Info{Phase: l.phase, Alive: l.gone.IsZero(), Problems: slices.Sorted(maps.Values(l.problems))}
}

// hold is for how long the registration outlives the process.
func (l *life) hold() time.Duration {
	if l.process.BootID != l.manager.cfg.BootID {
		return l.manager.cfg.HoldBoot
	}
	return l.manager.cfg.Hold
}

// due says whether the process has been gone for the hold time.
func (l *life) due() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.gone.IsZero() && time.Since(l.gone) >= l.hold()
}

func (l *life) enter(phase Phase) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.phase = phase
}

// problem notes a sentence under a name, "" when there is none any more, and
// logs it when it is new.
func (l *life) problem(name string, sentence string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.problems[name] == sentence {
		return
	}
	if sentence == "" {
		delete(l.problems, name)
		return
	}
	l.problems[name] = sentence
	l.log.Warn("something cannot be done for a proxy", "what", name, "problem", sentence)
}

// run is the life. It returns when the process has ended or ctx has.
func (l *life) run(ctx context.Context) {
	r, err := openProcess(l.process, l.manager.cfg.BootID)
	for err != nil && !errors.Is(err, errGone) {
		l.problem("watch", "its process cannot be watched, so neither its end nor a SIGTERM is noticed: "+err.Error())
		if !sleep(ctx, lookEvery) {
			return
		}
		r, err = openProcess(l.process, l.manager.cfg.BootID)
	}
	l.problem("watch", "")
	if err == nil {
		l.care(ctx, r)
	}
	if ctx.Err() != nil {
		return
	}
	l.mu.Lock()
	l.gone, l.phase, l.problems = time.Now(), Gone, map[string]string{}
	l.mu.Unlock()
	l.log.Info("process ended; its proxy is released unless another takes its place", "hold_s", int(l.hold().Seconds()))
}

// care looks after a process that is there, until it is not.
func (l *life) care(ctx context.Context, r *running) {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	exited := make(chan struct{})
	var closed sync.WaitGroup // what ends by closing the process's descriptors
	closed.Go(func() { defer close(exited); r.wait() })
	defer func() {
		cancel()
		group.Wait()
		if err := r.close(); err != nil {
			l.log.Warn("descriptors of a process not closed", "err", err)
		}
		closed.Wait()
	}()

	l.spawn(ctx, &group, func() { l.serve(ctx, r) })
	l.watch(r)
	defer l.watch(nil)
	for begun := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-exited:
			return
		case why := <-l.endings:
			if !begun {
				begun = true
				l.spawn(ctx, &group, func() { l.end(ctx, r, why) })
			}
		}
	}
}

// watch notes the process to be looked at for SIGTERM, nil for none.
func (l *life) watch(r *running) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running = r
}

// lookForTerm asks for the process's end if a SIGTERM is pending. It says
// whether there was something to look at.
func (l *life) lookForTerm() bool {
	l.mu.Lock()
	defer l.mu.Unlock() // while it looks: the descriptors stay open
	if l.running == nil || l.phase != Running {
		return false
	}
	if l.running.termPending() {
		l.askEnd("SIGTERM")
	}
	return true
}

// askEnd asks for the process's end, unless somebody has.
func (l *life) askEnd(why string) {
	select {
	case l.endings <- why:
	default:
	}
}

// sleep waits, and says whether ctx has not ended meanwhile.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
