package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// row is one figure of the summary.
type row struct {
	what   string
	unit   string
	wanted float64 // 0: nothing is
	least  bool    // wanted is a minimum, not a maximum
	got    estimate
	note   string
}

// met says whether the figure is what is wanted. The estimate decides; where
// the interval reaches over, the verdict says that it may be chance.
func (r row) verdict() string {
	if r.wanted == 0 {
		return ""
	}
	within := func(x float64) bool {
		if r.least {
			return x >= r.wanted
		}
		return x <= r.wanted
	}
	word := "miss"
	if within(r.got.at) {
		word = "pass"
	}
	if within(r.got.low) != within(r.got.high) {
		word += " (close)"
	}
	return word
}

// report collects rows, and raw samples as `go test -bench` writes them.
type report struct {
	raw  io.Writer
	rows []row
}

// sample writes one raw sample, of so many operations that took ns each.
func (r *report) sample(name string, n int, ns float64) {
	fmt.Fprintf(r.raw, "Benchmark%s %d %g ns/op\n", name, n, ns)
}

func (r *report) add(rows ...row) { r.rows = append(r.rows, rows...) }

// table writes the summary.
func (r *report) table(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "figure\twanted\tmeasured\t95 % interval\t\tnote")
	for _, x := range r.rows {
		wanted := ""
		if x.wanted != 0 {
			sign := "≤"
			if x.least {
				sign = "≥"
			}
			wanted = fmt.Sprintf("%s %s", sign, figure(x.wanted, x.unit))
		}
		between := ""
		if x.got.low != x.got.high {
			between = figure(x.got.low, "") + " to " + figure(x.got.high, "")
		}
		fmt.Fprintln(w, strings.Join([]string{x.what, wanted, figure(x.got.at, x.unit), between, x.verdict(), x.note}, "\t"))
	}
	return w.Flush()
}

func figure(v float64, unit string) string {
	var text string
	switch a := max(v, -v); {
	case a >= 100:
		text = fmt.Sprintf("%.0f", v)
	case a >= 10:
		text = fmt.Sprintf("%.1f", v)
	default:
		text = fmt.Sprintf("%.2f", v)
	}
	return strings.TrimSpace(text + " " + unit)
}
