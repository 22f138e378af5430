package testenv_test

import (
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/tools/testbed/sandbox"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// leave leaves one of everything behind, until free takes it away.
func leave(t *testing.T) (free func()) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.Open("/etc/passwd")
	must(err)
	child := exec.Command("sleep", "600")
	must(child.Start())
	home, err := os.Open("/proc/self/ns/net")
	must(err)
	end, moved := make(chan struct{}), make(chan error)
	go func() { // on a thread that comes home
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		moved <- unix.Unshare(unix.CLONE_NEWNET)
		<-end
		moved <- unix.Setns(int(home.Fd()), unix.CLONE_NEWNET)
	}()
	must(<-moved)
	run, err := sandbox.Open()
	must(err)
	_, err = run.Netns("left")
	must(err)
	for _, make := range []func(...string) (string, error){run.Cgroup, run.BPFFS, run.Dir} {
		_, err := make("left")
		must(err)
	}
	return func() {
		close(end)
		must(<-moved)
		must(home.Close())
		must(file.Close())
		must(child.Process.Kill())
		_ = child.Wait()
		must(run.Close())
	}
}

func TestNoLeaksSeesWhatIsLeft(t *testing.T) {
	testenv.Privileged(t)
	testenv.NoLeaks(t) // of this test itself
	testenv.Hurry(t)
	rec := &recorder{TB: t}
	var free func()
	t.Cleanup(func() { // after NoLeaks has looked
		free()
		said := strings.Join(rec.errors, "\n")
		for what, want := range map[string]string{
			"goroutine": "created by .*leave in goroutine", "descriptor": "descriptor of /etc/passwd", "process": `process \d+ sleep`,
			"thread": "thread in another network namespace", "namespace": "descriptor of .*/netns/left", "registration": sandbox.Registry + "/",
			"cgroup": cgroups(t) + "/lictor-", "pins": "/sys/fs/bpf/lictor-", "files": os.TempDir() + "/lictor-",
		} {
			if !regexp.MustCompile(want).MatchString(said) {
				t.Errorf("a left %s went unnoticed in:\n%s", what, said)
			}
		}
	})
	testenv.NoLeaks(rec)
	free = leave(t)
}

func cgroups(t *testing.T) string { return regexp.QuoteMeta(testenv.CgroupRoot(t)) }

// tests end with that status.
type tests func() (status int)

func (t tests) Run() int { return t() }

func TestATestMainSeesWhatIsLeft(t *testing.T) {
	testenv.Hurry(t)
	var left *os.File
	leak := func(status int) tests {
		return func() int {
			var err error
			if left, err = os.Open("/etc/passwd"); err != nil {
				t.Fatal(err)
			}
			return status
		}
	}
	for _, test := range []struct {
		name   string
		tests  tests
		status int
		says   string
	}{
		{"nothing", func() int { return 0 }, 0, ""},
		{"a descriptor", leak(0), 1, "FAIL: the tests have left behind: descriptor of /etc/passwd (1 more than before)\n"},
		{"a descriptor, by tests that failed anyhow", leak(2), 2, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			var said strings.Builder
			status := testenv.CheckedTo(test.tests, &said).Run()
			if status != test.status || said.String() != test.says {
				t.Errorf("status %d, %q; want %d, %q", status, said.String(), test.status, test.says)
			}
			left.Close() // nil is nothing to it
		})
	}
}
