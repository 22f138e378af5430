package daemon

import (
	"context"
	"net/netip"

	"github.com/lictor-mesh/lictor/kernel"
)

// bouncer is told of a server that has ended a proxy's stream soon after it
// began, to find out whether the proxy's credential is the reason.
type bouncer interface {
	Bounced(id string, server netip.AddrPort)
}

// bounces hands bounces from the reader of the ring buffer, which must not wait,
// to whoever asks the servers why.
type bounces struct {
	// Bounces in order. When it is full the newest is dropped: a proxy that goes
	// on being refused bounces again.
	found chan kernel.Event
}

func newBounces() *bounces { return &bounces{found: make(chan kernel.Event, 1024)} }

// add takes a bounce. It never blocks.
func (b *bounces) add(e kernel.Event) {
	select {
	case b.found <- e:
	default:
	}
}

// bounced is one server's refusal of one proxy.
type bounced struct {
	slot   uint32
	server netip.AddrPort
}

// run tells to of bounces until ctx ends. However many there are of one proxy
// and server at once, it tells of one.
func (b *bounces) run(ctx context.Context, names func(context.Context) (map[uint32]string, error), to bouncer) error {
	for {
		var all []bounced
		seen := map[bounced]bool{}
		note := func(e kernel.Event) {
			if one := (bounced{e.VIPSlot, e.Server}); !seen[one] {
				seen[one] = true
				all = append(all, one)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case e := <-b.found:
			note(e)
		}
		for more := true; more; {
			select {
			case e := <-b.found:
				note(e)
			default:
				more = false
			}
		}
		proxies, err := names(ctx)
		if err != nil {
			continue // the daemon is stopping
		}
		for _, one := range all {
			if id := proxies[one.slot]; id != "" {
				to.Bounced(id, one.server)
			}
		}
	}
}

// explainBounces has the servers asked why they ended streams.
func (d *Daemon) explainBounces(ctx context.Context) error {
	names := func(ctx context.Context) (map[uint32]string, error) {
		snap, err := d.registry.Snapshot(ctx)
		return snap.Indexes, err
	}
	return d.bounces.run(ctx, names, d.credentials)
}
