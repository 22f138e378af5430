package lifecycle

import (
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/tools/testbed/sandbox"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// pod is a process in a namespace with a fake admin interface of Envoy's.
type pod struct {
	ns       *sandbox.Netns
	child    *child
	envoy    *fakeEnvoy
	registry *fakeRegistry
	client   *http.Client
}

func newPod(t *testing.T, s state.EnvoySettings) *pod {
	t.Helper()
	testenv.Privileged(t)
	testenv.NoLeaks(t)
	p := &pod{ns: testenv.Netns(t), envoy: &fakeEnvoy{}, registry: &fakeRegistry{}}
	p.client = clientIn(p.ns)
	p.child = start(t, p.ns, blocked("sleep", "600"))
	p.envoy.quit = func() { _ = p.child.Process.Kill() }
	listenIn(t, p.ns, "127.0.0.1:19000", p.envoy)
	p.registry.register(processOf(t, p.child.Process.Pid), s, ownerOf(t, p.ns))
	// By then it has SIGTERM blocked.
	eventually(t, "it sleeps", func() bool {
		comm, _ := os.ReadFile("/proc/" + itoa(p.child.Process.Pid) + "/comm")
		return string(comm) == "sleep\n"
	})
	return p
}

const (
	drainCall = "POST /drain_listeners?inboundonly&graceful&skip_exit"
	quitCall  = "POST /quitquitquit"
)

// SIGTERM begins a drain, after which the grace goes by before Envoy quits.
func TestSignalDrains(t *testing.T) {
	p := newPod(t, state.EnvoySettings{ShutdownDrain: true, ShutdownGraceSeconds: 1})
	m, _ := manage(t, p.registry, time.Minute)
	eventually(t, "the process is watched", func() bool { return phase(m) == Running })
	began := time.Now()
	if err := unix.Kill(p.child.Process.Pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it drains", func() bool { return slices.Equal(p.envoy.requests(), []string{drainCall}) })
	if took := time.Since(began); took > time.Second {
		t.Errorf("SIGTERM was seen after %s", took)
	}
	if phase(m) != Draining || !p.child.alive() {
		t.Errorf("it is %s, alive %v", phase(m), p.child.alive())
	}
	<-p.child.ended
	if took := time.Since(began); took < time.Second || took > 3*time.Second {
		t.Errorf("it ended after %s with a grace of 1 s", took)
	}
	if got := p.envoy.requests(); !slices.Equal(got, []string{drainCall, quitCall}) {
		t.Errorf("asked %q", got)
	}
	eventually(t, "its end is noticed", func() bool { return phase(m) == Gone })
}

// Without a grace, or a drain, SIGTERM is Envoy's own business.
func TestSignalLeftToEnvoy(t *testing.T) {
	p := newPod(t, state.EnvoySettings{})
	m, _ := manage(t, p.registry, time.Minute)
	eventually(t, "the process is watched", func() bool { return phase(m) == Running })
	if err := unix.Kill(p.child.Process.Pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * termEvery)
	if got := p.envoy.requests(); len(got) > 0 || phase(m) != Running {
		t.Errorf("asked %q, it is %s", got, phase(m))
	}
}

// A SIGTERM that came while no manager ran is answered by the next, also when
// the one before had begun to.
func TestSignalOutlivesManager(t *testing.T) {
	p := newPod(t, state.EnvoySettings{ShutdownDrain: true, ShutdownGraceSeconds: 1})
	if err := unix.Kill(p.child.Process.Pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_, stop := manage(t, p.registry, time.Minute)
	eventually(t, "it drains", func() bool { return len(p.envoy.requests()) == 1 })
	stop()
	if !p.child.alive() {
		t.Fatal("it ended with the manager")
	}
	manage(t, p.registry, time.Minute)
	<-p.child.ended
	if got := p.envoy.requests(); !slices.Equal(got, []string{drainCall, drainCall, quitCall}) {
		t.Errorf("asked %q", got)
	}
}

// An Envoy that does not answer is said to be for its supervisor to kill; it is
// not killed here.
func TestAdminDoesNotAnswer(t *testing.T) {
	for name, admin := range map[string]string{
		"nobody listens":    "127.0.0.1:19001",
		"not on loopback":   "192.0.2.1:19000",
		"something refuses": "127.0.0.1:19002",
	} {
		t.Run(name, func(t *testing.T) {
			p := newPod(t, state.EnvoySettings{AdminBind: admin, ShutdownDrain: true})
			listenIn(t, p.ns, "127.0.0.1:19002", http.RedirectHandler("http://127.0.0.1:19000/", http.StatusFound))
			m, _ := manage(t, p.registry, time.Minute)
			if err := unix.Kill(p.child.Process.Pid, unix.SIGTERM); err != nil {
				t.Fatal(err)
			}
			eventually(t, "it is said", func() bool {
				problems := m.Problems()
				return len(problems) > 0 && strings.HasPrefix(problems[len(problems)-1], "proxy web-1: ") &&
					strings.Contains(strings.Join(problems, " "), "its supervisor has to kill it")
			})
			if !p.child.alive() || phase(m) != Quitting {
				t.Errorf("alive %v, %s", p.child.alive(), phase(m))
			}
			if got := p.envoy.requests(); len(got) > 0 {
				t.Errorf("another was asked %q", got)
			}
		})
	}
}

// The configuration goes to Envoy's stdout, a pipe, and to nothing else.
func TestDumpConfig(t *testing.T) {
	testenv.Privileged(t)
	for name, test := range map[string]struct {
		stdout func(t *testing.T) (*os.File, func() string)
		want   int
	}{
		"pipe": {func(t *testing.T) (*os.File, func() string) {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			return w, func() string { w.Close(); defer r.Close(); text, _ := io.ReadAll(r); return string(text) }
		}, 2000},
		"file": {func(t *testing.T) (*os.File, func() string) {
			f, err := os.CreateTemp(t.TempDir(), "")
			if err != nil {
				t.Fatal(err)
			}
			return f, func() string { f.Close(); text, _ := os.ReadFile(f.Name()); return string(text) }
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			testenv.NoLeaks(t)
			ns := testenv.Netns(t)
			envoy := &fakeEnvoy{}
			listenIn(t, ns, "127.0.0.1:19000", envoy)
			stdout, read := test.stdout(t)
			cmd := blocked("sleep", "600")
			cmd.Stdout = stdout
			c := start(t, ns, cmd)
			envoy.quit = func() { _ = c.Process.Kill() }
			r := &fakeRegistry{}
			r.register(processOf(t, c.Process.Pid), state.EnvoySettings{DumpConfigOnExit: true}, ownerOf(t, ns))
			text := make(chan string)
			go func() { <-c.ended; text <- read() }()
			eventually(t, "it sleeps", func() bool {
				comm, _ := os.ReadFile("/proc/" + itoa(c.Process.Pid) + "/comm")
				return string(comm) == "sleep\n"
			})
			manage(t, r, time.Minute)
			if err := unix.Kill(c.Process.Pid, unix.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if got := strings.Count(<-text, "{config}"); got != test.want {
				t.Errorf("%d parts of the configuration, want %d", got, test.want)
			}
		})
	}
}
