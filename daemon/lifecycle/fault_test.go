package lifecycle

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/state"
)

// faulty is a log that panics at a message, the first time.
type faulty struct {
	slog.Handler
	mu    *sync.Mutex
	still map[string]bool // messages that are still to panic
}

func (f faulty) WithAttrs(attrs []slog.Attr) slog.Handler {
	return faulty{f.Handler.WithAttrs(attrs), f.mu, f.still}
}

func (f faulty) Handle(ctx context.Context, r slog.Record) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.still[r.Message] {
		delete(f.still, r.Message)
		panic("a fault at: " + r.Message)
	}
	return f.Handler.Handle(ctx, r)
}

func (f faulty) left() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.still)
}

// A panic in what is done for one process is said, and it is done again: a
// SIGTERM is answered, the end noticed, and the daemon lives.
func TestAFaultOfOurs(t *testing.T) {
	p := newPod(t, state.EnvoySettings{ShutdownGraceSeconds: 1})
	log := faulty{slog.NewTextHandler(testWriter{t}, nil), &sync.Mutex{}, map[string]bool{
		"proxy shuts down": true,
		"process ended; its proxy is released unless another takes its place": true,
	}}
	m, _ := manageWith(t, Config{Registry: p.registry, Hold: time.Minute, Log: slog.New(log)})
	eventually(t, "the process is watched", func() bool { return phase(m) == Running })
	if err := unix.Kill(p.child.Process.Pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the fault is said", func() bool {
		return strings.Contains(strings.Join(m.Problems(), "\n"), "proxy web-1: lictord hit a fault of its own")
	})
	eventually(t, "it is told to quit nevertheless", func() bool { return !p.child.alive() })
	eventually(t, "its end is noticed nevertheless", func() bool { return log.left() == 0 && phase(m) == Gone && len(m.Problems()) == 0 })
}

// The same where its endpoints are served.
func TestAFaultOfOursAtEndpoints(t *testing.T) {
	for name, bind := range map[string]string{"no address": "nonsense", "an address that is taken": "127.0.0.1:19000"} {
		t.Run(name, func(t *testing.T) {
			p := newPod(t, state.EnvoySettings{GracefulBind: bind})
			log := faulty{slog.NewTextHandler(testWriter{t}, nil), &sync.Mutex{}, map[string]bool{"something cannot be done for a proxy": true}}
			m, _ := manageWith(t, Config{Registry: p.registry, Hold: time.Minute, Log: slog.New(log)})
			eventually(t, "the fault is said", func() bool { return strings.Contains(strings.Join(m.Problems(), "\n"), "a fault of its own") })
		})
	}
}
