package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// tty is a terminal that knows the sequences of a screen. It has no end below:
// what would have scrolled away stays.
type tty struct {
	lines   []string
	row     int
	cleared int // how often all of it was
}

var sequence = regexp.MustCompile(`^\x1b\[\??([0-9]*)([a-zA-Z])`)

func (t *tty) Write(text []byte) (int, error) {
	rest := string(text)
	column := 0
	for rest != "" {
		for len(t.lines) <= t.row {
			t.lines = append(t.lines, "")
		}
		if m := sequence.FindStringSubmatch(rest); m != nil {
			t.control(m[1], m[2], column)
			rest = rest[len(m[0]):]
			continue
		}
		r := []rune(rest)[0]
		switch r {
		case '\n':
			t.row, column = t.row+1, 0
		case '\r':
			column = 0
		default:
			line := []rune(pad(t.lines[t.row], column))
			t.lines[t.row] = string(line[:column]) + string(r) + string(line[min(column+1, len(line)):])
			column++
		}
		rest = rest[len(string(r)):]
	}
	return len(text), nil
}

func (t *tty) control(number, letter string, column int) {
	n, _ := strconv.Atoi(number)
	switch letter {
	case "A":
		t.row -= n
	case "H":
		t.row = 0
	case "K":
		t.lines[t.row] = string([]rune(pad(t.lines[t.row], column))[:column])
	case "J":
		if n == 2 {
			t.cleared++
			t.lines = make([]string, t.row+1)
		}
		t.lines = t.lines[:t.row+1]
		t.lines[t.row] = string([]rune(pad(t.lines[t.row], column))[:column])
	}
}

func (t *tty) String() string { return strings.TrimRight(strings.Join(t.lines, "\n"), "\n") }

func TestScreenDrawsTheViewBelowTheLines(t *testing.T) {
	var term tty
	frame, columns := 0, 20
	s := &screen{out: &term, size: func() (int, int) { return columns, 10 }}
	expect := func(want string) {
		t.Helper()
		if got := term.String(); got != want {
			t.Fatalf("the terminal shows\n%s\n\nwant\n%s", got, want)
		}
	}
	s.print("first")
	expect("first")
	s.show(func(columns, rows int) []string {
		frame++
		view := []string{fmt.Sprintf("frame %d at %d × %d", frame, columns, rows)}
		for i := range frame % 3 {
			view = append(view, fmt.Sprint("row ", i))
		}
		return view
	})
	expect("first\nframe 1 at 20 × 10\nrow 0")
	s.draw()
	expect("first\nframe 2 at 20 × 10\nrow 0\nrow 1")
	s.draw() // fewer rows: the old ones are gone
	expect("first\nframe 3 at 20 × 10")
	s.print("second", "third, which is longer than the terminal is wide")
	expect("first\nsecond\nthird, which is longer than the terminal is wide\nframe 4 at 20 × 10\nrow 0")
	if term.cleared > 0 {
		t.Error("the terminal was cleared, and what was on it before is gone")
	}
	columns = 9 // the view is cut, and drawn on an empty screen below the lines that have room
	s.draw()
	expect("first\nsecond\nthird, which is longer than the terminal is wide\nframe 5 a\nrow 0\nrow 1")
	if term.cleared != 1 { // it may have wrapped the lines anew
		t.Error("the terminal was not cleared when its size had changed")
	}
	s.close()
	expect("first\nsecond\nthird, which is longer than the terminal is wide")
	s.print("last")
	expect("first\nsecond\nthird, which is longer than the terminal is wide\nlast")
}

func TestScreenLeavesOutWhatHasNoRoom(t *testing.T) {
	var term tty
	s := &screen{out: &term, size: func() (int, int) { return 20, 3 }}
	s.show(func(int, int) []string { return []string{"a", "b", "c", "d"} })
	if got := term.String(); got != "a\nb" {
		t.Errorf("three rows show %q", got)
	}
}

func TestScreenWithoutATerminalPrintsLines(t *testing.T) {
	var term strings.Builder
	s := &screen{out: &term, size: func() (int, int) { return 0, 0 }}
	s.show(func(int, int) []string { return []string{"view"} })
	s.print("one", "two")
	s.draw()
	_, _ = s.Write([]byte("three\nfour\n"))
	s.close()
	if got := term.String(); got != "one\ntwo\nthree\nfour\n" {
		t.Errorf("it printed %q", got)
	}
}

func TestCut(t *testing.T) {
	for _, test := range []struct {
		in    string
		width int
		want  string
	}{
		{"short", 10, "short"},
		{"exactly", 7, "exactly"},
		{"longer", 4, "long\x1b[m"},
		{"ä → ö", 3, "ä →\x1b[m"},
		{"\x1b[32mgreen\x1b[m", 5, "\x1b[32mgreen\x1b[m"},
		{"\x1b[32mgreen\x1b[m and", 4, "\x1b[32mgree\x1b[m"},
		{"torn\x1b[3", 10, "torn"},
	} {
		if got := cut(test.in, test.width); got != test.want {
			t.Errorf("cut(%q, %d) = %q, want %q", test.in, test.width, got, test.want)
		}
	}
}
