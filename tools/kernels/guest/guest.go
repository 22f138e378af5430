// Package guest is what make kernels and the first process on the kernels that
// it boots tell each other.
package guest

import (
	"fmt"
	"strings"
	"time"
)

const (
	// PlanFile is where the guest finds its [Plan], as JSON.
	PlanFile = "/plan.json"
	// Share is the name under which the guest finds the host's files.
	Share = "host"
	// EventBegin is the event of the line before what a step says.
	EventBegin = "begin"
	// EventEnd is that of the line after it.
	EventEnd = "end"
	// Done is the last line of a guest that ran all its steps.
	Done = mark + "done"

	mark = "@@@ "
)

// Plan is what a guest is to do.
type Plan struct {
	Modules []string // files in the guest's first root, in the order of loading
	Steps   []Step
}

// Step is a program to be run to its end.
type Step struct {
	Name string   // one word
	Args []string // the program's path first
	Dir  string
	Env  []string
}

// Begin is the line before what a step says.
func Begin(name string) string { return mark + EventBegin + " " + name }

// End is the line after it. A code above 128 means a signal.
func End(name string, code int, took time.Duration) string {
	return fmt.Sprintf("%s%s %s %d %d", mark, EventEnd, name, code, took.Milliseconds())
}

// Line reads one line of a guest's, with what its event has; of a line of a
// step's own, event is "".
func Line(line string) (event, name string, code int, took time.Duration) {
	rest, ok := strings.CutPrefix(line, mark)
	if !ok {
		return "", "", 0, 0
	}
	var ms int
	_, _ = fmt.Sscan(rest, &event, &name, &code, &ms) // as many as that event has
	return event, name, code, time.Duration(ms) * time.Millisecond
}
