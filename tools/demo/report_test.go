package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func newReport() (*report, *bytes.Buffer) {
	var out bytes.Buffer
	ui := &screen{out: &out, size: func() (int, int) { return 0, 0 }}
	return &report{ui: ui}, &out
}

func does(took time.Duration, err error) func(context.Context) (finding, error) {
	return func(context.Context) (finding, error) { return finding{took: took, note: "a note"}, err }
}

func TestReport(t *testing.T) {
	ok := step{"holds", time.Second, false, does(time.Millisecond, nil)}
	fails := step{"fails", time.Second, false, does(0, errors.New("for a reason"))}
	needed := step{"is needed", time.Second, true, does(0, errors.New("for a reason"))}
	late := step{"is late", time.Second, false, does(2*time.Second, nil)}
	hangs := step{"hangs", time.Millisecond, false, func(ctx context.Context) (finding, error) {
		<-ctx.Done()
		return finding{}, context.Cause(ctx)
	}}
	for _, test := range []struct {
		name  string
		steps []step
		held  bool
		want  string // in the summary
	}{
		{"all hold", []step{ok, ok}, true, "2 of 2 checks held."},
		{"one fails, the others are tried", []step{ok, fails, ok}, false, "2 of 3 checks held, 1 failed, 0 were not tried."},
		{"a needed one fails", []step{needed, ok, ok}, false, "0 of 3 checks held, 1 failed, 2 were not tried."},
		{"the last, needed, fails", []step{ok, needed}, false, "1 of 2 checks held, 1 failed, 0 were not tried."},
		{"measured over the limit", []step{late}, false, "it took 2.00 s, more than 1.00 s"},
		{"cut off at the limit", []step{hangs}, false, "not within 1.0 ms"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, _ := newReport()
			if held := r.run(t.Context(), 0, test.steps); held != test.held || r.held() != test.held {
				t.Errorf("held = %v and %v, want %v", held, r.held(), test.held)
			}
			if text := strings.Join(r.summary(), "\n"); !strings.Contains(text, test.want) {
				t.Errorf("summary lacks %q:\n%s", test.want, text)
			}
		})
	}
}

func TestInterruptedReportHoldsNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r, out := newReport()
	interrupted := step{"interrupts", time.Second, false, func(context.Context) (finding, error) { cancel(); return finding{}, nil }}
	if r.run(ctx, time.Hour, []step{interrupted, interrupted}) {
		t.Error("an interrupted report held")
	}
	if out.Len() > 0 {
		t.Errorf("it says: %s", out)
	}
}

func TestResultLines(t *testing.T) {
	r, _ := newReport()
	for _, test := range []struct {
		name string
		in   result
		want string
	}{
		{"held", result{"it works", finding{1234 * time.Millisecond, "by itself"}, nil}, "✓ it works" + strings.Repeat(" ", 57) + "   1.23 s\n  by itself"},
		{"nothing to measure", result{"it works", finding{}, nil}, "✓ it works"},
		{"failed at length", result{"it works", finding{}, errors.New("it ended: " + strings.Repeat("x", 2000) + ": full")}, "✗ it works\n  it ended: " + strings.Repeat("x", 90) + " … " + strings.Repeat("x", 344) + ": full"},
		{"failed", result{"it works", finding{note: "by itself"}, errors.New("no\nreally")}, "✗ it works\n  no; really"},
	} {
		if got := strings.Join(r.lines(test.in), "\n"); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
	for _, s := range (&demo{}).script() {
		if n := utf8.RuneCountInString(s.title); n > titleWidth {
			t.Errorf("%d columns, so that times are not below each other: %s", n, s.title)
		}
	}
}

func TestSeconds(t *testing.T) {
	for in, want := range map[time.Duration]string{
		0: "0.0 ms", 12345 * time.Microsecond: "12.3 ms", 100 * time.Millisecond: "0.10 s",
		9 * time.Second: "9.00 s", 12700 * time.Millisecond: "13 s",
	} {
		if got := seconds(in); got != want {
			t.Errorf("seconds(%v) = %q, want %q", in, got, want)
		}
	}
}

func TestRequestsHeldOnlyIfAllWereAnswered(t *testing.T) {
	for _, test := range []struct {
		name string
		of   []counts // of each pair
		want string   // in the error; "": none
	}{
		{"all answered", []counts{{ok: 7}, {ok: 5}}, ""},
		{"none sent", []counts{{}, {}}, "0 requests were answered"},
		{"one failed", []counts{{ok: 7}, {ok: 5, failed: 1, err: errors.New("no answer")}}, "12 requests were answered, 1 failed: web to api: no answer"},
	} {
		d := &demo{mesh: &mesh{}}
		for _, c := range test.of {
			d.mesh.pairs = append(d.mesh.pairs, &pair{from: &member{name: "web"}, to: &member{name: "api"}, counts: c})
		}
		if _, err := d.requestsHeld(t.Context()); test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
}
