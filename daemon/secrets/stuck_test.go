package secrets

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// hung makes a view whose every call hangs until release is called.
func hung(c *calls, shares []share) (hang func() error, release func()) {
	v := &View{id: self(), calls: c, shares: shares}
	until := make(chan struct{})
	return func() error { return v.act(func() error { <-until; return nil }) }, func() { close(until) }
}

func newCalls() *calls { return &calls{patience: time.Millisecond, stuck: map[string]int{}} }

func processShares(pid int, uid uint32, netns string) []share {
	return sharesOf(state.Process{PID: pid, UID: uid}, netns)
}

// A file system that never answers holds up one call of a process, and none after
// it, by whatever view; when it answers after all, files are opened again.
func TestStuck(t *testing.T) {
	testenv.Files(t)
	c := newCalls()
	hang, release := hung(c, processShares(1, 0, "net:[1]"))
	if err := hang(); !errors.Is(err, ErrStuck) || err.Error() != ErrStuck.Error() {
		t.Errorf("first: %v", err)
	}
	again, _ := hung(c, processShares(1, 0, "net:[1]"))
	if err := again(); !errors.Is(err, ErrStuck) || err.Error() != "the file system does not answer, as before: calls of process 1, begun at 0, 1 without an answer" {
		t.Errorf("second, by a new view: %v", err)
	}
	other := &View{id: self(), calls: c, shares: processShares(2, 0, "net:[1]")}
	c.patience = time.Minute
	if err := other.act(func() error { return nil }); err != nil {
		t.Errorf("another process's: %v", err)
	}
	release()
	same := &View{id: self(), calls: c, shares: processShares(1, 0, "net:[1]")}
	for deadline := time.Now().Add(10 * time.Second); same.act(func() error { return nil }) != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("what has returned still counts")
		}
	}
	if len(c.stuck) != 0 {
		t.Errorf("counts left over: %v", c.stuck)
	}
}

// Whoever asks for a process's files, and however often, waits for the same.
func TestViewsOfAProcess(t *testing.T) {
	testenv.Privileged(t)
	p := ofUser(t)
	netns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", p.PID))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if v := view(t, p); v.calls != &underWay || !slices.Equal(v.shares, sharesOf(p, netns)) {
			t.Errorf("its calls are counted as %+v", v.shares)
		}
	}
	for of, v := range map[string]*View{"lictord": hostView(t), "the directory web": opened(t, base(t), "web", self()).view} {
		if v.calls != &underWay || !slices.Equal(v.shares, sharesOfHost(of)) {
			t.Errorf("calls of %s are counted as %+v", of, v.shares)
		}
	}
}

// Whoever makes file systems hang uses up the places of its own user in its own
// namespace; users together leave some to root.
func TestStuckShares(t *testing.T) {
	c := newCalls()
	stick := func(pid int, uid uint32, netns string) bool {
		shares := processShares(pid, uid, netns)
		if c.refusal(shares) != nil {
			return false
		}
		c.count(shares, 1)
		return true
	}
	pid := 0
	for of := range 12 { // 12 times 32 is what all but root may have
		for range stuckOfUser {
			if pid++; !stick(pid, 7, fmt.Sprint("net:[", of, "]")) {
				t.Fatalf("call %d is refused", pid)
			}
		}
		if pid++; stick(pid, 7, fmt.Sprint("net:[", of, "]")) {
			t.Fatal("a user has more in a namespace than it may")
		}
	}
	if pid++; stick(pid, 8, "net:[99]") {
		t.Error("users have more than they may together")
	}
	if err := c.refusal(sharesOfHost("lictord")); err != nil {
		t.Errorf("lictord cannot read its own files: %v", err)
	}
	for of := range 4 {
		for range stuckOfUser {
			if pid++; !stick(pid, 0, fmt.Sprint("net:[", of, "]")) {
				t.Fatalf("root's call %d is refused", pid)
			}
		}
	}
	if pid++; stick(pid, 0, "net:[99]") || c.refusal(sharesOfHost("lictord")) == nil {
		t.Error("there is no end to what is stuck")
	}
}
