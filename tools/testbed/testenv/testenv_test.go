package testenv_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

func TestNetnsHasOnlyALoopbackThatIsUp(t *testing.T) {
	testenv.Privileged(t)
	testenv.NoLeaks(t)
	ns := testenv.Netns(t)
	err := ns.Do(func() error {
		links, err := net.Interfaces()
		if err != nil {
			return err
		}
		if len(links) != 1 || links[0].Name != "lo" || links[0].Flags&net.FlagUp == 0 {
			t.Errorf("interfaces = %v, want lo, up", links)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	inside, err := ns.Cookie()
	if err != nil {
		t.Fatal(err)
	}
	other, err := testenv.Netns(t).Cookie()
	if err != nil {
		t.Fatal(err)
	}
	if inside == 0 || inside == other {
		t.Errorf("cookies = %d and %d, want two different ones", inside, other)
	}
}

func TestCgroupIsRemovedWithWhatRunsInIt(t *testing.T) {
	testenv.Privileged(t)
	testenv.NoLeaks(t)
	var dir string
	t.Run("in use", func(t *testing.T) {
		dir = testenv.Cgroup(t)
		cmd := exec.Command("sleep", "60")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if err := testenv.Join(dir, cmd.Process.Pid); err != nil {
			t.Fatal(err)
		}
		go func() { _ = cmd.Wait() }() // reaps it once the sandbox has killed it
	})
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("cgroup %s is still there: %v", dir, err)
	}
}

// recorder is a test that notes its errors instead of failing.
type recorder struct {
	testing.TB
	errors []string
}

func (r *recorder) Errorf(format string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}

func TestLeftPinFailsTheTestAndIsRemoved(t *testing.T) {
	testenv.Privileged(t)
	testenv.NoLeaks(t)
	var rec *recorder
	var pin string
	t.Run("leaves a pin", func(t *testing.T) {
		rec = &recorder{TB: t}
		pin = filepath.Join(testenv.BPFFS(rec), "map")
		m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if err := m.Pin(pin); err != nil {
			t.Fatal(err)
		}
	})
	if len(rec.errors) != 1 {
		t.Errorf("errors = %q, want one about the pin", rec.errors)
	}
	if _, err := os.Stat(pin); !os.IsNotExist(err) {
		t.Errorf("pin is still there: %v", err)
	}
}
