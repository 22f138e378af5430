package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/tools/kernels/guest"
)

// hear gives a guest's lines to a listener, with all that is around them.
func hear(checks []check, lines ...string) []result {
	l := newListener(checks)
	for _, line := range lines {
		l.hear(line)
	}
	return l.results
}

func TestResults(t *testing.T) {
	tests := check{Step: guest.Step{Name: "pkg"}, tests: true}
	doctor := check{Step: guest.Step{Name: "doctor"}, code: 1, says: "newer kernel"}
	begin := func(name string) string { return guest.Begin(name) }
	end := func(name string, code int) string { return guest.End(name, code, 3*time.Second) }
	for name, c := range map[string]struct {
		check check
		lines []string
		short string
		why   string // "" when it is as it must be
	}{
		"tests pass": {tests, []string{
			begin("pkg"), "=== RUN   TestA", "--- PASS: TestA (0.01s)", "    --- PASS: TestB/part (0.00s)", "--- PASS: TestB (1.00s)", "PASS", end("pkg", 0),
		}, "2 ok, 3s", ""},
		"one is skipped": {tests, []string{begin("pkg"), "--- PASS: TestA (0.01s)", "--- SKIP: TestB (0.00s)", end("pkg", 0)}, "1 ok, 1 skipped, 3s", ""},
		"one fails":      {tests, []string{begin("pkg"), "--- PASS: TestA (0.01s)", "--- FAIL: TestB (9.00s)", end("pkg", 1)}, "1 FAILED of 2, 3s", "TestB"},
		"a panic":        {tests, []string{begin("pkg"), "--- PASS: TestA (0.01s)", "panic: no", end("pkg", 2)}, "FAILED", "exit status 2, not 0"},
		"no test":        {tests, []string{begin("pkg"), "PASS", end("pkg", 0)}, "FAILED", "no test ran"},
		"cut off":        {tests, []string{begin("pkg"), "--- PASS: TestA (0.01s)"}, "NOT RUN", "it did not come to its end"},
		"never begun":    {tests, nil, "NOT RUN", "it did not come to its end"},
		"another's":      {tests, []string{begin("other"), "--- PASS: TestA (0.01s)", end("other", 0)}, "NOT RUN", "it did not come to its end"},
		"refused":        {doctor, []string{begin("doctor"), "run a newer kernel (5.14)", end("doctor", 1)}, "refused, as it must", ""},
		"not refused":    {doctor, []string{begin("doctor"), "run a newer kernel (5.14)", end("doctor", 0)}, "FAILED", "exit status 0, not 1"},
		"says not why":   {doctor, []string{"run a newer kernel (5.14)", begin("doctor"), "no", end("doctor", 1)}, "FAILED", `it did not say "newer kernel"`},
		"killed":         {doctor, []string{begin("doctor"), "newer kernel", end("doctor", 137)}, "FAILED", "exit status 137, not 1"},
	} {
		r := hear([]check{c.check}, c.lines...)[0]
		if r.short() != c.short || r.ok() != (c.why == "") || (c.why != "" && r.why() != c.why) {
			t.Errorf("%s: %q, ok %v, %q; want %q, %q", name, r.short(), r.ok(), r.why(), c.short, c.why)
		}
	}
}

func TestTableCountsWhatIsBad(t *testing.T) {
	a := check{Step: guest.Step{Name: "a"}}
	good := hear([]check{a}, guest.Begin("a"), guest.End("a", 0, time.Second))
	bad := hear([]check{a, {Step: guest.Step{Name: "b"}}}, guest.Begin("a"), guest.End("a", 1, time.Second))
	var out strings.Builder
	if n := show(&out, []column{{kernel: "6.1", results: good}, {kernel: "6.12", results: bad}, {kernel: "7", err: errors.New("did not boot")}}); n != 2 {
		t.Errorf("%d are bad, want 2:\n%s", n, out.String())
	}
	for _, want := range []string{"KERNEL   TIME   A        B\n", "6.1      0s     ok, 1s   -\n", "6.12: b: it did not", "7: did not boot\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

func TestPick(t *testing.T) {
	if all, err := pick(""); err != nil || len(all) != len(releases) {
		t.Errorf("%v, %v", all, err)
	}
	if two, err := pick("7 6.1"); err != nil || len(two) != 2 || two[0].kernel != "7" || two[1].kernel != "6.1" {
		t.Errorf("%v, %v", two, err)
	}
	if _, err := pick("6.1 5.15"); err == nil || !strings.Contains(err.Error(), `no kernel "5.15"; there are 5.10, 6.1`) {
		t.Error(err)
	}
}

// The image's package of 7.1 and later is empty.
func TestWantedPackages(t *testing.T) {
	for depends, want := range map[string]string{
		"linux-image-amd64\n  Depends: linux-image-6.1.0-50-amd64\nlinux-image-6.1.0-50-amd64\n  Depends: kmod\nkmod\n":                                                     "linux-image-6.1.0-50-amd64",
		"linux-image-amd64\nlinux-image-7.2.13+deb14-amd64\nlinux-base\nlinux-base-7.2.13+deb14-amd64\nlinux-binary-7.2.13+deb14-amd64\nlinux-modules-7.2.13+deb14-amd64\n": "linux-image-7.2.13+deb14-amd64 linux-base-7.2.13+deb14-amd64 linux-binary-7.2.13+deb14-amd64 linux-modules-7.2.13+deb14-amd64",
	} {
		if got := strings.Join(wanted(depends), " "); got != want {
			t.Errorf("wanted %s, want %s", got, want)
		}
	}
}
