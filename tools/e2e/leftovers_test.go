package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Every test here ends with testenv.NoLeaks, which looks at this process and
// at what bears its name. This one looks at what the kernel itself holds:
// programs, links, maps, namespaces, cgroups and mounts, after daemons that were
// killed, a reboot, and streams that were up to the end.
func TestNothingIsLeftBehind(t *testing.T) {
	w := newWorld(t, 1, time.Minute)
	m := w.join("web")
	fleet, err := m.pod.StartFleet()
	w.must(err)
	w.must(fleet.Add(m.proxy, m.vip(), nil))
	w.must(fleet.WaitUp(w.ctx, 1))
	made := held(w)
	w.must(w.lictor.Start()) // after a kill
	w.must(w.lictor.WaitReady(w.ctx))
	made.add(held(w))
	w.must(w.host.Reboot())
	w.must(w.lictor.Start())
	w.must(w.lictor.WaitReady(w.ctx))
	made.add(held(w))
	w.must(w.lictor.Kill())
	if len(made.maps) < 10 || len(made.programs) < 14 || len(made.links) < 14 {
		t.Fatalf("only %d maps, %d programs and %d links were found, so that nothing is proved",
			len(made.maps), len(made.programs), len(made.links))
	}

	w.must(w.bed.Close())
	// The kernel frees programs and maps a moment after their last user.
	w.eventually(10*time.Second, made.left)
}

// holdings are objects of the kernel, by their ids.
type holdings struct {
	maps     map[ebpf.MapID]string
	programs map[ebpf.ProgramID]string
	links    map[link.ID]string
	paths    map[string]bool
}

func (h holdings) add(o holdings) {
	for id, name := range o.maps {
		h.maps[id] = name
	}
	for id, name := range o.programs {
		h.programs[id] = name
	}
	for id, name := range o.links {
		h.links[id] = name
	}
	for path := range o.paths {
		h.paths[path] = true
	}
}

// held is what is pinned on the host, and where its nodes are.
func held(w *world) holdings {
	w.Helper()
	h := holdings{map[ebpf.MapID]string{}, map[ebpf.ProgramID]string{}, map[link.ID]string{}, map[string]bool{}}
	for _, pin := range w.pins("*") {
		name := filepath.Base(pin)
		if !strings.HasPrefix(name, "link_") {
			m, err := ebpf.LoadPinnedMap(pin, nil)
			w.must(err)
			info, err := m.Info()
			w.must(errors.Join(err, m.Close()))
			id, _ := info.ID()
			h.maps[id] = name
			continue
		}
		l, err := link.LoadPinnedLink(pin, nil)
		w.must(err)
		info, err := l.Info()
		w.must(errors.Join(err, l.Close()))
		h.links[info.ID], h.programs[info.Program] = name, name
	}
	for _, n := range w.bed.Nodes() {
		h.paths[n.Cgroup], h.paths[n.Netns.Path], h.paths[n.Dir] = true, true, true
	}
	h.paths[w.host.BPFFS] = true
	return h
}

// left complains about what is there still.
func (h holdings) left() error {
	var errs []error
	is := func(what string, id any, name string, err error) {
		if err == nil {
			errs = append(errs, fmt.Errorf("%s %v (%s)", what, id, name))
		} else if !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	for id, name := range h.maps {
		m, err := ebpf.NewMapFromID(id)
		is("map", id, name, err)
		if err == nil {
			errs = append(errs, m.Close())
		}
	}
	for id, name := range h.programs {
		p, err := ebpf.NewProgramFromID(id)
		is("program", id, name, err)
		if err == nil {
			errs = append(errs, p.Close())
		}
	}
	for id, name := range h.links {
		l, err := link.NewFromID(id)
		is("link", id, name, err)
		if err == nil {
			errs = append(errs, l.Close())
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	errs = append(errs, err)
	for path := range h.paths {
		_, err := os.Lstat(path)
		is("path", path, "", err)
		if strings.Contains(string(mounts), " "+path+" ") {
			errs = append(errs, fmt.Errorf("mount %s", path))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("left behind: %w", err)
	}
	return nil
}

// A daemon that is killed while its probe runs leaves a cgroup; the next one
// takes it away.
func TestAKilledProbesCgroupIsRemoved(t *testing.T) {
	w := newWorld(t, 1, time.Minute)
	probes := func() []string {
		dirs, err := filepath.Glob(filepath.Join(w.host.Cgroup, "lictor-probe-*"))
		w.must(err)
		return dirs
	}
	var left []string
	for len(left) == 0 {
		// It is there for some milliseconds, every three seconds.
		for len(probes()) == 0 {
			w.must(w.ctx.Err())
			time.Sleep(time.Millisecond)
		}
		w.must(w.lictor.Kill())
		left = probes()
		w.must(w.lictor.Start())
	}
	w.must(w.lictor.WaitReady(w.ctx))
	// The next probe removes it, once the killed daemon's own has ended.
	w.eventually(20*time.Second, func() error {
		for _, dir := range left {
			if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%s is there still", dir)
			}
		}
		return nil
	})
}
