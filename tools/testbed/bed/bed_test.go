package bed_test

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

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

func TestNothingIsLeftOfABedWhoseProcessWasKilled(t *testing.T) {
	testenv.Privileged(t)
	testenv.NoLeaks(t)
	victim := exec.Command(reexec.Path)
	victim.Args[0] = reexec.Argv0("victim")
	victim.Stderr = os.Stderr
	out, err := victim.StdoutPipe()
	check(t, err)
	check(t, victim.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	check(t, err)
	var id string
	var pid int
	_, err = fmt.Sscan(line, &id, &pid)
	check(t, err)
	if left := traces(t, id); len(left) < 5 {
		t.Fatalf("a living bed shows as %v, want namespaces, a cgroup, pins, files and a registration", left)
	}
	check(t, victim.Process.Kill())
	_ = victim.Wait()

	// At once: the processes, by the lifeline.
	for end := time.Now().Add(5 * time.Second); alive(pid); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a process outlived its bed by 5 s")
		}
	}
	// At the next start: everything.
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
