package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// view draws the table of servers × proxies, and what goes on around it.
type view struct {
	demo    *demo
	started time.Time
}

// Widths of the table's columns; 80 in all.
const (
	viewWidth   = 79
	cellWidth   = 6
	serverWidth = 18
)

// draw returns the lines of the view, at most 79 columns wide, so many that
// some of what was printed stays visible above.
func (v *view) draw(_, rows int) []string {
	pic := v.demo.watch.now()
	lines := []string{v.title()}
	lines = append(lines, v.table(pic)...)
	lines = append(lines, "", v.lictor(pic.lictor))
	lines = append(lines, v.requests()...)
	lines = append(lines, "")
	room := min(max(rows-len(lines)-9, 2), keepLines)
	tail := v.demo.feed.tail(room)
	lines = append(lines, tail...)
	current := v.current()
	if current == "" {
		return lines // the end, and what is above has more to say
	}
	for range room - len(tail) {
		lines = append(lines, "")
	}
	return append(lines, "", current)
}

func (v *view) title() string {
	p, up := v.demo.paint, time.Since(v.started)
	clock := fmt.Sprintf("%d:%02d", int(up.Minutes()), int(up.Seconds())%60)
	text := " Lictor "
	rest := viewWidth - len(text) - len(clock) - 5
	return p.quiet("──") + p.loud(text) + p.quiet(strings.Repeat("─", rest)+" "+clock+" ─")
}

// table has a row for each server and a column for each proxy.
func (v *view) table(pic picture) []string {
	p := v.demo.paint
	var head strings.Builder
	head.WriteString(pad(" xDS streams", serverWidth))
	for _, who := range v.demo.mesh.members {
		head.WriteString(pad(who.name, cellWidth))
	}
	lines := []string{p.quiet(head.String() + "  total")}
	for _, s := range pic.servers {
		total := 0
		row := pad(" "+s.name, 10) + v.serverState(s)
		for _, who := range v.demo.mesh.members {
			n := pic.streams[who.name][s.name]
			total += n
			row += v.cell(n, pic.assigned[who.name] == s.name)
		}
		lines = append(lines, row+fmt.Sprintf("%7d", total))
	}
	return append(lines, p.quiet(" ")+p.good("●")+p.quiet(" a connection in the kernel   ○ where lictord would send the next"))
}

// cell shows connections and assignment of one proxy and one server.
func (v *view) cell(streams int, assigned bool) string {
	p := v.demo.paint
	switch {
	case streams > 1:
		return "  " + p.good(pad("●"+strconv.Itoa(streams), cellWidth-2))
	case streams == 1:
		return "  " + p.good("●") + "   "
	case assigned:
		return "  ○   "
	}
	return "  " + p.quiet("·") + "   "
}

func (v *view) serverState(s serverPicture) string {
	p := v.demo.paint
	switch {
	case !s.alive:
		return p.bad(pad("killed", 8))
	case !s.listed:
		return pad("starting", 8)
	}
	return p.good(pad("up", 8))
}

func (v *view) lictor(l lictorPicture) string {
	p := v.demo.paint
	text := pad(" lictord", 10)
	switch {
	case !l.alive:
		return text + p.bad(pad("killed", 8)) + "redirects, failover and counts go on in the kernel"
	case !l.answers:
		return text + pad("starting", 8) + fmt.Sprintf("pid %d", l.pid)
	}
	state := p.good(pad("up", 8))
	if !l.ready {
		state = pad("unready", 8)
	}
	return text + state + fmt.Sprintf("pid %d · journal at event %d · counts %s", l.pid, l.seq, plural(int(l.active), "connection"))
}

func (v *view) requests() (lines []string) {
	p := v.demo.paint
	for i, pair := range v.demo.mesh.pairs {
		c, name := pair.now(), ""
		if i == 0 {
			name = " requests"
		}
		failed := fmt.Sprintf("%d failed", c.failed)
		if c.failed > 0 {
			failed = p.bad(failed)
		}
		lines = append(lines, fmt.Sprintf("%s%s%s ok · %s · %s", pad(name, serverWidth),
			pad(pair.from.name+" → "+pair.to.name, 16), thousands(c.ok), failed, seconds(c.took)))
	}
	return lines
}

// spin turns while a step runs.
var spin = []rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")

func (v *view) current() string {
	title, since := v.demo.report.current()
	switch {
	case title == "":
		return ""
	case since.IsZero():
		return v.demo.paint.quiet("  next: " + title)
	}
	turn := spin[int(time.Since(v.started)/redrawEvery)%len(spin)]
	return fmt.Sprintf("%c %-*s %6.1f s", turn, titleWidth, title, time.Since(since).Seconds())
}

// pad fills text up to a width.
func pad(text string, width int) string {
	return text + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(text)))
}

// thousands writes a number with separators.
func thousands(n int) string {
	text := strconv.Itoa(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%s %ss", thousands(n), what)
}
