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
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

// foreign is somebody else's connect4 program with a fixed verdict.
func foreign(t *testing.T, verdict int32) *ebpf.Program {
	t.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "foreign", Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, verdict), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { prog.Close() })
	return prog
}

func programID(t *testing.T, p *ebpf.Program) ebpf.ProgramID {
	t.Helper()
	id, _ := must(p.Info()).ID()
	return id
}

// attached lists the connect4 programs of a cgroup.
func attached(t *testing.T, dir string) (ids []ebpf.ProgramID) {
	t.Helper()
	f := must(os.Open(dir))
	defer f.Close()
	res, err := link.QueryPrograms(link.QueryOptions{Target: int(f.Fd()), Attach: ebpf.AttachCGroupInet4Connect})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range res.Programs {
		ids = append(ids, p.ID)
	}
	return ids
}

func TestForeignProgramsAreLeftAlone(t *testing.T) {
	for _, before := range []bool{true, false} {
		t.Run(map[bool]string{true: "attached before ours", false: "attached after ours"}[before], func(t *testing.T) {
			r := newRigDetached(t, neverBounced)
			attach := func(p *ebpf.Program) link.Link {
				l, err := link.AttachCgroup(link.CgroupOptions{Path: r.cfg.Cgroup, Attach: ebpf.AttachCGroupInet4Connect, Program: p})
				if err != nil {
					t.Fatal(err)
				}
				return l
			}
			var theirs link.Link
			if before {
				theirs = attach(foreign(t, 1))
			}
			if err := r.k.Attach(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !before {
				theirs = attach(foreign(t, 1))
			}
			defer theirs.Close()
			s := r.serve(1, "127.0.0.1:0", echo)
			r.put(vip4, s.Backend)
			r.reach(vip4)
			if _, err := r.k.Verify(t.Context()); err != nil {
				t.Error(err)
			}
			// Replaced by one that denies: nothing is redirected, and it is said.
			denies := foreign(t, 0)
			if err := theirs.Update(denies); err != nil {
				t.Fatal(err)
			}
			r.wantErr(vip4, syscall.EPERM)
			if _, err := r.k.Verify(t.Context()); !errors.Is(err, ErrNotAttached) {
				t.Errorf("verified although nothing gets through: %v", err)
			}
			if before {
				r.wantCounters(1, Counters{Redirected: 1, Attempted: 1, Established: 1, Closed: 1})
				if n := r.reasons()[ReasonForeign]; n < 1 {
					t.Errorf("counted %d denied elsewhere", n)
				}
			}
			if err := errors.Join(r.k.Close(), Unload(r.cfg.BPFFS)); err != nil {
				t.Fatal(err)
			}
			if got, want := attached(t, r.cfg.Cgroup), programID(t, denies); !slices.Equal(got, []ebpf.ProgramID{want}) {
				t.Errorf("attached after unload: %v, want %v alone", got, want)
			}
			r.open()
		})
	}
}

// readdress has somebody else's program change the port after ours: that of an outer
// cgroup runs later.
func (r *rig) readdress(hook ebpf.AttachType, port uint16) {
	r.t.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "readdress", Type: ebpf.CGroupSockAddr, AttachType: hook, License: "GPL",
		Instructions: asm.Instructions{ // user_port of struct bpf_sock_addr
			asm.Mov.Imm(asm.R0, int32(swapPort(port))), asm.StoreMem(asm.R1, 24, asm.R0, asm.Word), asm.Mov.Imm(asm.R0, 1), asm.Return(),
		},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	defer prog.Close() // the link holds it
	l, err := link.AttachCgroup(link.CgroupOptions{Path: filepath.Dir(r.cfg.Cgroup), Attach: hook, Program: prog})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { l.Close() })
}

// Whoever sees another peer than his VIP is told of by the probe.
func TestPeerHiddenByAnotherProgram(t *testing.T) {
	r := newRig(t)
	r.readdress(ebpf.AttachCgroupInet4GetPeername, probePort+1)
	if _, err := r.k.Verify(t.Context()); !errors.Is(err, ErrNotAttached) || !strings.Contains(err.Error(), "getpeername") {
		t.Errorf("verified: %v", err)
	}
}

// A program of an outer cgroup runs after ours and has the last word.
func TestReaddressedByAnotherProgram(t *testing.T) {
	r := newRig(t, neverBounced)
	ours, theirs := r.serve(1, "127.0.0.1:0", echo), r.serve(2, "127.0.0.1:0", echo)
	r.put(vip4, ours.Backend)
	r.readdress(ebpf.AttachCGroupInet4Connect, theirs.Addr.Port())
	conn, err := r.dial(vip4)
	if err != nil {
		t.Fatal(err)
	}
	if got := readName(t, conn); got != theirs.Addr.String() || conn.RemoteAddr().String() != got {
		t.Errorf("reached %s, which the socket sees as %v", got, conn.RemoteAddr())
	}
	conn.Close()
	r.wantCounters(1, Counters{Redirected: 1})
	if n := r.reasons()[ReasonElsewhere]; n != 1 {
		t.Errorf("counted %d readdressed elsewhere, want 1", n)
	}
}

func TestAProgramThatTakesTheCgroupForItselfIsNamed(t *testing.T) {
	r := newRigDetached(t)
	theirs := foreign(t, 1)
	dir := must(os.Open(r.cfg.Cgroup))
	defer dir.Close()
	opts := link.RawAttachProgramOptions{Target: int(dir.Fd()), Program: theirs, Attach: ebpf.AttachCGroupInet4Connect}
	if err := link.RawAttachProgram(opts); err != nil { // flags 0
		t.Fatal(err)
	}
	err := r.k.Attach(t.Context())
	if !errors.Is(err, ErrForeign) || !errors.Is(err, syscall.EPERM) || !strings.Contains(err.Error(), `"foreign"`) {
		t.Errorf("attach: %v", err)
	}
	if got := attached(t, r.cfg.Cgroup); !slices.Equal(got, []ebpf.ProgramID{programID(t, theirs)}) {
		t.Errorf("attached %v", got)
	}
	if err := link.RawDetachProgram(link.RawDetachProgramOptions{Target: int(dir.Fd()), Program: theirs, Attach: ebpf.AttachCGroupInet4Connect}); err != nil {
		t.Fatal(err)
	}
	if err := r.k.Attach(t.Context()); err != nil { // completes what was begun
		t.Error(err)
	}
	if _, err := r.k.Verify(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAForeignPinIsLeftAlone(t *testing.T) {
	r := newRigDetached(t)
	l, err := link.AttachCgroup(link.CgroupOptions{Path: r.cfg.Cgroup, Attach: ebpf.AttachCGroupInet4Connect, Program: foreign(t, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	path := r.k.pins.linkPath("connect4")
	if err := l.Pin(path); err != nil {
		t.Fatal(err)
	}
	if err := r.k.Attach(t.Context()); !errors.Is(err, ErrForeign) {
		t.Errorf("attach: %v", err)
	}
	if err := r.k.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Unload(r.cfg.BPFFS); !errors.Is(err, ErrForeign) {
		t.Errorf("unload: %v", err)
	}
	// Nor is what a hook that is still in effect would need.
	for _, pin := range []string{path, r.k.pins.mapPath(lictorMapVips, thisVersion.layouts[lictorMapVips])} {
		if _, err := os.Stat(pin); err != nil {
			t.Error(err)
		}
	}
	if err := l.Unpin(); err != nil {
		t.Fatal(err)
	}
	r.open()
}

// A map in the place of ours is not used, and not removed: the programs in effect
// have the other one.
func TestAForeignMapIsLeftAlone(t *testing.T) {
	r := newRig(t, neverBounced)
	s := r.serve(1, "127.0.0.1:0", echo)
	r.put(vip4, s.Backend)
	path := r.k.pins.mapPath(lictorMapVips, thisVersion.layouts[lictorMapVips])
	theirs := must(ebpf.NewMap(must(loadLictor()).Maps[lictorMapVips])) // even of the same kind
	if err := errors.Join(os.Remove(path), theirs.Pin(path)); err != nil {
		t.Fatal(err)
	}
	if err := r.k.Attach(t.Context()); !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), path) {
		t.Errorf("attach: %v", err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
	if got := r.reach(vip4); got != s.Addr.String() {
		t.Errorf("the hook in effect reaches %s", got)
	}
	if err := errors.Join(theirs.Unpin(), theirs.Close(), r.k.Attach(t.Context())); err != nil {
		t.Error(err)
	}
}

func TestOneDaemonPerPath(t *testing.T) {
	r := newRig(t)
	if _, err := Open(t.Context(), r.cfg); !errors.Is(err, ErrLocked) {
		t.Errorf("second open: %v", err)
	}
	if err := Unload(r.cfg.BPFFS); !errors.Is(err, ErrLocked) {
		t.Errorf("unload: %v", err)
	}
	if _, err := r.k.Verify(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestUnload(t *testing.T) {
	r := newRig(t)
	held := must(link.LoadPinnedLink(r.k.pins.linkPath("connect4"), nil)) // by a tool that looks at it, say
	defer held.Close()
	if err := r.k.Close(); err != nil {
		t.Fatal(err)
	}
	stray := filepath.Join(r.cfg.BPFFS, "somebody_elses")
	if err := foreign(t, 1).Pin(stray); err != nil {
		t.Fatal(err)
	}
	if err := Unload(r.cfg.BPFFS); !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), "somebody_elses") {
		t.Errorf("unload: %v", err)
	}
	if got := attached(t, r.cfg.Cgroup); len(got) != 0 {
		t.Errorf("still attached: %v", got)
	}
	if err := os.Remove(stray); err != nil {
		t.Error(err)
	}
	for range 2 { // again is a success
		if err := Unload(r.cfg.BPFFS); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(r.cfg.BPFFS); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("directory: %v", err)
	}
	r.open()
}
