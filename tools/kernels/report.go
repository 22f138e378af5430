package main

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/lictor-mesh/lictor/tools/kernels/guest"
)

// column is what became of the checks on one kernel.
type column struct {
	kernel  string
	results []result
	took    time.Duration
	err     error // it did not boot, or did not come to an end
}

// result is what became of one check.
type result struct {
	check
	ran                     bool // to its end
	exit                    int
	passed, failed, skipped []string // tests, without their parts
	said                    bool     // what it must say
	took                    time.Duration
}

// listener gathers results from what a guest says, line by line.
type listener struct {
	results []result // one for each check, in order
	now     *result  // whose lines are being said
}

func newListener(checks []check) *listener {
	l := &listener{}
	for _, c := range checks {
		l.results = append(l.results, result{check: c, said: c.says == ""})
	}
	return l
}

var verdict = regexp.MustCompile(`^--- (PASS|FAIL|SKIP): (\S+) \(`)

// hear takes a line. It returns the result that the line ends, if it does.
func (l *listener) hear(line string) *result {
	switch event, name, code, took := guest.Line(line); event {
	case guest.EventBegin:
		i := slices.IndexFunc(l.results, func(r result) bool { return r.Name == name })
		if l.now = nil; i >= 0 {
			l.now = &l.results[i]
		}
		return nil
	case guest.EventEnd:
		ended := l.now
		if l.now = nil; ended == nil || ended.Name != name {
			return nil
		}
		ended.ran, ended.exit, ended.took = true, code, took
		return ended
	}
	r := l.now
	if r == nil {
		return nil
	}
	if m := verdict.FindStringSubmatch(line); m != nil {
		list := map[string]*[]string{"PASS": &r.passed, "FAIL": &r.failed, "SKIP": &r.skipped}[m[1]]
		*list = append(*list, m[2])
	}
	r.said = r.said || strings.Contains(line, r.says)
	return nil
}

// ok says whether a check came to what it must come to.
func (r *result) ok() bool {
	return r.ran && r.exit == r.code && r.said && len(r.failed) == 0 && (!r.tests || len(r.passed) > 0)
}

// short is the result in the table.
func (r *result) short() string {
	took := r.took.Round(time.Second)
	switch {
	case !r.ran:
		return "NOT RUN"
	case len(r.failed) > 0:
		return fmt.Sprintf("%d FAILED of %d, %v", len(r.failed), len(r.failed)+len(r.passed), took)
	case !r.ok():
		return "FAILED"
	case r.code != 0:
		return "refused, as it must"
	case !r.tests:
		return fmt.Sprintf("ok, %v", took)
	case len(r.skipped) > 0:
		return fmt.Sprintf("%d ok, %d skipped, %v", len(r.passed), len(r.skipped), took)
	}
	return fmt.Sprintf("%d ok, %v", len(r.passed), took)
}

// why says what is wrong with a result that is not ok.
func (r *result) why() string {
	switch {
	case !r.ran:
		return "it did not come to its end"
	case len(r.failed) > 0:
		return strings.Join(r.failed, ", ")
	case r.exit != r.code:
		return fmt.Sprintf("exit status %d, not %d", r.exit, r.code)
	case !r.said:
		return fmt.Sprintf("it did not say %q", r.says)
	}
	return "no test ran"
}

// show prints a table of kernels by checks, then what is wrong, and returns how
// many kernels are not as they must be.
func show(out io.Writer, columns []column) (bad int) {
	var names []string
	for _, c := range columns {
		for _, r := range c.results {
			if !slices.Contains(names, r.Name) {
				names = append(names, r.Name)
			}
		}
	}
	t := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintf(t, "KERNEL\tTIME\t%s\n", strings.ToUpper(strings.Join(names, "\t")))
	for _, c := range columns {
		fmt.Fprintf(t, "%s\t%v", c.kernel, c.took.Round(time.Second))
		for _, name := range names {
			cell := "-"
			for i := range c.results {
				if c.results[i].Name == name {
					cell = c.results[i].short()
				}
			}
			fmt.Fprintf(t, "\t%s", cell)
		}
		fmt.Fprintln(t)
	}
	t.Flush()
	for _, c := range columns {
		before := bad
		if c.err != nil {
			fmt.Fprintf(out, "%s: %v\n", c.kernel, c.err)
			bad = before + 1
		}
		for i := range c.results {
			if r := &c.results[i]; !r.ok() {
				fmt.Fprintf(out, "%s: %s: %s\n", c.kernel, r.Name, r.why())
				bad = before + 1
			}
		}
	}
	return bad
}
