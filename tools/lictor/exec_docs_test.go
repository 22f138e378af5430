package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// row is one of docs/exec.md: a flag, its variable, and what it does here, ""
// in the table of lictor's own.
var row = regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\| (?:`([A-Z_]+)`)? ?\\|(?: (same|different|not needed) \\|)? ?(.*?) ?\\|$")

// The document says of each flag what it does, of none that is not there, and
// has all those of consul-dataplane.
func TestExecDocs(t *testing.T) {
	text, err := os.ReadFile("../docs/exec.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string][]string{}
	for _, match := range row.FindAllStringSubmatch(string(text), -1) {
		if documented[match[1]] != nil {
			t.Errorf("%s is there twice", match[1])
		}
		documented[match[1]] = match[2:]
	}
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	for _, f := range newExecOptions().flags() {
		f.bind(flags, f.name, f.usage)
		got := documented[f.name]
		if got == nil {
			t.Errorf("%s is not documented", f.name)
			continue
		}
		env, use, why := got[0], got[1], got[2]
		if env != f.env {
			t.Errorf("%s: the document says %q of its variable, which is %q", f.name, env, f.env)
		}
		if _, ignored := flags.Lookup(f.name).Value.(*ignoredValue); ignored != (use == "not needed") {
			t.Errorf("%s is documented as %q, and ignored: %v", f.name, use, ignored)
		}
		if use != "same" && why == "" {
			t.Errorf("%s: why is it %s?", f.name, use)
		}
		delete(documented, f.name)
	}
	for name := range documented {
		t.Errorf("%s is documented and no flag", name)
	}

	list, err := os.ReadFile("testdata/consul-dataplane.flags")
	if err != nil {
		t.Fatal(err)
	}
	theirs := strings.Fields(string(list))
	if len(theirs) < 60 {
		t.Errorf("only %d flags of consul-dataplane", len(theirs))
	}
	mine := newExecOptions().flags()
	for _, name := range theirs {
		i := slices.IndexFunc(mine, func(f execFlag) bool { return f.name == name })
		if i < 0 {
			t.Errorf("consul-dataplane's %s is not taken", name)
		} else if env := mine[i].env; env != "" && !strings.HasPrefix(env, "DP_") {
			t.Errorf("%s has the variable %s", name, env)
		}
	}
	if theirs := strings.Count(string(text), "| same |") + strings.Count(string(text), "| different |") + strings.Count(string(text), "| not needed |"); theirs != len(strings.Fields(string(list))) {
		t.Errorf("the table of consul-dataplane's flags has %d rows, it has %d flags", theirs, len(strings.Fields(string(list))))
	}
}
