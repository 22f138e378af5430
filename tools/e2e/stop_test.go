package e2e

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// exitStatus is how a program ended; -1 when it was killed or never ran.
func exitStatus(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	default:
		return -1
	}
}

// SIGTERM ends lictord with exit status 0 and leaves the data path: streams
// stay, new connects are redirected, and the next daemon finds every count.
func TestAGracefulStopLeavesTheDataPath(t *testing.T) {
	w := newWorld(t, 1, time.Minute)
	m := w.join("web")
	fleet, err := m.pod.StartFleet()
	w.must(err)
	w.must(fleet.Add(m.proxy, m.vip(), nil))
	w.must(fleet.WaitUp(w.ctx, 1))
	w.must(w.connects(m.pod.Node, m.vip(), 0))
	before := w.proxies()[m.proxy.ID]
	pinned := w.pins("*")

	if err := w.lictor.Term(w.ctx); err != nil {
		t.Errorf("ended by SIGTERM it says: %v", err)
	}
	if _, err := os.Stat(w.lictor.Socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its socket is still there: %v", err)
	}
	if left := w.pins("*"); len(left) != len(pinned) {
		t.Errorf("pinned are %v, before it was stopped %v", left, pinned)
	}
	w.must(w.connects(m.pod.Node, m.vip(), 0))
	w.must(w.connects(w.host.Node, m.vip(), unix.EPERM))
	if s := fleet.State()[m.proxy.ID]; !s.Up || s.Streams != 1 {
		t.Errorf("the stream did not stay: %+v", s)
	}

	w.must(w.lictor.Start())
	w.must(w.lictor.WaitReady(w.ctx))
	after := w.proxies()[m.proxy.ID]
	if after.VIP != before.VIP || after.Active != 1 || after.Total != before.Total+1 {
		t.Errorf("after a restart %s has %d connections of %d, before %s had %d of %d, and one was made meanwhile",
			after.VIP, after.Active, after.Total, before.VIP, before.Active, before.Total)
	}
	if s := fleet.State()[m.proxy.ID]; !s.Up || s.Streams != 1 {
		t.Errorf("the stream did not stay: %+v", s)
	}
}

// A second daemon on what is another's ends with exit status 1 and a sentence
// that says what to do. The first goes on as if nothing had been.
func TestASecondDaemonIsRefused(t *testing.T) {
	w := newWorld(t, 1, time.Minute)
	m := w.join("web")
	pid := w.lictor.Process().PID()
	own := w.host.Dir + "/second"
	for _, c := range []struct {
		same  string
		args  []string
		wants []string // in what it says
	}{
		{"state directory", []string{"--bpffs=" + w.host.BPFFS + "/second"}, []string{w.lictor.State, "lictord"}},
		{"bpffs path", []string{"--state-dir=" + own, "--socket=" + own + ".sock", "--http-addr="}, []string{filepath.Join(w.host.BPFFS, "lictor"), "stop it"}},
		{"socket", []string{"--state-dir=" + own, "--bpffs=" + w.host.BPFFS + "/second"}, []string{w.lictor.Socket, "stop it"}},
		{"address", []string{
			"--state-dir=" + own, "--bpffs=" + w.host.BPFFS + "/third", "--socket=" + own + ".sock",
		}, []string{bed.LictorHTTP, "address already in use"}},
	} {
		second, err := w.host.StartLictor(bed.LictorOptions{Cluster: w.cluster, Args: c.args})
		w.must(err)
		err = second.Process().Wait(w.ctx)
		said := second.Process().Tail(2000)
		t.Logf("the same %s: %s", c.same, said)
		if status := exitStatus(err); status != 1 {
			t.Errorf("the same %s: exit status %d, want 1", c.same, status)
		}
		for _, want := range c.wants {
			if !strings.Contains(said, want) {
				t.Errorf("the same %s: it does not say %q:\n%s", c.same, want, said)
			}
		}
		w.must(w.connects(m.pod.Node, m.vip(), 0))
		w.must(w.lictor.WaitReady(w.ctx))
	}
	if left, err := filepath.Glob(filepath.Join(w.host.BPFFS, "*", "link_*")); err != nil || len(left) != len(w.pins("link_*")) {
		t.Errorf("a daemon that was refused has attached programs: %v, %v", left, err)
	}
	if !w.lictor.Process().Alive() || w.lictor.Process().PID() != pid {
		t.Error("the first daemon has ended")
	}
	if again := w.register(m.pod.Node, m.proxy); again.VIP != m.VIP {
		t.Errorf("the proxy has %s now, it was promised %s", again.VIP, m.VIP)
	}
}

// unload refuses while lictord runs; then it takes everything out of the
// kernel, once and again; and the next start brings every VIP back.
func TestUnload(t *testing.T) {
	w := newWorld(t, 1, time.Minute)
	m := w.join("web")
	pins := filepath.Join(w.host.BPFFS, "lictor")
	unload := func() (string, int) {
		stdout, err := w.lictor.CLI(w.ctx, w.host.Node, "unload", "--bpffs="+pins)
		if err != nil {
			return err.Error(), exitStatus(err)
		}
		return string(stdout), 0
	}
	if said, status := unload(); status != 1 || !strings.Contains(said, "stop it") {
		t.Errorf("while lictord runs: exit status %d: %s", status, said)
	}
	w.must(w.connects(m.pod.Node, m.vip(), 0))
	w.must(w.lictor.WaitReady(w.ctx))

	w.must(w.lictor.Term(w.ctx))
	for _, want := range []string{"unloaded", "nothing of Lictor's was"} { // the second time too is a success
		if said, status := unload(); status != 0 || !strings.Contains(said, want) {
			t.Errorf("exit status %d: %s", status, said)
		}
		if _, err := os.Stat(pins); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", pins, err)
		}
		w.must(w.connects(m.pod.Node, m.vip(), unix.ENETUNREACH))
	}

	w.must(w.lictor.Start())
	w.must(w.lictor.WaitReady(w.ctx))
	if again := w.register(m.pod.Node, m.proxy); again.VIP != m.VIP {
		t.Errorf("the proxy has %s now, it was promised %s", again.VIP, m.VIP)
	}
	w.must(w.connects(m.pod.Node, m.vip(), 0))
}
