package e2e

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/tools/powercut/disk"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// sickDisk is a world whose lictord keeps its state on a disk that will fail.
type sickDisk struct {
	*world
	dir  string // where the disk is
	old  member // registered while it was well
	pod  *bed.Pod
	told map[string]string // id to VIP: what was promised
}

// newSickDisk makes a world on what is mounted at dir, which must outlast it.
func newSickDisk(t *testing.T, dir string) *sickDisk {
	t.Helper()
	w := newWorld(t, 3, 2*time.Minute, "--state-dir="+filepath.Join(dir, "lictor"))
	s := &sickDisk{world: w, dir: dir, told: map[string]string{}}
	s.old = w.join("old")
	s.told[s.old.ProxyID] = s.old.VIP
	var err error
	s.pod, err = w.host.NewPod("new")
	w.must(err)
	return s
}

func newDisk(t *testing.T, o disk.Options) *disk.Disk {
	t.Helper()
	testenv.Privileged(t)
	d, err := disk.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// try registers a proxy and notes the promise, if it is one.
func (s *sickDisk) try(ctx context.Context, id string) error {
	client := s.lictor.Client()
	defer client.Close()
	r, err := client.Register(ctx, id, v1.RegisterRequest{Netns: s.pod.Netns.Path})
	if err == nil {
		s.told[id] = r.VIP
	}
	return err
}

// refuses lets proxies register until the disk takes no more, and checks that
// whatever would be a promise is refused then, and nothing changed.
func (s *sickDisk) refuses() {
	s.Helper()
	client := s.lictor.Client()
	defer client.Close()
	var err error
	n := 0
	for ; err == nil; n++ { // some may still fit in
		err = s.try(s.ctx, fmt.Sprintf("new-%d", n))
	}
	s.Logf("registration %d: %v", n, err)
	if p := unavailable(s, "register", err); !strings.Contains(p, "nothing was changed") && !strings.Contains(p, "nothing is in force") {
		s.Errorf("it is answered %q", p)
	}
	unavailable(s, "deregister", client.Deregister(s.ctx, s.old.ProxyID))
	unavailable(s, "drain", client.Drain(s.ctx, s.old.Server.ID))
	unavailable(s, "register once more", s.try(s.ctx, "late"))
	s.agrees()
}

func unavailable(s *sickDisk, what string, err error) (detail string) {
	s.Helper()
	var p *v1.ProblemError
	if !errors.As(err, &p) || p.Status != 503 {
		s.Fatalf("%s: %v, not a 503", what, err)
	}
	return p.Detail
}

// agrees compares what is registered with what was promised.
func (s *sickDisk) agrees() {
	s.Helper()
	client := s.lictor.Client()
	defer client.Close()
	proxies, err := client.Proxies(s.ctx)
	s.must(err)
	for _, p := range proxies {
		if vip, promised := s.told[p.ProxyID]; !promised || vip != p.VIP {
			s.Errorf("%s has %s, promised was %q", p.ProxyID, p.VIP, vip)
		}
	}
	if len(proxies) != len(s.told) {
		s.Errorf("%d proxies are registered, %d were promised", len(proxies), len(s.told))
	}
}

// status waits until lictord says that it is ready or not, with a sentence that
// has these words.
func (s *sickDisk) status(ready bool, words ...string) (st v1.Status) {
	s.Helper()
	client := s.lictor.Client()
	defer client.Close()
	s.eventually(5*time.Second, func() error {
		var err error
		if st, err = client.Status(s.ctx); err != nil {
			return err
		}
		all := strings.Join(st.Problems, "\n")
		for _, word := range words {
			if !strings.Contains(all, word) {
				return fmt.Errorf("status does not say %q: %q", word, all)
			}
		}
		if len(words) == 0 && all != "" {
			return fmt.Errorf("status says %q", all)
		}
		return expect("ready", st.Ready, ready)
	})
	if len(st.Problems) > 0 {
		s.Logf("status says: %s", st.Problems)
	}
	return st
}

// goesOn kills the server that the old proxy uses: its connects reach another
// one at once, and lictord places it there, whatever the disk does.
func (s *sickDisk) goesOn() {
	s.Helper()
	client := s.lictor.Client()
	defer client.Close()
	p, err := client.Proxy(s.ctx, s.old.ProxyID)
	s.must(err)
	first := p.Servers[0]
	for _, server := range s.cluster.Servers() {
		if server.Addr() == first.Address {
			s.must(server.Kill())
		}
	}
	s.eventually(2*time.Second, func() error {
		c, err := s.old.pod.Connect(s.ctx, bed.Connect{To: s.old.vip()})
		if err == nil && c.Errno != 0 {
			err = c.Errno
		}
		return err
	})
	s.eventually(15*time.Second, func() error {
		p, err := client.Proxy(s.ctx, s.old.ProxyID)
		if err == nil && len(p.Servers) > 0 && p.Servers[0].ID == first.ID {
			err = fmt.Errorf("it is still placed on %s, which was killed", first.ID)
		}
		return err
	})
}

// restarts kills lictord, lets something be done with the disk, and starts it.
func (s *sickDisk) restarts(between func()) {
	s.Helper()
	s.must(s.lictor.Kill())
	if between != nil {
		between()
	}
	s.must(s.lictor.Start())
	s.must(s.lictor.WaitReady(s.ctx))
	s.agrees()
}

func (s *sickDisk) logged(words string) {
	s.Helper()
	s.eventually(3*time.Second, func() error {
		return expect("how often the log says "+words, strings.Count(s.lictor.Process().Tail(1<<20), words), 1)
	})
}

// A full disk refuses promises and nothing else, and is well by itself when it
// has room again.
func TestFullDisk(t *testing.T) {
	for name, where := range map[string]func(*testing.T) string{
		"ext4":  func(t *testing.T) string { return newDisk(t, disk.Options{}).Path },
		"tmpfs": func(t *testing.T) string { return mounted(t, "tmpfs", "size=2m") },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSickDisk(t, where(t))
			s.must(disk.Fill(s.dir))
			s.refuses()
			s.logged("journal not writable")
			s.status(false, "is full", "goes on by itself")
			s.goesOn()
			s.must(disk.Empty(s.dir))
			s.eventually(5*time.Second, func() error {
				_, err := s.lictor.Get(s.ctx, "/readyz")
				return err
			})
			s.logged("journal writable again")
			s.must(s.try(s.ctx, "late"))
			s.restarts(nil)
		})
	}
}

// A file system that its own errors made read-only: lictord says so, does not
// come up on it, and does when it is writable.
func TestReadOnlyDisk(t *testing.T) {
	d := newDisk(t, disk.Options{Mount: "errors=remount-ro"})
	s := newSickDisk(t, d.Path)
	s.must(d.Fail())
	s.refuses()
	s.status(false, "has become read-only", "restart lictord")
	s.goesOn()
	s.restarts(func() {
		s.must(s.lictor.Start())
		var failed error
		select {
		case <-s.lictor.Process().Done():
			failed = s.lictor.Process().Wait(s.ctx)
		case <-s.ctx.Done():
		}
		if text := s.lictor.Process().Tail(1000); failed == nil || !strings.Contains(text, "mount it writable") {
			t.Errorf("lictord on a read-only disk: %v: %s", failed, text)
		}
		s.must(errors.Join(d.Unmount(), d.Mount()))
	})
	s.must(s.try(s.ctx, "late"))
}

// A sync that failed is not tried again: lictord says that it has to be
// restarted, and reads then what is there. What it answers then is on the disk,
// though the page cache may hold more.
func TestFailedSync(t *testing.T) {
	for name, whole := range map[string]bool{
		"the file system goes on": true,
		"it ends as well":         false, // its own log met the error, too
	} {
		t.Run(name, func(t *testing.T) {
			d := newDisk(t, disk.Options{Thin: 24 << 20, Size: 64 << 20, NoLog: whole})
			s := newSickDisk(t, d.Path)
			s.must(d.Exhaust())
			s.refuses()
			s.must(d.Relieve())
			s.status(false, "restart lictord")
			unavailable(s, "register on a disk that is well again", s.try(s.ctx, "late"))
			s.goesOn()
			remount := func() { s.must(errors.Join(d.Unmount(), d.Mount())) }
			if whole {
				s.restarts(nil)
			} else {
				s.restarts(remount)
			}
			s.must(s.try(s.ctx, "late"))
			s.restarts(func() { s.must(d.Cut()); remount() })
		})
	}
}

// A disk that hangs for a while holds up promises, and nothing else; they are
// kept when it goes on.
func TestHangingDisk(t *testing.T) {
	d := newDisk(t, disk.Options{})
	s := newSickDisk(t, d.Path)
	s.must(d.Freeze())
	done := make(chan error, 1)
	go func() { done <- s.try(s.ctx, "late") }()
	s.status(true, "is slow")
	s.logged("disk is slow")
	s.goesOn()
	select {
	case err := <-done:
		t.Errorf("it was answered: %v", err)
	default:
	}
	s.must(d.Thaw())
	s.must(<-done)
	s.restarts(nil)
}

// What does not outlast a reboot, or a container, works, and is said.
func TestStateThatDoesNotLast(t *testing.T) {
	for name, where := range map[string]func(*testing.T) string{
		"in memory": func(t *testing.T) string { return mounted(t, "tmpfs", "size=16m") },
		"in a container's own layer": func(t *testing.T) string {
			dir := mounted(t, "tmpfs", "size=16m")
			lower, upper, work := filepath.Join(dir, "lower"), filepath.Join(dir, "upper"), filepath.Join(dir, "work")
			for _, d := range []string{lower, upper, work} {
				if err := unix.Mkdir(d, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			return mounted(t, "overlay", fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, work))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSickDisk(t, where(t))
			s.status(true, name, "--state-dir")
			s.logged("state does not last")
			s.must(s.try(s.ctx, "new"))
			s.restarts(nil)
		})
	}
}

// mounted mounts a file system for the test.
func mounted(t *testing.T, kind, options string) string {
	t.Helper()
	testenv.Privileged(t)
	dir := t.TempDir()
	if err := unix.Mount(kind, dir, kind, 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}
