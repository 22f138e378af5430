package netns_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/kernel/netns"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

func TestStat(t *testing.T) {
	testenv.Privileged(t)
	testenv.NoLeaks(t)
	ns := testenv.Netns(t)
	id, err := netns.Stat(ns.Path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := ns.Cookie()
	if err != nil {
		t.Fatal(err)
	}
	if id.Cookie != want || id.Inode == 0 {
		t.Errorf("%s has %+v, want cookie %d", ns.Path, id, want)
	}
	self, err := netns.Self()
	if err != nil {
		t.Fatal(err)
	}
	if byPath, err := netns.Stat("/proc/thread-self/ns/net"); err != nil || byPath != self || self == id {
		t.Errorf("own namespace is %+v, by its path %+v, %v", self, byPath, err)
	}
	var inside netns.ID
	if err := ns.Do(func() (err error) { inside, err = netns.Self(); return err }); err != nil || inside != id {
		t.Errorf("inside: %+v, %v, want %+v", inside, err, id)
	}
}

// No thread is left behind in a namespace that was looked at, not even the
// first one of the process, which the runtime never ends.
func TestStatComesBack(t *testing.T) {
	testenv.Privileged(t)
	testenv.NoLeaks(t)
	ns := testenv.Netns(t)
	id, err := netns.Stat(ns.Path)
	if err != nil {
		t.Fatal(err)
	}
	before := threadsIn(t, id) // the namespace's maker, perhaps
	for range 50 {
		if _, err := netns.Stat(ns.Path); err != nil {
			t.Fatal(err)
		}
	}
	for thread := range threadsIn(t, id) {
		if !before[thread] {
			t.Errorf("%s was left in the namespace", thread)
		}
	}
}

func threadsIn(t *testing.T, id netns.ID) map[string]bool {
	t.Helper()
	threads, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil || len(threads) == 0 {
		t.Fatal(threads, err)
	}
	in := map[string]bool{}
	for _, path := range threads {
		if link, _ := os.Readlink(path); link == fmt.Sprintf("net:[%d]", id.Inode) {
			in[path] = true
		}
	}
	return in
}

func TestStatRefusesWhatIsNoNamespace(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, "/proc/self/ns/mnt", "/"} {
		if _, err := netns.Stat(path); !errors.Is(err, netns.ErrNotNetns) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := netns.Stat("/nowhere"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestAlive(t *testing.T) {
	testenv.Privileged(t)
	run := testenv.Run(t)
	ns, err := run.Netns("alive")
	if err != nil {
		t.Fatal(err)
	}
	id, err := netns.Stat(ns.Path)
	if err != nil {
		t.Fatal(err)
	}
	self, err := netns.Self()
	if err != nil {
		t.Fatal(err)
	}
	reused := netns.ID{Cookie: id.Cookie + 1000, Inode: id.Inode} // a namespace of former times
	check := func(want map[netns.ID]bool) {
		t.Helper()
		got, err := netns.Alive([]netns.ID{self, id, reused})
		if err != nil {
			t.Fatal(err)
		}
		for id, want := range want {
			if got[id] != want {
				t.Errorf("%+v alive: %v, want %v", id, got[id], want)
			}
		}
	}
	check(map[netns.ID]bool{self: true, id: true, reused: false})

	// Kept by a thread alone, then by nobody.
	in, out := make(chan struct{}), make(chan struct{})
	done := make(chan error)
	go func() {
		done <- ns.Do(func() error { close(in); <-out; return nil })
	}()
	<-in
	if err := unix.Unmount(ns.Path, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	check(map[netns.ID]bool{self: true, id: true, reused: false})
	close(out)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := run.RemoveNetns(ns); err != nil {
		t.Error(err)
	}
	check(map[netns.ID]bool{self: true, id: false, reused: false})
}
