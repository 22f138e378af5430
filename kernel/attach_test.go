package kernel

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/lictor-mesh/lictor/kernel/cgroup"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// What follows up a redirect is in effect before anything is redirected: where a
// hook cannot be attached, those that need it are not.
func TestHooksAreAttachedInOrder(t *testing.T) {
	r := newRigDetached(t)
	stray := foreign(t, 1)
	for _, c := range []struct {
		blocked   string
		have, not []string
	}{
		{"sockops", nil, []string{"getpeername4", "getpeername6", "sendmsg4", "connect4", "connect6"}},
		{"getpeername6", []string{"sockops"}, []string{"connect4", "connect6"}},
		{"connect4", []string{"sockops", "getpeername4", "getpeername6", "sendmsg4", "sendmsg6"}, nil},
	} {
		pin := r.k.pins.linkPath(c.blocked)
		if err := stray.Pin(pin); err != nil {
			t.Fatal(err)
		}
		if err := r.k.Attach(t.Context()); !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), pin) {
			t.Errorf("attach beside a foreign %s: %v", c.blocked, err)
		}
		have := must(r.k.pins.scan()).links
		for _, name := range c.have {
			if !slices.Contains(have, linkPrefix+name) {
				t.Errorf("%s is not attached before %s: %v", name, c.blocked, have)
			}
		}
		for _, name := range c.not {
			if slices.Contains(have, linkPrefix+name) {
				t.Errorf("%s is attached without %s", name, c.blocked)
			}
		}
		if err := stray.Unpin(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRepair(t *testing.T) {
	r := newRig(t, neverBounced)
	s := r.serve(1, "127.0.0.1:0", echo)
	r.put(vip4, s.Backend)
	for name, harm := range map[string]func(){
		"a link's pin is removed":      func() { must(0, os.Remove(r.k.pins.linkPath("connect4"))) },
		"the state hook is removed":    func() { must(0, os.Remove(r.k.pins.linkPath("sockops"))) },
		"another program in its place": func() { swapProgram(t, r, lictorVarWaitMaxMs, uint32(1), "connect4") },
	} {
		t.Run(name, func(t *testing.T) {
			harm()
			if _, err := r.k.Verify(t.Context()); !errors.Is(err, ErrNotAttached) || errors.Is(err, ErrPinGone) != strings.Contains(name, "removed") {
				t.Errorf("verify: %v", err)
			} else {
				t.Log(err)
			}
			if err := r.k.Attach(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := r.k.Verify(t.Context()); err != nil {
				t.Error(err)
			}
			r.reach(vip4)
		})
	}
	t.Run("a map's pin is removed", func(t *testing.T) {
		path := r.k.pins.mapPath(lictorMapVips, thisVersion.layouts[lictorMapVips])
		must(0, os.Remove(path))
		if err := r.k.Attach(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := r.k.Close(); err != nil {
			t.Fatal(err)
		}
		r.open()
		if got := must(r.k.VIPs()); len(got) != 1 {
			t.Errorf("VIPs %v after the pin was put back", got)
		}
	})
}

// swapProgram makes links lead to programs of ours that the daemon did not load, as
// an older daemon's would be, with another constant.
func swapProgram(t *testing.T, r *rig, constant string, value any, names ...string) {
	t.Helper()
	spec := must(r.k.spec())
	if err := spec.Variables[constant].Set(value); err != nil {
		t.Fatal(err)
	}
	var objs lictorObjects
	if err := spec.LoadAndAssign(&objs, &ebpf.CollectionOptions{MapReplacements: r.k.maps()}); err != nil {
		t.Fatal(err)
	}
	defer objs.Close()
	for _, h := range hooks {
		if !slices.Contains(names, h.name) {
			continue
		}
		l := must(link.LoadPinnedLink(r.k.pins.linkPath(h.name), nil))
		if err := errors.Join(l.Update(h.prog(&objs.lictorPrograms)), l.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheHookMovesWithTheCgroup(t *testing.T) {
	r := newRig(t, neverBounced)
	s := r.serve(1, "127.0.0.1:0", echo)
	r.put(vip4, s.Backend)
	r.reach(vip4)
	former := r.cfg.Cgroup
	if err := r.k.Close(); err != nil {
		t.Fatal(err)
	}
	r.cfg.Cgroup = testenv.Cgroup(t)
	r.open()
	if _, err := r.k.Verify(t.Context()); !errors.Is(err, ErrNotAttached) {
		t.Errorf("attached to another cgroup, and verified: %v", err)
	}
	if err := r.k.Attach(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a, err := r.k.Verify(t.Context()); err != nil || a.CgroupID != must(cgroup.ID(r.cfg.Cgroup)) {
		t.Errorf("attachment %+v, %v", a, err)
	}
	r.wantErr(vip4, syscall.ENETUNREACH) // we are still in the former one
	join(t, r.cfg.Cgroup)
	r.reach(vip4)

	// Removed and made again: the same path, another cgroup.
	join(t, former)
	if err := os.Remove(r.cfg.Cgroup); err != nil {
		t.Fatal(err)
	}
	if _, err := r.k.Verify(t.Context()); !errors.Is(err, ErrNotAttached) {
		t.Errorf("verified without a cgroup: %v", err)
	}
	if err := os.Mkdir(r.cfg.Cgroup, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := r.k.Verify(t.Context()); !errors.Is(err, ErrNotAttached) {
		t.Errorf("verified on a dead cgroup: %v", err)
	}
	if err := r.k.Attach(t.Context()); err != nil {
		t.Fatal(err)
	}
	join(t, r.cfg.Cgroup)
	r.reach(vip4)
}

// A crash between the two steps in which a link is replaced leaves one that is in
// effect and in the way.
func TestALinkLeftByACrash(t *testing.T) {
	r := newRig(t)
	former := r.cfg.Cgroup
	left, err := link.AttachCgroup(link.CgroupOptions{Path: former, Attach: ebpf.AttachCGroupInet4Connect, Program: r.k.objs.LictorConnect4})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(left.Pin(r.k.pins.linkPath("connect4")+newSuffix), left.Close(), r.k.Close()); err != nil {
		t.Fatal(err)
	}
	r.cfg.Cgroup = testenv.Cgroup(t)
	r.open()
	r.attach()
	if got := attached(t, r.cfg.Cgroup); len(got) != 1 {
		t.Errorf("attached %v, want one program", got)
	}
	eventually(t, "the former cgroup to have none", func() bool { return len(attached(t, former)) == 0 })
	if _, err := r.k.Verify(t.Context()); err != nil {
		t.Error(err)
	}
}

// In a cgroup and one below it both hooks run for one connect.
func TestNestedHooksRedirectOnce(t *testing.T) {
	r := newRig(t, neverBounced)
	s := r.serve(1, "127.0.0.1:0", echo)
	r.put(vip4, s.Backend)
	inner := filepath.Join(r.cfg.Cgroup, "inner")
	if err := os.Mkdir(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, h := range hooks {
		l, err := link.AttachCgroup(link.CgroupOptions{Path: inner, Attach: h.attach, Program: h.prog(&r.k.objs.lictorPrograms)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
	}
	join(t, inner)
	defer join(t, r.cfg.Cgroup)
	r.reach(vip4)
	r.wantCounters(1, Counters{Redirected: 1, Attempted: 1, Established: 1, Closed: 1})
}
