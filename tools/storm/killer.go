package storm

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// Killer kills a daemon at random points and has it judged.
type Killer struct {
	Lictor  *bed.Lictor
	Clients *Clients
	Judge   *Judge
	Random  *rand.Rand
	// Run is how long at most the daemon may run before it is killed.
	Run time.Duration
	// While does more while the daemon is dead; may be nil.
	While func() error

	Rounds, Kills int
	// Longest is the longest time from starting the daemon until it answered.
	Longest time.Duration
}

// startup is about how long a start takes: so long after one, kills hit it.
const startup = 250 * time.Millisecond

// Round lets the clients call for a while, kills the daemon, sometimes once
// more while it starts, and judges what is left, dead and alive.
func (k *Killer) Round(ctx context.Context) error {
	k.Rounds++
	time.Sleep(time.Duration(k.Random.Int64N(int64(k.Run))))
	for {
		if err := k.kill(); err != nil {
			return err
		}
		again := k.Random.IntN(4) == 0
		k.Clients.Hold()
		err := k.Judge.Dead()
		if err == nil && k.While != nil {
			err = k.While()
		}
		if err == nil {
			err = k.Lictor.Start()
		}
		if err != nil || !again {
			return k.revive(ctx, err)
		}
		k.Clients.Release()
		time.Sleep(time.Duration(k.Random.Int64N(int64(startup))))
	}
}

// kill ends the daemon and forgets the log of one that had nothing to say.
func (k *Killer) kill() error {
	k.Kills++
	p := k.Lictor.Process()
	if !p.Alive() {
		return fmt.Errorf("%s ended before it was killed: %s", p.Name, p.Tail(2000))
	}
	if err := p.Kill(); err != nil {
		return err
	}
	return os.Truncate(p.Log, 0)
}

// revive waits for the daemon and has it judged; the clients go on after it.
func (k *Killer) revive(ctx context.Context, err error) error {
	defer k.Clients.Release()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := k.Lictor.WaitSocket(ctx); err != nil {
		return err
	}
	k.Longest = max(k.Longest, time.Since(began))
	return k.Judge.Alive(ctx)
}
