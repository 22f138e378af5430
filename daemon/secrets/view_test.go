package secrets

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/daemon/process"
	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

const (
	boot   = "this-boot"
	nobody = 65534
	group  = 54321 // supplementary
)

// start runs a process until the test's end, and names it.
func start(t *testing.T, cmd *exec.Cmd, uid uint32) state.Process {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
	})
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", cmd.Process.Pid))
		if err == nil && string(name) == "sleep\n" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("it does not start: %q, %v", name, err)
		}
	}
	began, err := process.Start(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return state.Process{PID: cmd.Process.Pid, Start: began, BootID: boot, UID: uid, GID: uid}
}

// ofUser is a process of another user, in no namespace of its own.
func ofUser(t *testing.T) state.Process {
	t.Helper()
	cmd := exec.Command("sleep", "300")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody, Groups: []uint32{group}}}
	return start(t, cmd, nobody)
}

func view(t *testing.T, p state.Process) *View {
	t.Helper()
	v, err := OfProcess(p, boot)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.Close() })
	return v
}

// folder is one that everybody may enter.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "lictor-secrets-")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func write(t *testing.T, path, content string, mode os.FileMode, uid, gid int) {
	t.Helper()
	err := os.WriteFile(path, []byte(content), mode)
	if err == nil {
		err = errors.Join(os.Lchown(path, uid, gid), os.Chmod(path, mode))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A user cannot make the daemon read what only root may, by whatever path.
func TestAnotherUsersRights(t *testing.T) {
	testenv.Privileged(t)
	dir := folder(t)
	write(t, dir+"/own", "own", 0o600, nobody, nobody)
	write(t, dir+"/group", "group", 0o640, 0, nobody)
	write(t, dir+"/extra", "extra", 0o640, 0, group)
	write(t, dir+"/all", "all", 0o644, 0, 0)
	write(t, dir+"/root", "secret", 0o600, 0, 0)
	write(t, dir+"/roots-group", "secret", 0o640, 0, 0)
	closed := dir + "/closed"
	if err := errors.Join(os.Mkdir(closed, 0o700), os.Symlink(dir+"/root", dir+"/link"), os.Symlink("own", dir+"/fine"),
		os.Symlink(closed+"/a", dir+"/deep"), unix.Mkfifo(dir+"/pipe", 0o666)); err != nil {
		t.Fatal(err)
	}
	write(t, closed+"/a", "secret", 0o644, 0, 0)

	v := view(t, ofUser(t))
	for name, want := range map[string]string{"own": "own", "group": "group", "extra": "extra", "all": "all", "fine": "own"} {
		if got, err := v.Read(dir+"/"+name, 100); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for _, path := range []string{
		dir + "/root", dir + "/roots-group", dir + "/link", dir + "/deep", closed + "/a", "/etc/shadow",
		"/proc/self/environ", "/proc/1/environ", "/proc/self/maps", "/proc/self/fd/0", "/proc/self/root/etc/hostname",
		dir + "/pipe", "/dev/zero", dir, "relative", "/sys/kernel/notes", dir + "/absent",
	} {
		if got, err := v.Read(path, 1<<20); err == nil {
			t.Errorf("%s was read: %.20q", path, got)
		}
	}
	if _, err := v.Read(dir+"/all", 2); err == nil || !strings.Contains(err.Error(), "larger than 2 bytes") {
		t.Errorf("a large file: %v", err)
	}
	unchanged(t)
}

// Who registers and then becomes a program with more rights than the user has,
// under the same pid, does not lend them to the daemon.
func TestAProgramWithMoreRights(t *testing.T) {
	testenv.Privileged(t)
	dir := folder(t)
	write(t, dir+"/root", "secret", 0o600, 0, 0)
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	run := func(name string, mode os.FileMode, caps []byte) state.Process {
		program, err := os.ReadFile(sleep)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(dir+"/"+name, 0o755); err != nil {
			t.Fatal(err)
		}
		path := dir + "/" + name + "/sleep"
		write(t, path, string(program), mode, 0, 0)
		if caps != nil {
			if err := unix.Setxattr(path, "security.capability", caps, 0); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.Command(path, "300")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		return start(t, cmd, nobody)
	}
	t.Run("set-user-ID", func(t *testing.T) {
		v, err := OfProcess(run("suid", 0o755|os.ModeSetuid, nil), boot)
		if err == nil {
			_ = v.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "runs as uid 0 by now") {
			t.Errorf("a root process registered by another user: %v", err)
		}
	})
	t.Run("capabilities", func(t *testing.T) {
		// Of capabilities(7): version 2, in force at once, CAP_DAC_OVERRIDE permitted.
		caps := []byte{1, 0, 0, 2, 1 << unix.CAP_DAC_OVERRIDE, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
		p := run("caps", 0o755, caps)
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID))
		if err != nil || !strings.Contains(string(status), "CapEff:\t0000000000000002") {
			t.Fatalf("the process has no capability: %v\n%s", err, status)
		}
		if got, err := view(t, p).Read(dir+"/root", 100); err == nil {
			t.Errorf("root's file was read: %q", got)
		}
	})
}

// unchanged makes sure that no thread was left with other rights.
func unchanged(t *testing.T) {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil {
		t.Fatal(err)
	}
	want := ""
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended
		}
		rights := ""
		for line := range strings.Lines(string(text)) {
			for _, key := range []string{"Uid:", "Gid:", "Groups:", "CapEff:", "CapPrm:"} {
				if strings.HasPrefix(line, key) {
					rights += line
				}
			}
		}
		if want == "" {
			want = rights
		}
		if rights != want {
			t.Errorf("threads differ:\n%s\n%s", want, rights)
		}
	}
	if !strings.Contains(want, "Uid:\t0\t0\t0\t0") {
		t.Errorf("rights:\n%s", want)
	}
}

// Groups make a status long; half a number would be another group.
func TestManyGroups(t *testing.T) {
	testenv.Privileged(t)
	cmd := exec.Command("sleep", "300")
	groups := make([]uint32, 20000)
	for i := range groups {
		groups[i] = 1_000_000 + uint32(i)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody, Groups: groups}}
	if got := view(t, start(t, cmd, nobody)).Owner().Groups; !slices.Equal(got, groups) {
		t.Errorf("%d groups, the last is %d", len(got), got[len(got)-1])
	}
}

// A process in a mount namespace and root of its own: paths are what they are
// there, and absolute links do not lead out.
func TestAnotherRoot(t *testing.T) {
	testenv.Privileged(t)
	dir := folder(t)
	script := fmt.Sprintf(`set -e
		mount --make-rprivate /; mount --rbind / %[1]s; mount -t tmpfs none %[1]s/mnt
		echo inside >%[1]s/mnt/token; chown %[2]d %[1]s/mnt/token; chmod 600 %[1]s/mnt/token
		ln -s /mnt/token %[1]s/mnt/link; mkdir -m 777 %[1]s/mnt/open; mkdir -m 1777 %[1]s/mnt/tmp
		exec chroot --userspec=%[2]d:%[2]d %[1]s sleep 300`, dir, nobody)
	cmd := exec.Command("unshare", "--mount", "sh", "-c", script)
	cmd.Stderr = os.Stderr
	v := view(t, start(t, cmd, nobody))
	for _, path := range []string{"/mnt/token", "/mnt/link", "/../../mnt/token", "/mnt/open/../token"} {
		if got, err := v.Read(path, 100); err != nil || string(got) != "inside\n" {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	if _, err := os.Stat("/mnt/token"); err == nil {
		t.Error("/mnt/token is outside too")
	}

	d, err := v.Dir("/mnt/tmp/secrets")
	if err != nil {
		t.Fatal(err)
	}
	if changed, err := d.Write("token.json", []byte("secret")); !changed || err != nil {
		t.Errorf("write: %v, %v", changed, err)
	}
	inside := fmt.Sprintf("/proc/%d/root/mnt/tmp/secrets", cmd.Process.Pid)
	checkOwned(t, inside, 0o700, nobody)
	checkOwned(t, inside+"/token.json", 0o600, nobody)
	if _, err := v.Dir("/mnt/open"); err == nil || !strings.Contains(err.Error(), "belongs to uid 0") {
		t.Errorf("another's directory: %v", err)
	}
	if _, err := v.Dir("/mnt/absent/secrets"); err == nil || !strings.Contains(err.Error(), "directory above") {
		t.Errorf("no parent: %v", err)
	}

	// The process ends; what it left can still be removed.
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := d.Remove("token.json"); err != nil {
		t.Error(err)
	}
	if _, err := v.Read("/mnt/tmp/secrets/token.json", 10); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after removal: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	unchanged(t)
}

func checkOwned(t *testing.T, path string, mode os.FileMode, uid uint32) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Error(err)
		return
	}
	st := info.Sys().(*syscall.Stat_t)
	if info.Mode().Perm() != mode || st.Uid != uid || st.Gid != uid {
		t.Errorf("%s: mode %v, owner %d:%d; want %v, %d", path, info.Mode(), st.Uid, st.Gid, mode, uid)
	}
}

func TestGone(t *testing.T) {
	testenv.Privileged(t)
	p := ofUser(t)
	for name, change := range map[string]func(p *state.Process){
		"another boot":          func(p *state.Process) { p.BootID = "another" },
		"another with that pid": func(p *state.Process) { p.Start++ },
		"no such pid":           func(p *state.Process) { p.PID = 1 << 22 },
	} {
		other := p
		change(&other)
		if _, err := OfProcess(other, boot); !errors.Is(err, ErrGone) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestReadDir(t *testing.T) {
	testenv.Files(t)
	v := hostView(t)
	dir := t.TempDir()
	for name, content := range map[string]string{"b.pem": "B", "a.pem": "A", "d/e.pem": "E"} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink("d/e.pem", dir+"/c.pem"), os.Symlink("d", dir+"/f.pem"), unix.Mkfifo(dir+"/g.pem", 0o600)); err != nil {
		t.Fatal(err)
	}
	opened := watched(t, dir+"/g.pem", unix.IN_OPEN)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	empty := t.TempDir()
	for _, tc := range []struct {
		ctx   context.Context //nolint:containedctx // a case's
		dir   string
		limit int
		want  string
		err   string // "": none
	}{
		{t.Context(), dir, 100, "A\nB\nE\n", ""},
		{t.Context(), dir, 6, "A\nB\nE\n", ""},
		{t.Context(), dir, 5, "", "together larger than 5 bytes"},
		{t.Context(), empty, 100, "", ""},
		{t.Context(), dir + "/none", 100, "", "no such file"},
		{ended, dir, 100, "", "context canceled"},
	} {
		got, err := v.ReadDir(tc.ctx, tc.dir, tc.limit)
		if string(got) != tc.want || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%s, %d bytes: %q, %v; want %q, %s", tc.dir, tc.limit, got, err, tc.want, tc.err)
		}
	}
	if opened() {
		t.Error("a pipe was opened")
	}
}

// A directory of the caller's choosing costs little, however much is in it.
func TestAFullDirectory(t *testing.T) {
	testenv.Files(t)
	v := hostView(t)
	dir := t.TempDir()
	fill := func(from, to int) {
		for n := from; n < to; n++ {
			if err := os.Symlink("none", fmt.Sprintf("%s/%d", dir, n)); err != nil {
				t.Fatal(err)
			}
		}
	}
	fill(0, maxNames-1)
	if err := os.WriteFile(dir+"/a", []byte("A"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := v.ReadDir(t.Context(), dir, 100); err == nil || strings.Contains(err.Error(), "more than") {
		t.Errorf("1000 names: %v", err) // a link that leads nowhere
	}
	fill(maxNames, maxNames+1)
	if _, err := v.ReadDir(t.Context(), dir, 100); err == nil || !strings.Contains(err.Error(), "more than 1000 names") {
		t.Errorf("1001 names: %v", err)
	}
	d, err := v.Dir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	if err := d.Forget("a"); err != nil || d.Has("a") {
		t.Errorf("not removed among so many: %v", err)
	}
}

func hostView(t *testing.T) *View {
	t.Helper()
	v, err := Host("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.Close() })
	return v
}
