package netns_test

import (
	"errors"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/kernel/netns"
	"github.com/lictor-mesh/lictor/tools/testbed/sandbox"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

func TestVisit(t *testing.T) {
	testenv.Privileged(t)
	testenv.NoLeaks(t)
	run := testenv.Run(t)
	mounted, err := run.Netns("mounted")
	if err != nil {
		t.Fatal(err)
	}
	// One that only a process keeps, as a container's may be.
	kept, err := run.Netns("kept")
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command("sleep", "60")
	if err := kept.Do(child.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = child.Process.Kill()
		_ = child.Wait()
	})
	cookie := func(ns *sandbox.Netns) uint64 {
		c, err := ns.Cookie()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	inMounted, inKept := cookie(mounted), cookie(kept)
	if err := unix.Unmount(kept.Path, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	self, err := netns.Self()
	if err != nil {
		t.Fatal(err)
	}
	const none = 1 << 60
	for name, pids := range map[string][]int{
		"no process known":  nil,
		"the right process": {child.Process.Pid},
		"the wrong process": {os.Getpid(), 1 << 30},
	} {
		t.Run(name, func(t *testing.T) {
			in := map[uint64]int{}
			left := netns.Visit([]netns.Wanted{
				{Cookie: inMounted}, {Cookie: inKept, PIDs: pids}, {Cookie: self.Cookie}, {Cookie: none},
			}, func(cookie uint64) {
				in[cookie]++
				if here, err := netns.Self(); err != nil || here.Cookie != cookie {
					t.Errorf("in %+v, %v, told %d", here, err, cookie)
				}
			})
			if in[inMounted] != 1 || in[inKept] != 1 || in[self.Cookie] != 1 || len(in) != 3 {
				t.Errorf("visited %v, want %d, %d and %d once each", in, inMounted, inKept, self.Cookie)
			}
			if !errors.Is(left[none], netns.ErrNotFound) || len(left) != 1 {
				t.Errorf("not visited: %v, want %d alone", left, uint64(none))
			}
		})
	}
	if now, err := netns.Self(); err != nil || now != self {
		t.Errorf("left in %+v, %v", now, err)
	}
}
