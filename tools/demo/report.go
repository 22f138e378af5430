package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
)

// step is one thing that the demo does and checks.
type step struct {
	title string        // what holds when it succeeds
	limit time.Duration // in which it must
	// needed says that without it the steps after it make no sense.
	needed bool
	do     func(ctx context.Context) (finding, error)
}

// finding is what a step found when it held.
type finding struct {
	took time.Duration // measured; 0 is what the step took in all
	note string        // more of it, for people
}

// result is what came of a step.
type result struct {
	title string
	finding
	err error
}

// report collects results. Its methods may be called concurrently.
type report struct {
	ui     *screen
	paint  palette
	mu     sync.Mutex
	now    string    // title of the step that is running, or comes next
	since  time.Time // when it began; zero: it has not yet
	done   []result
	missed int // steps that were not tried
}

// run does the steps in order, with a pause after each, and tells whether all
// held. It ends early when the context does or a needed step failed.
func (r *report) run(ctx context.Context, pause time.Duration, steps []step) bool {
	for i, s := range steps {
		res := r.try(ctx, s)
		if ctx.Err() != nil {
			return false // whatever came of the step came of the interruption
		}
		r.mu.Lock()
		r.done = append(r.done, res)
		r.mu.Unlock()
		r.ui.print(r.lines(res)...)
		if s.needed && res.err != nil {
			r.mu.Lock()
			r.missed = len(steps) - i - 1
			r.mu.Unlock()
			break
		}
		if i+1 == len(steps) {
			break
		}
		r.mu.Lock()
		r.now = steps[i+1].title
		r.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	return r.held()
}

func (r *report) try(ctx context.Context, s step) result {
	r.mu.Lock()
	r.now, r.since = s.title, time.Now()
	r.mu.Unlock()
	limited, cancel := context.WithTimeoutCause(ctx, s.limit, fmt.Errorf("not within %s", seconds(s.limit)))
	defer cancel()
	started := time.Now()
	found, err := s.do(limited)
	if found.took == 0 {
		found.took = time.Since(started)
	}
	if err == nil && found.took > s.limit {
		err = fmt.Errorf("it took %s, more than %s", seconds(found.took), seconds(s.limit))
	}
	r.mu.Lock()
	r.now, r.since = "", time.Time{}
	r.mu.Unlock()
	return result{title: s.title, finding: found, err: err}
}

// current is the title of the step that runs since that time, or, when that is
// zero, of the one that comes next; "" when there is none.
func (r *report) current() (title string, since time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now, r.since
}

// held tells whether every step was tried and held.
func (r *report) held() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, res := range r.done {
		if res.err != nil {
			return false
		}
	}
	return r.missed == 0
}

// titleWidth leaves room for mark and time on 80 columns.
const titleWidth = 65

// lines show one result: mark, title and time, and below what was found.
func (r *report) lines(res result) []string {
	mark, note := r.paint.good("✓"), r.paint.quiet(res.note)
	if res.err != nil {
		mark = r.paint.bad("✗")
		note = r.paint.bad(gist(strings.ReplaceAll(res.err.Error(), "\n", "; ")))
	}
	took := ""
	if res.took >= 100*time.Microsecond { // else nothing was waited for
		took = seconds(res.took)
	}
	out := []string{strings.TrimRight(fmt.Sprintf("%s %-*s %8s", mark, titleWidth, res.title, took), " ")}
	if note != "" {
		out = append(out, "  "+note)
	}
	return out
}

// gist leaves out the middle of an error that holds the end of a log: what
// failed is said first, and why last.
func gist(text string) string {
	const head, tail = 100, 350
	if runes := []rune(text); len(runes) > head+tail {
		text = string(runes[:head]) + " … " + string(runes[len(runes)-tail:])
	}
	return text
}

// summary is all results at a glance, without what was found.
func (r *report) summary() (lines []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	failed := 0
	for _, res := range r.done {
		if res.err != nil {
			failed++
		} else {
			res.note = ""
		}
		lines = append(lines, r.lines(res)...)
	}
	verdict := r.paint.good(fmt.Sprintf("%d of %d checks held.", len(r.done)-failed, len(r.done)+r.missed))
	if failed > 0 || r.missed > 0 {
		verdict = r.paint.bad(fmt.Sprintf("%d of %d checks held, %d failed, %d were not tried.",
			len(r.done)-failed, len(r.done)+r.missed, failed, r.missed))
	}
	return append(lines, "", verdict)
}

// seconds writes a time with the precision that it deserves.
func seconds(d time.Duration) string {
	switch {
	case d < 100*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	case d < 10*time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
	return fmt.Sprintf("%.0f s", d.Seconds())
}
