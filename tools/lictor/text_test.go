package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

func TestSpanAndSize(t *testing.T) {
	for want, d := range map[string]time.Duration{
		"0s": -time.Second, "59s": 59*time.Second + 999*time.Millisecond, "1m": time.Minute, "59m": time.Hour - time.Second,
		"1h": time.Hour, "3h20m": 200 * time.Minute, "10h": 10*time.Hour + 59*time.Minute, "47h": 47 * time.Hour, "2d": 48 * time.Hour,
	} {
		if got := span(d); got != want {
			t.Errorf("span(%v) = %q, want %q", d, got, want)
		}
	}
	for want, n := range map[string]int64{
		"0 B": 0, "999 B": 999, "1.0 kB": 1000, "12 kB": 12345, "1.2 MB": 1234567, "5000 TB": 5e15,
	} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestCleanKeepsTextAndNoControls(t *testing.T) {
	for in, want := range map[string]string{
		"Büro → 7": "Büro → 7", "a\tb\nc": "a b c", "\x1b[2J": "�[2J", "\u202egnp": "�gnp", "\xff": "�",
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestTableLeavesOutEmptyColumnsAndAlignsNumbers(t *testing.T) {
	var out bytes.Buffer
	tbl := table{heads: []string{"NAME", "RARE", "COUNT"}}
	tbl.add("é", "", 7)
	tbl.add("longer", "", 1234567)
	tbl.print(&out)
	const want = "NAME      COUNT\né             7\nlonger  1234567\n"
	if out.String() != want {
		t.Errorf("table =\n%s\nwant\n%s", out.String(), want)
	}
}

// A daemon that does not answer is waited for in words.
func TestAwaitTellsOfTheTime(t *testing.T) {
	var out bytes.Buffer
	now := today
	a := &app{environment: environment{stderr: &out, terminal: true, now: func() time.Time {
		now = now.Add(700 * time.Millisecond) // each look at the clock
		return now
	}}}
	wrong := errors.New("wrong")
	release := make(chan struct{})
	time.AfterFunc(3*progressEvery+progressEvery/2, func() { close(release) })
	err := a.await("lictord", func() error {
		<-release
		return wrong
	})
	if !errors.Is(err, wrong) {
		t.Errorf("await returns %v", err)
	}
	if got := out.String(); !strings.HasPrefix(got, "\rwaiting for lictord: ") || !strings.HasSuffix(got, "\r\x1b[K") {
		t.Errorf("said %q", got)
	}
	out.Reset()
	if err := a.await("lictord", func() error { return nil }); err != nil || out.Len() > 0 {
		t.Errorf("of what is answered at once: %v, %q", err, out.String())
	}
}

func TestProgress(t *testing.T) {
	for name, tc := range map[string]struct {
		terminal bool
		step     time.Duration
		want     string
	}{
		"short work says nothing":  {true, 100 * time.Millisecond, ""},
		"drawn over on a terminal": {true, 600 * time.Millisecond, "\rverifying: 50 % of 4.0 kB\x1b[K\rverifying: 75 % of 4.0 kB\x1b[K\r\x1b[K"},
		"seldom in a log":          {false, 6 * time.Second, "verifying: 25 % of 4.0 kB\nverifying: 75 % of 4.0 kB\n"},
	} {
		var out bytes.Buffer
		now := today
		a := &app{environment: environment{stderr: &out, terminal: tc.terminal, now: func() time.Time { return now }}}
		p := a.progress("verifying")
		for i := range 3 {
			now = now.Add(tc.step)
			p.at(int64(i+1)*1000, 4000)
		}
		p.end()
		if out.String() != tc.want {
			t.Errorf("%s: %q, want %q", name, out.String(), tc.want)
		}
	}
}

// A lictord that is stopped is not waited for without end, be it before its
// answer or within.
func TestReadJournalGivesUp(t *testing.T) {
	for name, answer := range map[string]string{
		"no answer": "",
		"half of one": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" +
			"28\r\n" + `{"seq":1,"kind":"ServerGone","data":{}}` + "\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "s")
			l, err := net.Listen("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				if conn, err := l.Accept(); err == nil && answer != "" {
					_, _ = io.WriteString(conn, answer)
				}
			}()
			var out, said bytes.Buffer
			a := &app{environment: environment{stdout: &out, stderr: &said, now: time.Now}, socket: socket, quiet: 2 * progressEvery}
			shown := 0
			err = a.readJournal(t.Context(), 0, func(v1.JournalEvent) error { shown++; return nil })
			if err == nil || !strings.Contains(err.Error(), "has said nothing for 0s; is it stopped or overloaded?") {
				t.Errorf("error %v", err)
			}
			if want := len(answer) > 0; (shown == 1) != want {
				t.Errorf("%d events were shown", shown)
			}
		})
	}
}

// However long a pager takes for a line, that is not lictord's doing.
func TestReadJournalWaitsForItsReader(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	released := make(chan struct{})
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, `{"seq":1}`)
		_ = http.NewResponseController(w).Flush()
		<-released
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	defer func() { server.Close(); <-done }()
	now := today
	a := &app{environment: environment{stderr: io.Discard, now: func() time.Time { return now }}, socket: socket}
	err = a.readJournal(t.Context(), 0, func(v1.JournalEvent) error {
		now = now.Add(time.Hour)
		time.AfterFunc(2*progressEvery, func() { close(released) })
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// Whoever is woken by a lictord that hangs is told what still works.
func TestStatusOfAStoppedLictord(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var said bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	status := run(ctx, environment{
		stdout: io.Discard, stderr: &said, now: time.Now,
		getenv: func(name string) string { return map[string]string{"LICTOR_BPFFS": dir}[name] },
	}, []string{"status", "--socket", filepath.Join(dir, "s")})
	if got := said.String(); status != exitFailed || !strings.Contains(got, "is it stopped or overloaded?") ||
		!strings.Contains(got, "Its hook is still in the kernel") {
		t.Errorf("status %d, %s", status, got)
	}
}

// A lictord that goes away is waited for, be it within a stream or between two,
// which is said once for each time.
func TestFollowWaits(t *testing.T) {
	t.Parallel()
	var said bytes.Buffer
	a := &app{environment: environment{stderr: &said}}
	absent := &v1.ConnectError{Socket: "/s", Err: io.EOF}
	cut := errors.New("cut")
	streams := []error{absent, absent, cut, absent, context.Canceled}
	err := a.follow(t.Context(), func() (err error) {
		err, streams = streams[0], streams[1:]
		return err
	})
	if err != nil || len(streams) > 0 {
		t.Errorf("error %v, %d streams not followed", err, len(streams))
	}
	if n := strings.Count(said.String(), "waiting for it to come back"); n != 2 {
		t.Errorf("it was said %d times: %s", n, said.String())
	}
	full := written(io.ErrShortWrite)
	if err := a.follow(t.Context(), func() error { return full }); !errors.Is(err, full) {
		t.Errorf("output that cannot be written ends with %v", err)
	}
}
