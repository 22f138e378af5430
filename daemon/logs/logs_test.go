package logs

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// log is a limited log and what was written to it.
type log struct {
	*slog.Logger
	handler *Handler
	mu      sync.Mutex
	out     bytes.Buffer
}

func newLog(o Options) *log {
	l := &log{}
	text := slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
			return slog.Attr{}
		}
		return a
	}})
	l.handler = Limit(text, o)
	l.Logger = slog.New(l.handler)
	return l
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(p)
}

// take gives what was written since the last time, a line each.
func (l *log) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(l.out.String()), "\n")
	l.out.Reset()
	if lines[0] == "" {
		return nil
	}
	return lines
}

func (l *log) wrote(t *testing.T, want ...string) {
	t.Helper()
	if got := l.take(); fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
		t.Errorf("written:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestRepeatsAreToldOnceWithTheirNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLog(Options{Same: 2})
		for i := range 100 {
			l.Warn("query failed", "server", "s1", "took_ms", i, "err", fmt.Errorf("read :%d: cut", 40_000+i))
		}
		l.wrote(t,
			`msg="query failed" server=s1 took_ms=0 err="read :40000: cut"`,
			`msg="query failed" server=s1 took_ms=1 err="read :40001: cut"`)
		time.Sleep(time.Minute)
		synctest.Wait()
		l.wrote(t, `msg="query failed" server=s1 took_ms=99 err="read :40099: cut" left_out=97`)
		time.Sleep(time.Hour)
		synctest.Wait()
		l.wrote(t)
		l.Warn("query failed", "server", "s1", "took_ms", 7, "err", errors.New("read :1: cut"))
		l.wrote(t, `msg="query failed" server=s1 took_ms=7 err="read :1: cut"`)
	})
}

func TestWhatDiffersIsWritten(t *testing.T) {
	l := newLog(Options{Same: 1})
	l.Info("a", "server", "s1")
	l.Info("a", "server", "s2")
	l.Warn("a", "server", "s1")
	l.Info("b", "server", "s1")
	l.Info("a", "server", "s1", "drained", true)
	l.Info("a", "server", "s1", "drained", false)
	l.Info("a", "err", errors.New("cut"))
	l.Info("a", "err", errors.New("refused"))
	l.With("component", "x").Info("a", "server", "s1")
	l.With("component", "y").Info("a", "server", "s1")
	l.WithGroup("g").Info("a", "server", "s1")
	l.Info("a", slog.Group("g", "server", "s9"))
	if n := len(l.take()); n != 12 {
		t.Errorf("%d lines are written, want 12", n)
	}
	for range 2 {
		l.With("component", "x").Info("a", "server", "s1")
		l.Info("a", "server", "s1", "n", 5, "at", time.Now(), "took", time.Second)
	}
	if got := l.take(); len(got) != 1 {
		t.Errorf("repeats are written: %q", got)
	}
}

func TestOneMessageForManyIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLog(Options{Alike: 5})
		for i := range 300 {
			l.Info("kernel moved a proxy", "proxy", fmt.Sprint("web-", i))
		}
		if got := l.take(); len(got) != 5 || got[4] != `msg="kernel moved a proxy" proxy=web-4` {
			t.Errorf("written: %q", got)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		l.wrote(t, `msg="kernel moved a proxy" proxy=web-299 left_out=294`)
	})
}

func TestDebugIsNotLimited(t *testing.T) {
	l := newLog(Options{Same: 1})
	for range 10 {
		l.Debug("called")
	}
	if n := len(l.take()); n != 10 {
		t.Errorf("%d lines are written, want 10", n)
	}
}

func TestFlushTellsTheRest(t *testing.T) {
	l := newLog(Options{Same: 1})
	for range 3 {
		l.With("component", "x").Error("broken")
	}
	l.handler.Flush()
	l.wrote(t, `msg=broken component=x`, `msg=broken component=x left_out=1`)
	l.handler.Flush()
	l.wrote(t)
}

// Who logs without end of things that all differ fills neither the log nor the
// memory.
func TestMemoryIsBounded(t *testing.T) {
	l := newLog(Options{})
	for i := range 10 * maxKinds {
		l.Info(fmt.Sprint("message ", i%100), "id", fmt.Sprint("x", i)) //nolint:sloglint // many messages are what is tested
	}
	if n := len(l.handler.limit.kinds); n > maxKinds+100 {
		t.Errorf("%d kinds are remembered", n)
	}
	if n := len(l.take()); n > 100*60 {
		t.Errorf("%d lines are written", n)
	}
	l.handler.Flush()
}

func TestNothingIsLostBetweenGoroutines(t *testing.T) {
	l := newLog(Options{Same: 2, Window: 5 * time.Millisecond})
	var all sync.WaitGroup
	const each = 500
	for range 8 {
		all.Go(func() {
			for range each {
				l.Info("same")
				time.Sleep(10 * time.Microsecond)
			}
		})
	}
	all.Wait()
	l.handler.Flush()
	told := 0
	for _, line := range l.take() {
		told++
		if _, n, is := strings.Cut(line, LeftOut+"="); is {
			var left int
			fmt.Sscan(n, &left)
			told += left
		}
	}
	if told != 8*each {
		t.Errorf("%d of %d lines are written or counted", told, 8*each)
	}
}

func BenchmarkLimited(b *testing.B) {
	limited := slog.New(Limit(slog.NewTextHandler(&bytes.Buffer{}, nil), Options{}))
	err := errors.New("read :41234: cut")
	for b.Loop() {
		limited.Warn("query failed", "server", "s1", "took_ms", 5, "err", err)
	}
}
