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
	if total > 0 {
		p.say(fmt.Sprintf("%d %% of %s", 100*done/total, size(total)))
		return
	}
	p.say(size(done))
}

// say tells how far it has come, in the caller's words.
func (p *progress) say(text string) {
	now := p.app.now()
	every := progressEvery
	if !p.app.terminal {
		every = progressEveryIn
	}
	if now.Sub(p.began) < progressAfter || !p.shown.IsZero() && now.Sub(p.shown) < every {
		return
	}
	p.shown = now
	text = p.verb + ": " + text
	if p.app.terminal {
		text = "\r" + text + "\x1b[K"
	} else {
		text += "\n"
	}
	_, _ = fmt.Fprint(p.app.stderr, text)
}

// end clears the line. What is said after it begins anew.
func (p *progress) end() {
	if p.app.terminal && !p.shown.IsZero() {
		p.shown = time.Time{}
		_, _ = fmt.Fprint(p.app.stderr, "\r\x1b[K")
	}
}
