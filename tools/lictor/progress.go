package main

import (
	"fmt"
	"time"
)

const (
	progressAfter   = time.Second            // what is done sooner needs none
	progressEvery   = 200 * time.Millisecond // on a terminal, where a line is drawn over
	progressEveryIn = 10 * time.Second       // in a log, a line each
)

// progress tells how far something long has come, on stderr. It is for one
// goroutine; the zero value is not ready to use.
type progress struct {
	app   *app
	verb  string
	began time.Time
	shown time.Time // last
}

func (a *app) progress(verb string) *progress {
	return &progress{app: a, verb: verb, began: a.now()}
}

// at tells that done bytes of total are done; total 0 means that nobody knows.
func (p *progress) at(done, total int64) {
	now := p.app.now()
	every := progressEvery
	if !p.app.terminal {
		every = progressEveryIn
	}
	if now.Sub(p.began) < progressAfter || !p.shown.IsZero() && now.Sub(p.shown) < every {
		return
	}
	p.shown = now
	text := fmt.Sprintf("%s: %s", p.verb, size(done))
	if total > 0 {
		text = fmt.Sprintf("%s: %d %% of %s", p.verb, 100*done/total, size(total))
	}
	if p.app.terminal {
		text = "\r" + text + "\x1b[K"
	} else {
		text += "\n"
	}
	_, _ = fmt.Fprint(p.app.stderr, text)
}

// end clears the line.
func (p *progress) end() {
	if p.app.terminal && !p.shown.IsZero() {
		_, _ = fmt.Fprint(p.app.stderr, "\r\x1b[K")
	}
}
