package drain

import (
	"maps"
	"slices"
	"time"

	"github.com/lictor-mesh/lictor/daemon/placement"
	"github.com/lictor-mesh/lictor/kernel"
)

// How many connections this host closes in a second: so many, or this share of
// what is left if that is more. A Consul server sheds 1 to 10 a second itself
// (agent/grpc-external/limiter of Consul). Where a server is gone, waiting costs more than a rush:
// nobody knows what its streams still deliver, and the others take what was its.
const (
	gentleFloor, gentleShare = 5, 1. / 20
	fastFloor, fastShare     = 50, 1
)

const (
	// settleFor is how long a new connection must have lasted to count as
	// served. A refusal comes with the first answer.
	settleFor = 300 * time.Millisecond
	// unsettledFor is how long a proxy that does not connect again, as it was
	// stopped perhaps, keeps others from being moved.
	unsettledFor = 5 * time.Second
	// waitsFor is how long one that all servers refuse does. One with a dead
	// token is refused for ever.
	waitsFor = 5 * time.Minute
)

// budget is what may be closed.
type budget struct {
	floor float64 // a second
	share float64 // of what is left, a second
	left  float64 // of earlier ticks, less than one
}

// rate is a second's worth while n are left.
func (b *budget) rate(n int) float64 { return max(b.floor, b.share*float64(n)) }

// take gives how many of n may be closed in this tick.
func (b *budget) take(n int) int {
	if n == 0 {
		b.left = 0
		return 0
	}
	b.left += b.rate(n) * tick.Seconds()
	whole := int(b.left)
	b.left -= float64(whole)
	return min(whole, n)
}

// window is how many of n may be on their way at once: without it a drain would
// run ahead of the refusals that say that the other servers are full.
func (b *budget) window(n int) int { return max(2, int(b.rate(n)*2*tick.Seconds())) }

// settle drops those of the moving that have arrived, those of VIPs that are no
// more, and those that nobody waits for any longer. It says how many are left,
// and whether one of them was refused by every server: there is no room.
func (c *Closer) settle(p plan, vips []kernel.VIP, now time.Duration) (left int, full bool, err error) {
	if len(c.moving) == 0 {
		return 0, false, nil
	}
	slots := slices.Collect(maps.Keys(c.moving))
	states, err := c.kernel.VIPStates(slots)
	if err != nil {
		return 0, false, err
	}
	there := make(map[uint32]bool, len(vips))
	for _, v := range vips {
		there[v.Slot] = true
	}
	for i, vs := range states {
		slot := slots[i]
		waits := placement.Waiting(vs, now)
		patience := unsettledFor
		if waits {
			patience = waitsFor
		}
		arrived := p.settled[slot] && now-vs.LastAt >= settleFor
		if arrived || !there[slot] || now-c.moving[slot] >= patience {
			delete(c.moving, slot)
			continue
		}
		full = full || waits
	}
	return len(c.moving), full, nil
}
