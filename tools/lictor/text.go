package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// table is rows under headings. A column that is empty in every row is left
// out, so that what is rare costs no room.
type table struct {
	heads []string
	rows  [][]string
}

// add adds a row, of as many cells as there are headings.
func (t *table) add(cells ...any) {
	row := make([]string, len(cells))
	for i, cell := range cells {
		row[i] = clean(fmt.Sprint(cell))
	}
	t.rows = append(t.rows, row)
}

// print writes the table; numbers stand on the right.
func (t *table) print(w io.Writer) {
	widths := make([]int, len(t.heads))
	right := make([]bool, len(t.heads))
	for i := range t.heads {
		right[i] = true
		for _, row := range t.rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
			if _, err := strconv.ParseFloat(row[i], 64); err != nil && row[i] != "" {
				right[i] = false
			}
		}
		if widths[i] > 0 {
			widths[i] = max(widths[i], len(t.heads[i]))
		}
	}
	for _, row := range append([][]string{t.heads}, t.rows...) {
		var line strings.Builder
		for i, cell := range row {
			if widths[i] == 0 {
				continue
			}
			gap := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if right[i] {
				cell, gap = gap+cell, ""
			}
			line.WriteString(cell + gap + "  ")
		}
		_, _ = fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	}
}

// clean makes text safe for a terminal: names of processes and messages come
// from elsewhere, and may carry control sequences.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		if unicode.IsSpace(r) {
			return ' '
		}
		return unicode.ReplacementChar
	}, s)
}

// age says how long ago a time was, in its two largest units at most: "3m".
func (a *app) age(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return span(a.now().Sub(t))
}

// span writes a duration in short: "12s", "5m", "3h20m", "4d".
func span(d time.Duration) string {
	d = max(d, 0)
	minutes := int(d.Minutes())
	switch hours := minutes / 60; {
	case minutes == 0:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case hours == 0:
		return fmt.Sprintf("%dm", minutes)
	case hours < 10 && minutes%60 > 0:
		return fmt.Sprintf("%dh%dm", hours, minutes%60)
	case hours < 48:
		return fmt.Sprintf("%dh", hours)
	default:
		return fmt.Sprintf("%dd", hours/24)
	}
}

// clock writes a time for people, in their own zone.
func (a *app) clock(t time.Time) string {
	return t.In(a.zone).Format("2006-01-02 15:04:05")
}

// size writes a number of bytes: "12 kB", "3.4 MB".
func size(n int64) string {
	const kilo = 1000
	value, unit := float64(n), 0
	for value >= kilo && unit < 4 {
		value, unit = value/kilo, unit+1
	}
	name := []string{"B", "kB", "MB", "GB", "TB"}[unit]
	if value < 10 && unit > 0 {
		return fmt.Sprintf("%.1f %s", value, name)
	}
	return fmt.Sprintf("%.0f %s", value, name)
}

// count writes a number with its noun: "1 proxy", "2 proxies".
func count[N int | uint64](n N, one, many string) string {
	if n == 1 {
		return fmt.Sprintf("%d %s", n, one)
	}
	return fmt.Sprintf("%d %s", n, many)
}
