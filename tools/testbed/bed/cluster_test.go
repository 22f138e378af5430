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

func TestClusterElectsALeaderAndSurvivesWhatIsDoneToIt(t *testing.T) {
	testenv.Privileged(t)
	testenv.NoLeaks(t)
	b := bed.ForTest(t)
	started := time.Now()
	c, err := b.StartCluster(within(t, 60*time.Second), bed.ClusterOptions{Servers: 3})
	check(t, err)
	t.Logf("three servers after %v", time.Since(started))

	leader, err := c.Leader(within(t, 5*time.Second))
	check(t, err)

	t.Log("kill the leader")
	check(t, leader.Kill())
	check(t, c.WaitLeader(within(t, 20*time.Second)))
	check(t, c.WaitServers(within(t, 20*time.Second), 2))
	next, err := c.Leader(within(t, 5*time.Second))
	check(t, err)
	if next == leader {
		t.Errorf("leader is %s, which was killed", next.Name)
	}
	check(t, leader.Restart(within(t, 20*time.Second)))
	check(t, c.WaitServers(within(t, 20*time.Second), 3))

	t.Log("cut the leader off")
	leader, err = c.Leader(within(t, 5*time.Second))
	check(t, err)
	check(t, leader.Partition(bed.Silent))
	check(t, c.WaitServers(within(t, 30*time.Second), 2))
	check(t, leader.Heal())
	check(t, c.WaitServers(within(t, 60*time.Second), 3))

	t.Log("stop a follower")
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
	check(t, follower.Cont())
	check(t, c.WaitServers(within(t, 60*time.Second), 3))

	t.Log("move it to another address")
	old := follower.Addr()
	check(t, follower.Move(within(t, 30*time.Second)))
	check(t, c.WaitServers(within(t, 60*time.Second), 3))
	if follower.Addr() == old {
		t.Errorf("address is still %s", old)
	}

	t.Log("add and remove a server")
	s, err := c.AddServer(within(t, 30*time.Second))
	check(t, err)
	check(t, s.Remove(within(t, 30*time.Second)))
	check(t, c.WaitServers(within(t, 30*time.Second), 3))
}
