package secrets

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/lictor-mesh/lictor/state"
)

// ErrStuck is when the file system does not answer.
var ErrStuck = errors.New("the file system does not answer")

// patience is how long a file system may take. It may be the caller's own, as
// with FUSE, and never answer.
const patience = 5 * time.Second

// How many calls may be stuck before further ones are refused at once. A call
// that is given up holds a thread until its file system answers, and Go ends a
// program that has 10,000. Nobody can use up what others need, short of as many
// users or namespaces as the last two have room for.
const (
	stuckOfOne  = 1   // of a process: it stands for all that would follow
	stuckOfUser = 32  // of a user in a network namespace, by whatever processes
	stuckOthers = 384 // of all that are not root's
	stuckOfAll  = 512
)

// share is whose calls are counted together.
type share struct {
	of   string // for people
	most int
}

var shareOfAll = share{"calls of all", stuckOfAll}

func sharesOfHost(of string) []share { return []share{{"calls of " + of, stuckOfOne}, shareOfAll} }

func sharesOf(p state.Process, netns string) []share {
	shares := []share{
		{fmt.Sprintf("calls of process %d, begun at %d", p.PID, p.Start), stuckOfOne},
		{fmt.Sprintf("calls of uid %d in %s", p.UID, netns), stuckOfUser},
		shareOfAll,
	}
	if p.UID != 0 {
		shares = append(shares, share{"calls of all but root", stuckOthers})
	}
	return shares
}

// calls are those that file systems have not answered.
type calls struct {
	patience time.Duration

	mu    sync.Mutex
	stuck map[string]int // given up, by share
}

// underWay are those of this program, whose threads they hold.
var underWay = calls{patience: patience, stuck: map[string]int{}}

// refusal says why another call is not begun.
func (c *calls) refusal(shares []share) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range shares {
		if c.stuck[s.of] >= s.most {
			return fmt.Errorf("%w, as before: %s, %d without an answer", ErrStuck, s.of, s.most)
		}
	}
	return nil
}

// count counts a call that was given up, or one of those that returned. c.mu is
// held.
func (c *calls) count(shares []share, n int) {
	for _, s := range shares {
		if c.stuck[s.of] += n; c.stuck[s.of] == 0 {
			delete(c.stuck, s.of)
		}
	}
}

// act calls with the view's rights, and gives up when the file system does not
// answer. What was given up is waited for by nobody.
func (v *View) act(call func() error) error {
	c := v.calls
	if err := c.refusal(v.shares); err != nil {
		return err
	}
	done := make(chan error, 1) // an answer waits for nobody
	var ended, left bool        // guarded by c.mu
	go func() {
		err := v.id.do(call)
		c.mu.Lock()
		defer c.mu.Unlock()
		if ended = true; left {
			c.count(v.shares, -1)
		}
		done <- err
	}()
	timer := time.NewTimer(c.patience)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if ended {
		return <-done
	}
	left = true
	c.count(v.shares, 1)
	return ErrStuck
}
