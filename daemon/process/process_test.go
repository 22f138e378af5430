package process

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"testing"

	"github.com/lictor-mesh/lictor/state"
)

func TestStart(t *testing.T) {
	mine, err := Start(os.Getpid())
	if err != nil || mine == 0 {
		t.Fatalf("own start = %d, %v", mine, err)
	}
	child := exec.Command("sleep", "60")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	start, err := Start(child.Process.Pid)
	if err != nil || start < mine {
		t.Fatalf("a child's start = %d, %v; its parent's is %d", start, err, mine)
	}
	p := state.Process{PID: child.Process.Pid, Start: start, BootID: "boot"}
	if Gone(p, "boot") {
		t.Error("a process that runs is gone")
	}
	another := p
	another.Start--
	if !Gone(another, "boot") {
		t.Error("the one that had the pid before is not gone")
	}
	if !Gone(p, "another boot") {
		t.Error("a process of another boot is not gone")
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	waitForZombie(t, child.Process.Pid)
	if !Gone(p, "boot") {
		t.Error("a zombie is not gone")
	}
	_ = child.Wait()
	if _, err := Start(child.Process.Pid); !errors.Is(err, fs.ErrNotExist) || !Gone(p, "boot") {
		t.Errorf("after it ended: %v", err)
	}
}

func waitForZombie(t *testing.T, pid int) {
	t.Helper()
	for {
		if _, err := Start(pid); err != nil {
			return
		}
		if t.Context().Err() != nil {
			t.Fatal("it does not end")
		}
	}
}

func TestParseStart(t *testing.T) {
	const rest = " S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 1"
	for name, test := range map[string]struct {
		stat string
		want uint64
		ok   bool
	}{
		"plain":                {"7 (envoy)" + rest, 4711, true},
		"a name that pretends": {"7 (a) Z 1 2 (b)" + rest, 4711, true},
		"newline in the name":  {"7 (a\nb)" + rest, 4711, true},
		"zombie":               {"7 (envoy) Z 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 1", 0, false},
		"short":                {"7 (envoy) S 1", 0, false},
		"empty":                {"", 0, false},
		"no number":            {"7 (envoy) S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 x 1", 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseStart(7, test.stat)
			if got != test.want || (err == nil) != test.ok {
				t.Errorf("got %d, %v", got, err)
			}
		})
	}
}

func TestUsers(t *testing.T) {
	for status, want := range map[string][4]uint32{
		"Name:\tsu\nUid:\t65532\t0\t1\t2\nGid:\t5\t5\t5\t5\n": {65532, 0, 1, 2},
		"Uid:\t4294967294\t0\t0\t0":                           {4294967294},
	} {
		if got, err := Users(status); got != want || err != nil {
			t.Errorf("%q: %v, %v", status, got, err)
		}
	}
	for _, status := range []string{"", "Gid:\t1\t1\t1\t1\n", "Uid:\t1\t1\t1\n", "Uid:\t1\t1\t1\tx\n", "Uid:\t4294967296\t1\t1\t1\n", "NUid:\t1\t1\t1\t1\n"} {
		if got, err := Users(status); err == nil {
			t.Errorf("%q: %v", status, got)
		}
	}
}
