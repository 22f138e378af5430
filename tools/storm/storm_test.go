package storm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/state/journal"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// number reads a setting of the storm's from the environment.
func number(t *testing.T, name string, def uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return def
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// lictord is killed at random points, while clients register and deregister and
// others connect: nothing that was answered is lost, nothing that was not is
// half there, and no connect fails.
func TestCrashStorm(t *testing.T) {
	testenv.Privileged(t)
	testenv.NoLeaks(t)
	rounds := number(t, "STORM_ROUNDS", 200)
	seed := number(t, "STORM_SEED", uint64(time.Now().UnixNano()))
	t.Logf("seed %d: STORM_SEED=%d gives the same kills and calls, though not at the same instants", seed, seed)

	b := bed.ForTest(t)
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	cluster, err := b.StartCluster(ctx, bed.ClusterOptions{Servers: 3})
	must(err)
	host, err := b.NewHost("host-1")
	must(err)
	pod, err := host.NewPod("pod-1")
	must(err)
	lictor, err := host.StartLictor(bed.LictorOptions{Cluster: cluster})
	must(err)
	must(lictor.WaitReady(ctx))
	api := lictor.Client()
	t.Cleanup(api.Close)

	ledger := &Ledger{}
	var stable []string
	var to []netip.AddrPort
	for i := range 8 {
		id := fmt.Sprintf("stable-%d", i)
		r, err := api.Register(ctx, id, v1.RegisterRequest{Netns: pod.Netns.Path})
		must(err)
		must(ledger.Registered(id, r))
		stable = append(stable, id)
		to = append(to, netip.AddrPortFrom(netip.MustParseAddr(r.VIP), r.Port))
	}
	connects, err := pod.StartStorm(bed.StormOptions{To: to, Workers: 2, Abort: true, Pause: 5 * time.Millisecond})
	must(err)

	clients := &Clients{Socket: lictor.Socket, Ledger: ledger, Count: 4, IDs: 25, Seed: seed,
		Owner: func(n int) v1.RegisterRequest {
			if n%2 == 0 {
				return v1.RegisterRequest{Netns: pod.Netns.Path}
			}
			return v1.RegisterRequest{Owner: v1.OwnerAny}
		}}
	clients.Pace(2 * time.Millisecond)
	calling, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() { defer close(ended); clients.Run(calling) }()
	end := func() { stop(); <-ended }
	defer end()

	killer := &Killer{
		Lictor: lictor, Clients: clients, Random: rand.New(rand.NewPCG(seed, 1)), Run: 150 * time.Millisecond,
		Judge: &Judge{API: api, Pins: filepath.Join(host.BPFFS, "lictor"), Ledger: ledger, Journal: NewFollower()},
	}
	began := time.Now()
	for round := range rounds {
		err := killer.Round(ctx)
		if err = errors.Join(append(clients.Broken(), err)...); err != nil {
			t.Fatalf("round %d: %v", round+1, err)
		}
		if (round+1)%100 == 0 {
			t.Logf("%d rounds, %d kills, %d calls answered, journal at event %d", killer.Rounds, killer.Kills,
				clients.Answered.Load(), killer.Judge.Journal.State.Seq)
		}
	}
	end()
	t.Logf("%d rounds, %d kills in %v; %d calls answered, %d without an answer; at most %v until lictord answered",
		killer.Rounds, killer.Kills, time.Since(began).Round(time.Second), clients.Answered.Load(), clients.Unanswered.Load(),
		killer.Longest.Round(time.Millisecond))
	if n := clients.Answered.Load(); n < int64(rounds) {
		t.Errorf("%d calls were answered in %d rounds: the storm was none", n, rounds)
	}

	result, err := connects.End()
	must(err)
	if result.OK != result.Connects || result.Connects == 0 {
		t.Errorf("of %d connects to stable VIPs %d arrived: %v", result.Connects, result.OK, result.Errnos)
	}
	t.Logf("%d connects to stable VIPs, the longest took %v", result.Connects, result.Longest)
	var counted uint64
	for _, id := range stable {
		p, err := api.Proxy(ctx, id)
		must(err)
		counted += p.Total
	}
	if counted != uint64(result.OK) {
		t.Errorf("the kernel counted %d connections to the stable VIPs, there were %d", counted, result.OK)
	}

	// The journal itself, once no daemon holds it: sound, and its fold is the one
	// of what the API told event by event.
	must(killer.Judge.Alive(ctx))
	must(lictor.Term(ctx))
	if _, err := journal.Verify(ctx, lictor.State, nil); err != nil {
		t.Error(err)
	}
	told := killer.Judge.Journal.State
	j, err := journal.OpenReadOnly(ctx, lictor.State, journal.Options{})
	must(err)
	kept, err := j.StateAtSeq(ctx, told.Seq)
	must(errors.Join(err, j.Close()))
	if !kept.Equal(told) {
		t.Errorf("the journal gives another state at event %d than the API told", told.Seq)
	}
}
