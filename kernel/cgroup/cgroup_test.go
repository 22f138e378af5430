package cgroup_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lictor-mesh/lictor/kernel/cgroup"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

func TestStat(t *testing.T) {
	testenv.Privileged(t)
	testenv.NoLeaks(t)
	root, err := cgroup.Root()
	if err != nil {
		t.Fatal(err)
	}
	if info, err := cgroup.Stat(root); err != nil || info != (cgroup.Info{ID: cgroup.HostRootID}) {
		t.Errorf("root: %+v, %v", info, err)
	}
	dir := testenv.Cgroup(t)
	outer, err := cgroup.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	rel, err := filepath.Rel(root, dir)
	if err != nil {
		t.Fatal(err)
	}
	if want := uint32(strings.Count(rel, "/") + 1); outer.Level != want || outer.ID <= cgroup.HostRootID {
		t.Errorf("%s: %+v", dir, outer)
	}
	child := filepath.Join(dir, "child")
	if err := os.Mkdir(child, 0o755); err != nil {
		t.Fatal(err)
	}
	inner, err := cgroup.Stat(child)
	if err != nil || inner.Level != outer.Level+1 || inner.ID == outer.ID {
		t.Errorf("child: %+v, %v; its parent %+v", inner, err, outer)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(child, link); err != nil {
		t.Fatal(err)
	}
	if got, err := cgroup.Stat(link); err != nil || got != inner {
		t.Errorf("by a symbolic link: %+v, %v", got, err)
	}
	if err := os.Remove(child); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(child, 0o755); err != nil {
		t.Fatal(err)
	}
	if again, err := cgroup.Stat(child); err != nil || again.ID == inner.ID {
		t.Errorf("made again: %+v, %v; it was %+v", again, err, inner)
	}
}

func TestStatRefusesWhatIsNoCgroup(t *testing.T) {
	if _, err := cgroup.Stat(t.TempDir()); !errors.Is(err, cgroup.ErrNotCgroup) {
		t.Error(err)
	}
	if _, err := cgroup.Stat("/nowhere"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
