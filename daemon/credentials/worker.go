package credentials

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/lictor-mesh/lictor/daemon/secrets"
	"github.com/lictor-mesh/lictor/state"
)

// worker keeps one proxy's files. Its goroutine is the only one that touches
// what is not under mu.
type worker struct {
	m  *Manager
	id string
	// nudged asks for a step now; bounces holds a server to be asked, one at a
	// time: a second one while one waits would tell the same.
	nudged  chan struct{}
	bounces chan netip.AddrPort

	mu       sync.Mutex
	reg      state.Proxy // as registered now
	version  int         // of reg: what was found out for an earlier one says nothing
	fresh    bool        // what came with the registration was replaced
	gone     bool        // the registration has ended
	files    Files
	written  bool          // files are what the proxy needs
	problem  *trouble      // nil when there is none
	changed  chan struct{} // closed and replaced when written or problem change
	judgment state.CredentialState
	claimed  map[string]bool // accessors of the tokens that it uses, or streams may use
	decided  bool            // claimed is all there is

	opened   *state.Proxy // for which view and dir were opened
	view     *secrets.View
	dir      *secrets.Dir
	token    string // in the file now
	static   string // given with the registration, as unsealed
	login    loginState
	stepping int    // version that the step is for
	seq      uint64 // of the registration
	noted    state.CredentialState
	why      string    // the sentence that noted was noted with
	notes    pace      // of states that are not well
	checked  time.Time // when a bounce was last asked about
	failed   int       // steps or checks in a row that failed
	checkAt  time.Time // zero: nothing to check
	rights   rights    // of the token in hand
	openAt   time.Time // when streams are to be closed for a new token; zero: not
}

func newWorker(m *Manager, id string, reg state.Proxy) *worker {
	return &worker{
		m: m, id: id, reg: reg,
		notes:  pace{every: notesEvery, burst: notesBurst},
		nudged: make(chan struct{}, 1), bounces: make(chan netip.AddrPort, 1), changed: make(chan struct{}),
	}
}

// follow takes over what the registration says now.
func (w *worker) follow(p state.Proxy) {
	w.mu.Lock()
	same := p.Seq == w.reg.Seq && p.Envoy.Equal(w.reg.Envoy) && p.Credential.Equal(w.reg.Credential) && p.Process.Equal(w.reg.Process)
	w.reg = p
	if !same {
		w.outdate()
	}
	w.mu.Unlock()
	if !same {
		w.nudge()
	}
}

// outdate says that what was written and found out so far was for an earlier
// registration. w.mu is held.
func (w *worker) outdate() {
	w.version++
	w.files, w.written, w.problem = Files{}, false, nil
}

// nudge asks for a step now.
func (w *worker) nudge() {
	select {
	case w.nudged <- struct{}{}:
	default: // one is waiting
	}
}

// replaced says that what came with the registration is another.
func (w *worker) replaced() {
	w.mu.Lock()
	w.fresh = true
	w.outdate()
	w.mu.Unlock()
	w.nudge()
}

// leave makes the worker remove its files and end.
func (w *worker) leave() {
	w.mu.Lock()
	w.gone = true
	w.mu.Unlock()
	w.nudge()
}

func (w *worker) stays() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.gone
}

func (w *worker) bounced(server netip.AddrPort) {
	select {
	case w.bounces <- server:
	default: // one is waiting
	}
}

func (w *worker) state() state.CredentialState {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.judgment
}

// ready waits until the files are written, or something is wrong.
func (w *worker) ready(ctx context.Context) (Files, error) {
	for {
		w.mu.Lock()
		files, written, problem, changed := w.files, w.written, w.problem, w.changed
		w.mu.Unlock()
		switch {
		case written:
			return files, nil
		case problem != nil:
			return Files{}, &NotReadyError{Sentence: problem.sentence}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Files{}, &NotReadyError{
				Sentence: fmt.Sprintf("the files of the proxy %s are not written yet: Consul is being asked for its token", w.id), Err: ctx.Err(),
			}
		}
	}
}

// run keeps the files until the registration or ctx ends.
func (w *worker) run(ctx context.Context) {
	defer w.closeDir()
	for ctx.Err() == nil {
		next := w.turn(ctx, func() time.Duration { return w.step(ctx) })
		if next < 0 {
			return
		}
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
		case <-w.nudged:
		case <-timer.C:
		case server := <-w.bounces:
			w.turn(ctx, func() time.Duration { w.onBounce(ctx, server); return 0 })
		}
		timer.Stop()
	}
}

// idle is how long a worker waits that has nothing to follow.
const idle = time.Hour

// step does what is due, and says how long there is nothing to do; below 0 when
// the proxy is gone.
func (w *worker) step(ctx context.Context) time.Duration {
	w.mu.Lock()
	p, gone, fresh := w.reg, w.gone, w.fresh
	w.fresh, w.stepping = false, w.version
	w.mu.Unlock()
	if gone {
		w.remove(ctx, p)
		return -1
	}
	if p.Seq != w.seq { // registered anew: how it stands is to be said again
		w.seq, w.noted, w.why, w.checkAt = p.Seq, p.CredentialState, p.CredentialProblem, time.Now()
	}
	if fresh {
		w.static = ""
		if w.login.held == nil || w.login.dead {
			w.login.retryAt = time.Time{} // it may be another bearer
		}
	}
	if err := w.open(p); err != nil {
		if errors.Is(err, secrets.ErrGone) {
			// The process has ended; it is registered anew when another takes its
			// place, or the registration ends.
			w.report(nil, &trouble{state: state.CredentialUnreadable, sentence: fmt.Sprintf("the process of the proxy %s has ended: start it again", w.id)}, false)
			return idle
		}
		return w.fail(ctx, p, unreadable(err))
	}
	m, own, err := w.tlsFor(ctx, p)
	if err == nil {
		var changed bool
		if changed, err = w.writeTLS(m); changed {
			w.checkAt = time.Now()
		}
	}
	if err != nil {
		return w.fail(ctx, p, unreadable(err))
	}
	token, problem := w.obtain(ctx, p)
	w.claim()
	if ctx.Err() != nil {
		return 0
	}
	if problem != nil && token == "" && w.m.isArriving(w.id) {
		return idle // a secret that is missed may be the one that is not in force yet: a nudge follows
	}
	if token != "" || p.Credential == nil || p.Credential.Type == state.CredentialNone {
		if err := w.writeToken(token); err != nil {
			return w.fail(ctx, p, unreadable(err))
		}
		w.report(&Files{Dir: w.dir.Path(), Token: token, CA: m.ca != nil, Client: m.cert != nil, TLS: own}, nil, true)
	}
	if problem != nil {
		return w.fail(ctx, p, problem)
	}
	w.reopen(p)
	if s := w.state(); s != "" && s != state.CredentialOK && w.checkAt.IsZero() {
		w.checkAt = time.Now() // what was wrong is mended
	}
	if w.due(w.checkAt) {
		return w.verify(ctx, p, own)
	}
	return w.wait(p)
}

// reopen closes the streams that began with a former token, when it is time.
func (w *worker) reopen(p state.Proxy) {
	if !w.due(w.openAt) {
		return
	}
	if err := w.m.cfg.Streams.Close(p); err != nil {
		w.m.log.Warn("streams with a former token cannot be closed, they end within 5 minutes of its end", "proxy", w.id, "err", err)
		w.openAt = time.Now().Add(jitter(30 * time.Second))
		return
	}
	w.openAt = time.Time{}
	if err := w.dir.Forget(reopenFile); err != nil {
		w.m.log.Warn("streams will be closed again at the next start", "proxy", w.id, "err", err)
	}
	w.m.stats.add(&w.m.stats.reopened)
	w.m.release(w.login.former)
	w.login.former = nil
	w.claim()
}

// claim says which tokens must not be logged out: the one in hand, those that
// streams may still use, and more, which is about to be the one in hand.
func (w *worker) claim(more ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.claimed = map[string]bool{}
	for _, a := range append(more, w.login.former...) {
		w.claimed[a] = true
	}
	if w.login.held != nil {
		w.claimed[w.login.held.Accessor] = true
	}
	w.decided = true
}

// uses is what claim said; it is not known before the first step.
func (w *worker) uses() (accessors map[string]bool, known bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.claimed, w.decided
}

// fail notes what keeps the proxy from having what it needs, and says when to
// try again. What was written before stays in force meanwhile.
func (w *worker) fail(ctx context.Context, p state.Proxy, problem *trouble) time.Duration {
	w.failed++
	w.report(nil, problem, false)
	w.say(ctx, problem.state, problem.sentence)
	w.checkAt = time.Time{} // there is nothing to check
	return min(backoff(w.failed), w.wait(p))
}

// wait is how long there is nothing to do.
func (w *worker) wait(p state.Proxy) time.Duration {
	next := time.Now().Add(idle)
	for _, t := range []time.Time{w.checkAt, w.openAt, w.login.next()} {
		if !t.IsZero() && t.Before(next) {
			next = t
		}
	}
	d := max(time.Until(next), 10*time.Millisecond) // whatever is wrong, it must not spin
	if w.polls(p) {
		d = min(d, pollEvery)
	}
	return d
}

// polls says whether the proxy names files that are followed.
func (w *worker) polls(p state.Proxy) bool {
	own := p.Envoy != nil && (p.Envoy.CACerts != "" || p.Envoy.Cert != "") && !w.m.cfg.TLS.Disabled
	return own || p.Credential != nil && p.Credential.Type == state.CredentialFile || w.login.waitsForBearer
}

func (w *worker) due(t time.Time) bool { return !t.IsZero() && !time.Now().Before(t) }

// backoff is the pause after so many failures in a row.
func backoff(n int) time.Duration {
	return jitter(min(retryMost, retryFirst<<min(max(n-1, 0), 10)))
}

// report hands on what Ready answers: files, or what is wrong when there are
// none yet.
func (w *worker) report(files *Files, problem *trouble, written bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stepping != w.version {
		return // another step is due
	}
	if files != nil {
		w.files = *files
	}
	w.written = w.written || written
	w.problem = problem
	close(w.changed)
	w.changed = make(chan struct{})
}

// A proxy's trouble is journaled as it changes, and told by its latest sentence. One
// that comes and goes, or is told by another server each time, is not to push out
// what the journal keeps of others: so many changes, then one every so often.
const (
	notesBurst = 10
	notesEvery = 10 * time.Minute
)

// say journals how the proxy stands, once for each change of it.
func (w *worker) say(ctx context.Context, is state.CredentialState, sentence string) {
	w.mu.Lock()
	w.judgment = is
	w.mu.Unlock()
	well := is == state.CredentialOK
	if is == w.noted && sentence == w.why || !well && !w.notes.free() {
		return // what is not said now is at a later step
	}
	if err := w.m.cfg.Registry.Note(ctx, state.CredentialChanged{ID: w.id, State: is, Problem: sentence}); err != nil {
		if ctx.Err() == nil {
			w.m.log.Warn("state of a credential is not journaled", "proxy", w.id, "state", is, "err", err)
		}
		if again := time.Now().Add(backoff(4)); w.checkAt.IsZero() || again.Before(w.checkAt) {
			w.checkAt = again // and said again then
		}
		return
	}
	former := w.noted
	w.noted, w.why = is, sentence
	switch {
	case !well:
		w.notes.take()
		w.m.log.Warn("proxy has trouble with its credential", "proxy", w.id, "state", is, "problem", sentence)
	case former != "":
		w.m.log.Info("proxy's credential is well again", "proxy", w.id, "was", former)
	}
}
