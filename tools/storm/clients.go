package storm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

// Clients register and deregister proxies and keep the ledger of it. Each of
// them has ids of its own, so that the order of calls about one id is known.
type Clients struct {
	Socket string // of the daemon
	Ledger *Ledger
	Count  int // clients
	IDs    int // of each
	Seed   uint64
	// Owner makes the body of a registration; nil: anybody may connect.
	Owner func(n int) v1.RegisterRequest

	Answered, Unanswered atomic.Int64 // calls

	pause  atomic.Int64
	gate   sync.RWMutex // held for reading during a call
	wg     sync.WaitGroup
	mu     sync.Mutex
	broken []error
}

// Run lets the clients call until ctx ends, and returns when all have ended.
func (c *Clients) Run(ctx context.Context) {
	for i := range c.Count {
		c.wg.Go(func() {
			api := v1.NewClient(c.Socket)
			defer api.Close()
			c.client(ctx, api, i, rand.New(rand.NewPCG(c.Seed, uint64(i))))
		})
	}
	c.wg.Wait()
}

// Pace sets for how long each client pauses after a call, on average; at first
// it does not.
func (c *Clients) Pace(pause time.Duration) { c.pause.Store(int64(pause)) }

// Hold keeps the clients from calling until Release; it returns once no call is
// under way.
func (c *Clients) Hold() { c.gate.Lock() }

// Release lets them call again.
func (c *Clients) Release() { c.gate.Unlock() }

// Broken gives the promises that an answer to a client broke, once.
func (c *Clients) Broken() []error {
	c.mu.Lock()
	defer c.mu.Unlock()
	broken := c.broken
	c.broken = nil
	return broken
}

func (c *Clients) client(ctx context.Context, api *v1.Client, number int, random *rand.Rand) {
	for ctx.Err() == nil {
		n := random.IntN(c.IDs)
		id := fmt.Sprintf("client-%d-%d", number, n)
		c.gate.RLock()
		err := c.call(ctx, api, id, number*c.IDs+n, random)
		c.gate.RUnlock()
		wait := time.Duration(0)
		if pause := c.pause.Load(); pause > 0 {
			wait = time.Duration(random.Int64N(2 * pause))
		}
		if err != nil { // nobody is there: do not spin until somebody is
			wait += time.Millisecond
		}
		if wait > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
		}
	}
}

// call makes one call that makes sense as far as the ledger knows, or one in
// ten that should change nothing.
func (c *Clients) call(ctx context.Context, api *v1.Client, id string, n int, random *rand.Rand) error {
	held, certain := c.Ledger.Holds(id)
	register := !held
	if random.IntN(10) == 0 || !certain && random.IntN(2) == 0 {
		register = !register
	}
	// A call that was made is waited for, or its outcome would not be known.
	ctx = context.WithoutCancel(ctx)
	if register {
		request := v1.RegisterRequest{Owner: v1.OwnerAny}
		if c.Owner != nil {
			request = c.Owner(n)
		}
		r, err := api.Register(ctx, id, request)
		if err != nil {
			return c.failed(id, true, err)
		}
		if err := c.Ledger.Registered(id, r); err != nil {
			c.broke(err)
		}
	} else {
		if err := api.Deregister(ctx, id); err != nil {
			return c.failed(id, false, err)
		}
		c.Ledger.Deregistered(id)
	}
	c.Answered.Add(1)
	return nil
}

// failed notes a call that had no answer, and an answer that should not be.
func (c *Clients) failed(id string, registering bool, err error) error {
	var nobody *v1.ConnectError
	var problem *v1.ProblemError
	switch {
	case errors.As(err, &nobody):
		return err // nobody heard it: all is as it was
	case errors.As(err, &problem) && problem.Status == http.StatusServiceUnavailable:
		return err // the daemon says that nothing was changed
	case errors.As(err, &problem):
		c.broke(fmt.Errorf("call about %s: %w", id, err))
	}
	c.Unanswered.Add(1)
	c.Ledger.Unanswered(id, registering)
	return err
}

func (c *Clients) broke(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken = append(c.broken, err)
}
