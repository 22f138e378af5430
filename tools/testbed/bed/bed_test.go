package bed_test

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
	"github.com/lictor-mesh/lictor/tools/testbed/reexec"
	"github.com/lictor-mesh/lictor/tools/testbed/sandbox"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

func netipAddrPort(h *bed.Host, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(h.Addr(), port)
}
func netipAddrPort6(h *bed.Host, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(h.Addr6(), port)
}

// init makes this binary a program that builds a bed and waits to be killed.
func init() {
	reexec.Handle("victim", func() error {
		b, err := bed.Open(bed.Options{})
		if err != nil {
			return err
		}
		h, err := b.NewHost("host-1")
		if err != nil {
			return err
		}
		p, err := h.NewPod("pod-1")
		if err != nil {
			return err
		}
		sleep, err := p.Start(bed.Command{Path: "sleep", Args: []string{"600"}})
		if err != nil {
			return err
		}
		fmt.Println(b.ID(), sleep.PID())
		time.Sleep(time.Hour)
		return nil
	})
}

// killed builds a bed in a process of its own and kills that, after its lifeline
// if so asked. It returns the run's id.
func killed(t *testing.T, lifelineToo bool) (id string) {
	t.Helper()
	victim := exec.Command(reexec.Path)
	victim.Args[0] = reexec.Argv0("victim")
	victim.Stderr = os.Stderr
	out, err := victim.StdoutPipe()
	check(t, err)
	check(t, victim.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	check(t, err)
	var sleep int
	_, err = fmt.Sscan(line, &id, &sleep)
	check(t, err)
	if left := traces(t, id); len(left) < 5 || !alive(sleep) {
		t.Fatalf("a living bed shows as %v, want namespaces, a cgroup, pins, files and a registration", left)
	}
	// Nobody can sweep while this is locked.
	registry, err := os.Open(filepath.Join(sandbox.Registry, ".lock"))
	check(t, err)
	defer registry.Close()
	check(t, unix.Flock(int(registry.Fd()), unix.LOCK_EX))
	if lifelineToo {
		for _, pid := range children(t, victim.Process.Pid) {
			if pid != sleep {
				check(t, unix.Kill(pid, unix.SIGKILL))
			}
		}
	}
	check(t, victim.Process.Kill())
	_ = victim.Wait()
	if lifelineToo {
		return id
	}
	for end := time.Now().Add(5 * time.Second); alive(sleep); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a process outlived its bed by 5 s, as nobody could sweep")
		}
	}
	return id
}

// children of all threads of a process.
func children(t *testing.T, pid int) (pids []int) {
	t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	check(t, err)
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			continue // the thread has ended
		}
		for field := range strings.FieldsSeq(string(text)) {
			child, err := strconv.Atoi(field)
			check(t, err)
			pids = append(pids, child)
		}
	}
	return pids
}

func TestNothingIsLeftOfABedWhoseProcessWasKilled(t *testing.T) {
	testenv.Privileged(t)
	testenv.NoLeaks(t)
	other := bed.ForTest(t)
	id := killed(t, false)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		left := traces(t, id)
		if len(left) == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("left behind: %v", left)
		}
	}
	if left := traces(t, other.ID()); len(left) == 0 {
		t.Error("the sweep took a living bed")
	}
}

// Also when its lifeline was killed, as by the end of a container: at the next start.
func TestTheNextBedSweeps(t *testing.T) {
	testenv.Privileged(t)
	testenv.NoLeaks(t)
	id := killed(t, true)
	b := bed.ForTest(t)
	if left := traces(t, id); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if left := traces(t, b.ID()); len(left) == 0 {
		t.Error("the sweep took a living bed")
	}
}

// traces lists what bears a run's name.
func traces(t *testing.T, id string) (left []string) {
	t.Helper()
	for _, pattern := range []string{
		sandbox.Registry + "/" + id + "/netns/*", "/sys/fs/bpf/lictor-" + id, sandbox.Registry + "/" + id,
		filepath.Join(testenv.CgroupRoot(t), "lictor-"+id), filepath.Join(os.TempDir(), "lictor-"+id),
	} {
		found, err := filepath.Glob(pattern)
		check(t, err)
		left = append(left, found...)
	}
	return left
}

// alive tells whether a process runs; a zombie does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}
