package owners

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/kernel/cgroup"
	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/tools/testbed/sandbox"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

var here = Resolver{BootID: "boot"}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func newNetns(t *testing.T, name string) *sandbox.Netns {
	t.Helper()
	ns, err := testenv.Run(t).Netns(name)
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

func removeNetns(t *testing.T, ns *sandbox.Netns) {
	t.Helper()
	if err := testenv.Run(t).RemoveNetns(ns); err != nil {
		t.Fatal(err)
	}
}

func cookie(t *testing.T, ns *sandbox.Netns) uint64 {
	t.Helper()
	c, err := ns.Cookie()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestWhoMayBeAskedFor(t *testing.T) {
	testenv.Privileged(t)
	ns, dir := newNetns(t, "pod"), testenv.Cgroup(t)
	root := testenv.CgroupRoot(t)
	cg, err := cgroup.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	caller := Caller{UID: 1000, NetnsCookie: 7, NetnsInode: 8}
	byRoot := Caller{NetnsCookie: 7, NetnsInode: 8}
	missing := filepath.Join(t.TempDir(), "missing")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		caller Caller
		req    v1.RegisterRequest
		want   state.Owner
		err    error
	}{
		"the caller":            {caller: caller, want: state.Owner{Kind: state.OwnerNetns, ID: 7, Inode: 8, BootID: "boot"}},
		"a caller without name": {caller: Caller{}, err: ErrInvalid}, // Linux before 5.14
		"anybody, by root":      {caller: byRoot, req: v1.RegisterRequest{Owner: "any"}, want: state.Owner{Kind: state.OwnerAny}},
		"anybody, by a user":    {caller: caller, req: v1.RegisterRequest{Owner: "any"}, err: ErrRootOnly},
		"another word":          {caller: byRoot, req: v1.RegisterRequest{Owner: "all"}, err: ErrInvalid},
		"a namespace": {
			caller: byRoot, req: v1.RegisterRequest{Netns: ns.Path},
			want: state.Owner{Kind: state.OwnerNetns, Path: ns.Path, ID: cookie(t, ns), Inode: inode(t, ns.Path), BootID: "boot"},
		},
		"a namespace, by a user": {caller: caller, req: v1.RegisterRequest{Netns: ns.Path}, err: ErrRootOnly},
		"a cgroup": {
			caller: byRoot, req: v1.RegisterRequest{Cgroup: dir},
			want: state.Owner{Kind: state.OwnerCgroup, Path: dir, ID: cg.ID, Level: cg.Level, BootID: "boot"},
		},
		"the root of all cgroups":   {caller: byRoot, req: v1.RegisterRequest{Cgroup: root}, err: ErrInvalid},
		"a namespace not there":     {caller: byRoot, req: v1.RegisterRequest{Netns: missing}, err: fs.ErrNotExist},
		"a cgroup not there":        {caller: byRoot, req: v1.RegisterRequest{Cgroup: missing}, err: fs.ErrNotExist},
		"a file for a namespace":    {caller: byRoot, req: v1.RegisterRequest{Netns: file}, err: ErrInvalid},
		"a directory for a cgroup":  {caller: byRoot, req: v1.RegisterRequest{Cgroup: t.TempDir()}, err: ErrInvalid},
		"a relative path":           {caller: byRoot, req: v1.RegisterRequest{Netns: "run/netns/pod"}, err: ErrInvalid},
		"a namespace and a cgroup":  {caller: byRoot, req: v1.RegisterRequest{Netns: ns.Path, Cgroup: dir}, err: ErrInvalid},
		"two owners of an outsider": {caller: caller, req: v1.RegisterRequest{Netns: ns.Path, Owner: "any"}, err: ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := here.Requested(tc.caller, tc.req)
			if !errors.Is(err, tc.err) {
				t.Fatalf("error %v, want %v", err, tc.err)
			}
			if err == nil && got != tc.want {
				t.Errorf("owner %+v, want %+v", got, tc.want)
			}
		})
	}
}

// A namespace is gone when nothing keeps it: by its path when it has one, and
// by what the host shows of it otherwise.
func TestGone(t *testing.T) {
	testenv.Privileged(t)
	ns, stays := newNetns(t, "pod"), newNetns(t, "stays")
	byPath := state.Owner{Kind: state.OwnerNetns, Path: ns.Path, ID: cookie(t, ns), Inode: inode(t, ns.Path), BootID: "boot"}
	byCookie, other := byPath, byPath
	byCookie.Path = ""
	other.Path, other.ID, other.Inode = "", cookie(t, stays), inode(t, stays.Path)
	reused := other
	reused.ID = byPath.ID // an inode that another namespace has by now
	anybody := state.Owner{Kind: state.OwnerAny}
	before := byCookie
	before.BootID = "the boot before"

	check := func(o state.Owner, want bool, what string) {
		t.Helper()
		if got := here.Gone(o); got != want {
			t.Errorf("%s: gone = %v", what, got)
		}
	}
	check(byPath, false, "a namespace with a path")
	check(byCookie, false, "a namespace without one")
	check(anybody, false, "anybody")
	check(reused, true, "a namespace whose inode another has")
	check(before, true, "a namespace of another boot")
	if gone, err := here.gone([]state.Owner{byCookie, before}); err != nil || gone[0] || !gone[1] {
		t.Errorf("a namespace, and one of another boot with its numbers: gone = %v, %v", gone, err)
	}
	unknown := byPath
	unknown.Path = "/proc/self/status"
	check(unknown, false, "a path at which nobody can tell")
	removeNetns(t, ns)
	check(byPath, true, "a removed namespace with a path")
	check(byCookie, true, "a removed namespace without one")
	check(other, false, "the namespace that stays")
}

// A namespace that is made anew at its path is followed: at once as a rule,
// and when it got the inode of the one before, by the thorough look.
func TestANamespaceMadeAnewIsFollowed(t *testing.T) {
	testenv.Privileged(t)
	ns := newNetns(t, "pod")
	owner, err := here.Resolve(state.Owner{Kind: state.OwnerNetns, Path: ns.Path})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{s: state.Fold(state.New(), state.Event{Body: state.ProxyRegistered{
		Proxy: state.Registration{ID: "a", Index: 1, Owner: owner},
	}})}
	watcher := NewWatcher(w, here, slog.New(slog.DiscardHandler))
	now := func() state.Owner { return w.s.Proxies["a"].Owner }

	removeNetns(t, ns)
	watcher.resolve(t.Context(), w.proxies(), true)
	if now() != owner {
		t.Errorf("owner = %+v while its namespace is gone, want it kept", now())
	}
	ns = newNetns(t, "pod")
	followed := func(thorough bool) {
		t.Helper()
		watcher.resolve(t.Context(), w.proxies(), thorough)
		if now().ID != cookie(t, ns) || now().Inode != inode(t, ns.Path) {
			t.Errorf("owner = %+v, want the namespace that is there: cookie %d", now(), cookie(t, ns))
		}
	}
	followed(inode(t, ns.Path) == owner.Inode)

	t.Log("an inode used again")
	stale := now()
	stale.ID = owner.ID
	w.s = state.Fold(w.s, state.Event{Body: state.ProxyChanged{ID: "a", Owner: &stale}})
	watcher.resolve(t.Context(), w.proxies(), false)
	if now() != stale {
		t.Error("the cheap look entered a namespace")
	}
	followed(true)

	t.Log("another boot")
	stale = now()
	stale.BootID = "the boot before"
	w.s = state.Fold(w.s, state.Event{Body: state.ProxyChanged{ID: "a", Owner: &stale}})
	followed(false)
	if now().BootID != here.BootID {
		t.Errorf("boot id = %q", now().BootID)
	}
}
