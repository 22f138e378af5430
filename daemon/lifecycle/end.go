package lifecycle

import (
	"context"
	"net/http"
	"time"
)

const (
	// againEvery is the pause before Envoy is told again what it did not hear.
	againEvery = time.Second
	// quitWithin is how long an Envoy that was told to quit may take before
	// that is said.
	quitWithin = 10 * time.Second
)

// end is a shutdown as consul-dataplane has it: inbound listeners drain, the
// grace goes by in which requests in flight end and the application may still
// call others, then Envoy quits. It does not return before the process has
// ended, or ctx has. why says who asked.
func (l *life) end(ctx context.Context, r *running, why string) {
	l.enter(Draining)
	l.log.Info("proxy shuts down", "why", why, "drain", l.settings.ShutdownDrain, "grace_s", l.settings.ShutdownGraceSeconds)
	if l.settings.DumpConfigOnExit {
		l.dump(ctx, r)
	}
	over := time.After(l.grace())
	if l.settings.ShutdownDrain {
		l.drain(ctx, r, l.grace())
	}
	select {
	case <-ctx.Done():
		return
	case <-over:
	}
	l.enter(Quitting)
	for {
		err := l.ask(ctx, r, http.MethodPost, "/quitquitquit")
		if ctx.Err() != nil {
			return
		}
		pause := againEvery
		if err == nil {
			l.problem("quit", "")
			pause = quitWithin
		} else {
			l.problem("quit", sentence(err)+"; it is to terminate and cannot be told: its supervisor has to kill it")
		}
		if !sleep(ctx, pause) {
			return
		}
		if err == nil {
			l.problem("quit", "it was told to quit and is still there: its supervisor has to kill it")
		}
	}
}

// drain tells Envoy to let go of its inbound connections, again and again while
// it does not hear and there is time.
func (l *life) drain(ctx context.Context, r *running, within time.Duration) {
	for end := time.Now().Add(within); ; {
		err := l.ask(ctx, r, http.MethodPost, "/drain_listeners?inboundonly&graceful&skip_exit")
		if err == nil {
			l.problem("drain", "")
			return
		}
		if ctx.Err() != nil {
			return
		}
		l.problem("drain", "it is to drain and cannot be told: "+sentence(err))
		if time.Now().Add(againEvery).After(end) || !sleep(ctx, againEvery) {
			return
		}
	}
}
