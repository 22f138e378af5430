package lifecycle

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// A proxy outlives its process by the hold time, and no longer.
func TestProcessGone(t *testing.T) {
	testenv.NoLeaks(t)
	r := &fakeRegistry{}
	c := start(t, nil, sleeper())
	r.register(processOf(t, c.Process.Pid), state.EnvoySettings{}, state.Owner{})
	const hold = 300 * time.Millisecond
	m, _ := manage(t, r, hold)
	eventually(t, "the process is watched", func() bool { return phase(m) == Running })
	if info, _ := m.Info("web-1"); !info.Alive || len(info.Problems) > 0 {
		t.Errorf("it runs, and is %+v", info)
	}
	c.kill()
	began := time.Now()
	eventually(t, "its end is noticed", func() bool { return phase(m) == Gone })
	if took := time.Since(began); took > hold {
		t.Errorf("its end was noticed after %s", took)
	}
	if r.releases() != 0 {
		t.Error("it was released at once")
	}
	eventually(t, "it is released", func() bool { m.Look(); return r.releases() == 1 })
	if took := time.Since(began); took < hold {
		t.Errorf("it was released after %s, before the hold time was over", took)
	}
	eventually(t, "it is forgotten", func() bool { _, ok := m.Info("web-1"); return !ok })
}

// A process that takes the place of another within the hold time keeps the
// registration; so does one that is there when the hold time of the first would
// be over.
func TestProcessReplaced(t *testing.T) {
	testenv.NoLeaks(t)
	r := &fakeRegistry{}
	first := start(t, nil, sleeper())
	r.register(processOf(t, first.Process.Pid), state.EnvoySettings{}, state.Owner{})
	m, _ := manage(t, r, 200*time.Millisecond)
	first.kill()
	eventually(t, "its end is noticed", func() bool { return phase(m) == Gone })
	second := start(t, nil, sleeper())
	r.register(processOf(t, second.Process.Pid), state.EnvoySettings{}, state.Owner{})
	eventually(t, "the second is watched", func() bool { m.Look(); return phase(m) == Running })
	time.Sleep(500 * time.Millisecond)
	m.Look()
	if r.releases() != 0 || phase(m) != Running {
		t.Errorf("released %v, and it is %s", r.released, phase(m))
	}
}

// A release that the registry refuses is tried again.
func TestReleaseTriedAgain(t *testing.T) {
	testenv.NoLeaks(t)
	r := &fakeRegistry{fail: errDisk}
	c := start(t, nil, sleeper())
	r.register(processOf(t, c.Process.Pid), state.EnvoySettings{}, state.Owner{})
	m, _ := manage(t, r, 10*time.Millisecond)
	c.kill()
	eventually(t, "its end is noticed", func() bool { return phase(m) == Gone })
	time.Sleep(50 * time.Millisecond)
	m.Look()
	r.mu.Lock()
	r.fail = nil
	r.mu.Unlock()
	eventually(t, "it is released", func() bool { m.Look(); return r.releases() == 1 })
}

// Whoever has the pid of a process is not that process.
func TestPidOfAnother(t *testing.T) {
	testenv.NoLeaks(t)
	c := start(t, nil, sleeper())
	p := processOf(t, c.Process.Pid)
	p.Start--
	r := &fakeRegistry{}
	r.register(p, state.EnvoySettings{ShutdownDrain: true}, state.Owner{})
	m, _ := manage(t, r, 10*time.Millisecond)
	eventually(t, "it is released", func() bool { m.Look(); return r.releases() == 1 })
	if !c.alive() {
		t.Error("the other process was harmed")
	}
}

// After a boot there is more time, and pids mean nothing.
func TestEarlierBoot(t *testing.T) {
	testenv.NoLeaks(t)
	c := start(t, nil, sleeper())
	p := processOf(t, c.Process.Pid)
	p.BootID = "earlier"
	r := &fakeRegistry{}
	r.register(p, state.EnvoySettings{}, state.Owner{})
	began := time.Now()
	m, _ := manage(t, r, 100*time.Millisecond)
	eventually(t, "it is released", func() bool { m.Look(); return r.releases() == 1 })
	if took := time.Since(began); took < 300*time.Millisecond {
		t.Errorf("released after %s", took)
	}
}

// A manager that stops leaves processes alone, and one that starts takes up what
// it finds: those that are there, and those that ended meanwhile.
func TestManagerRestarted(t *testing.T) {
	testenv.NoLeaks(t)
	r := &fakeRegistry{}
	c := start(t, nil, sleeper())
	r.register(processOf(t, c.Process.Pid), state.EnvoySettings{}, state.Owner{})
	m, stop := manage(t, r, 10*time.Millisecond)
	eventually(t, "the process is watched", func() bool { return phase(m) == Running })
	stop()
	if !c.alive() || r.releases() != 0 {
		t.Fatal("it did not outlive the manager")
	}
	m, stop = manage(t, r, 10*time.Millisecond)
	eventually(t, "the process is watched again", func() bool { return phase(m) == Running })
	stop()
	c.kill()
	manage(t, r, 10*time.Millisecond)
	eventually(t, "it is released", func() bool { return r.releases() == 1 })
}

func TestTermPending(t *testing.T) {
	testenv.NoLeaks(t)
	c := start(t, nil, blocked("sleep", "600"))
	var r *running
	eventually(t, "it sleeps", func() bool {
		if r != nil {
			r.close()
		}
		var err error
		if r, err = openProcess(*processOf(t, c.Process.Pid), bootID(t)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 64)
		_, _ = r.status.ReadAt(buf, 0)
		return strings.HasPrefix(string(buf), "Name:\tsleep")
	})
	defer r.close()
	if r.termPending() {
		t.Error("a signal that nobody sent is pending")
	}
	if err := unix.Kill(c.Process.Pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if !r.termPending() {
		t.Error("SIGTERM is not seen")
	}
	c.kill()
	if r.termPending() || !r.exited() {
		t.Error("a process that has ended still has its signal")
	}
}

func TestTermIn(t *testing.T) {
	for name, test := range map[string]struct {
		status string
		want   bool
	}{
		"none":             {"Name:\tenvoy\nSigPnd:\t0000000000004000\nShdPnd:\t0000000000000000\n", false},
		"SIGTERM":          {"Name:\tenvoy\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000004000\nSigBlk:\t0\n", true},
		"others":           {"Name:\tenvoy\nShdPnd:\t0000000000010802\n", false},
		"SIGTERM and more": {"Name:\tenvoy\nShdPnd:\t0000000000014802\n", true},
		"a name pretends":  {"Name:\tShdPnd:\\t4000\nShdPnd:\t0000000000000000\n", false},
		"cut off":          {"Name:\tenvoy\nShdPnd:\t", false},
		"empty":            {"", false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := termIn([]byte(test.status)); got != test.want {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}

// What a look at a process costs decides how often it can be had.
func BenchmarkTermPending(b *testing.B) {
	r, err := openProcess(*processOf(b, unix.Getpid()), bootID(b))
	if err != nil {
		b.Fatal(err)
	}
	defer r.close()
	for b.Loop() {
		r.termPending()
	}
}
