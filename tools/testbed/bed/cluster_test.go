package bed_test

import (
	"context"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// within is a context for one step of a test.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// steps returns a function that logs what comes next, and how long what came
// before took.
func steps(t *testing.T) func(next string) {
	last := time.Now()
	return func(next string) {
		t.Helper()
		t.Logf("… %v; %s", time.Since(last).Round(10*time.Millisecond), next)
		last = time.Now()
	}
}

func TestClusterElectsALeaderAndSurvivesWhatIsDoneToIt(t *testing.T) {
	testenv.Privileged(t)
	testenv.NoLeaks(t)
	b := bed.ForTest(t)
	step := steps(t)
	c, err := b.StartCluster(within(t, 60*time.Second), bed.ClusterOptions{Servers: 3})
	check(t, err)

	leader, err := c.Leader(within(t, 5*time.Second))
	check(t, err)

	step("kill the leader")
	check(t, leader.Kill())
	check(t, c.WaitLeader(within(t, 20*time.Second)))
	check(t, c.WaitServers(within(t, 20*time.Second), 2))
	next, err := c.Leader(within(t, 5*time.Second))
	check(t, err)
	if next == leader {
		t.Errorf("leader is %s, which was killed", next.Name)
	}
	step("restart it")
	check(t, leader.Restart(within(t, 20*time.Second)))
	check(t, c.WaitServers(within(t, 20*time.Second), 3))

	step("cut the leader off")
	leader, err = c.Leader(within(t, 5*time.Second))
	check(t, err)
	check(t, leader.Partition(bed.Silent))
	check(t, c.WaitServers(within(t, 30*time.Second), 2))
	step("heal")
	check(t, leader.Heal())
	check(t, c.WaitServers(within(t, 60*time.Second), 3))

	step("stop a follower")
	var follower *bed.Server
	leader, err = c.Leader(within(t, 5*time.Second))
	check(t, err)
	for _, s := range c.Servers() {
		if s != leader {
			follower = s
		}
	}
	check(t, follower.Stop())
	check(t, c.WaitServers(within(t, 30*time.Second), 2))
	step("let it go on")
	check(t, follower.Cont())
	check(t, c.WaitServers(within(t, 60*time.Second), 3))

	step("move it to another address")
	old := follower.Addr()
	check(t, follower.Move(within(t, 30*time.Second)))
	check(t, c.WaitServers(within(t, 60*time.Second), 3))
	if follower.Addr() == old {
		t.Errorf("address is still %s", old)
	}

	step("add and remove a server")
	s, err := c.AddServer(within(t, 30*time.Second))
	check(t, err)
	check(t, s.Remove(within(t, 30*time.Second)))
	check(t, c.WaitServers(within(t, 30*time.Second), 3))
	step("done")
}
