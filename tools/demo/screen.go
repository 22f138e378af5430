package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"unicode/utf8"
)

// screen prints lines that stay, and below them, on a terminal, a view that is
// drawn anew in place. Its methods may be called concurrently.
type screen struct {
	size func() (columns, rows int)
	view func(columns, rows int) []string // draws the view; nil is none

	mu    sync.Mutex
	out   io.Writer
	lines []string // printed, to be shown again when the terminal changes its size
	drawn int      // lines of the view that are on the terminal
	had   [2]int   // size when they were drawn
}

// Control sequences of ECMA-48, and of DEC where there is a question mark.
const (
	hideCursor, showCursor = "\x1b[?25l", "\x1b[?25h"
	beginFrame, endFrame   = "\x1b[?2026h", "\x1b[?2026l" // shown at once, by terminals that know it
	wrapOff, wrapOn        = "\x1b[?7l", "\x1b[?7h"
	clearLine, clearBelow  = "\x1b[K", "\x1b[J"
	clearAll               = "\x1b[H\x1b[2J"
)

// terminal tells whether the view is shown.
func (s *screen) terminal() bool {
	columns, _ := s.size()
	return columns > 0
}

// print adds lines that stay.
func (s *screen) print(lines ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if columns, _ := s.size(); columns == 0 {
		fmt.Fprintln(s.out, strings.Join(lines, "\n"))
		return
	}
	s.lines = append(s.lines, lines...)
	s.frame(lines)
}

// draw shows the view as it is now. Without a terminal it does nothing.
func (s *screen) draw() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if columns, _ := s.size(); columns > 0 {
		s.frame(nil)
	}
}

// frame replaces the view on the terminal by new lines and the view of now, in
// one write.
func (s *screen) frame(fresh []string) {
	columns, rows := s.size()
	var view []string
	if s.view != nil {
		view = s.view(columns, rows)
		view = view[:min(len(view), rows-1)] // what has scrolled away cannot be drawn over
	}
	var b strings.Builder
	b.WriteString(beginFrame + hideCursor)
	if now := [2]int{columns, rows}; s.drawn > 0 && s.had != now {
		// The terminal may have wrapped the lines anew: nobody knows where they are.
		b.WriteString(clearAll)
		room := max(0, rows-1-len(view))
		fresh = s.lines[max(0, len(s.lines)-room):]
	} else if s.drawn > 0 {
		fmt.Fprintf(&b, "\r\x1b[%dA", s.drawn)
	}
	for _, line := range fresh {
		b.WriteString(line + clearLine + "\n")
	}
	b.WriteString(wrapOff)
	for _, line := range view {
		b.WriteString(cut(line, columns) + clearLine + "\n")
	}
	b.WriteString(wrapOn + clearBelow + endFrame)
	s.drawn, s.had = len(view), [2]int{columns, rows}
	_, _ = io.WriteString(s.out, b.String()) // nobody is left to be told
}

// show sets the view and draws it.
func (s *screen) show(view func(columns, rows int) []string) {
	s.mu.Lock()
	s.view = view
	s.mu.Unlock()
	s.draw()
}

// close takes the view away; what was printed stays.
func (s *screen) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.view = nil
	if columns, _ := s.size(); columns > 0 {
		s.frame(nil)
		_, _ = io.WriteString(s.out, showCursor)
	}
}

// Write prints what the testbed says of its progress.
func (s *screen) Write(text []byte) (int, error) {
	s.print(strings.Split(strings.TrimRight(string(text), "\n"), "\n")...)
	return len(text), nil
}

// cut shortens a line to a width, not counting the sequences that colour it.
func cut(line string, width int) string {
	seen := 0
	for i := 0; i < len(line); {
		if line[i] == '\x1b' {
			end := strings.IndexByte(line[i:], 'm')
			if end < 0 {
				return line[:i]
			}
			i += end + 1
			continue
		}
		if seen == width {
			return line[:i] + "\x1b[m"
		}
		_, n := utf8.DecodeRuneInString(line[i:])
		i += n
		seen++
	}
	return line
}

// palette colours text, or leaves it as it is.
type palette bool

func (p palette) paint(code, text string) string {
	if !p || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[m"
}

func (p palette) good(text string) string  { return p.paint("32", text) }
func (p palette) bad(text string) string   { return p.paint("1;31", text) }
func (p palette) quiet(text string) string { return p.paint("2", text) }
func (p palette) loud(text string) string  { return p.paint("1", text) }
