package daemon

import (
	"context"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/daemon/presence"
	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/state"
)

// namesEvery is how old the names may be by which events are described.
const namesEvery = time.Second

// followServers hands what the catalog lists to the registry.
func (d *Daemon) followServers(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case found := <-d.catalog.Updates():
			specs := make([]state.ServerSpec, 0, len(found))
			for _, s := range found {
				specs = append(specs, state.ServerSpec{ID: s.ID, Addr4: s.Addr4, Addr6: s.Addr6, Port: s.Port, Version: s.Version})
			}
			d.registry.SetServers(specs)
		}
	}
}

// readEvents reads the kernel's ring buffer: failures wake the registry, and
// all events go to whoever follows connections.
func (d *Daemon) readEvents(ctx context.Context) error {
	var n namer
	return d.kernel.Events(ctx, func(e kernel.Event) {
		d.metrics.RingEvent(e.Kind)
		switch e.Kind {
		case kernel.EventFailed, kernel.EventFailedLocal, kernel.EventBounced:
			d.registry.Touch(e.VIPSlot)
			if d.cfg.ServerWatchDisabled {
				d.catalog.Refresh() // nobody else would tell that an address has changed
			}
		}
		if e.Kind == kernel.EventBounced {
			d.bounces.add(e)
		}
		if !d.hub.Followed() {
			n = namer{} // who follows later is not told of drops before
			return
		}
		n.refresh(ctx, d)
		d.hub.Publish(n.describe(e, d.kernel.Now()))
	})
}

// watchPresence compares proxies with the catalog, where there is one to ask.
func (d *Daemon) watchPresence(logger *slog.Logger) func(context.Context) error {
	if d.cfg.ServerWatchDisabled || d.cfg.ConsulHTTPPort == 0 {
		return func(context.Context) error { return nil }
	}
	return presence.NewWatcher(d.registry, d.catalog, logger).Run
}

// namer knows the names of slots. It belongs to the reader of the ring.
type namer struct {
	at      time.Time
	proxies map[uint32]string
	servers map[uint16]string
	dropped uint64 // by the kernel, as counted at the last refresh
}

// refresh renews the names, and tells followers what the kernel has dropped.
func (n *namer) refresh(ctx context.Context, d *Daemon) {
	if time.Since(n.at) < namesEvery {
		return
	}
	snap, err := d.registry.Snapshot(ctx)
	if err != nil {
		return // the daemon is stopping
	}
	if reasons, err := d.kernel.Reasons(); err == nil {
		now := reasons[kernel.ReasonRingDropped]
		if !n.at.IsZero() && now > n.dropped {
			d.hub.Lost(now - n.dropped)
		}
		n.dropped = now
	}
	n.at, n.proxies = time.Now(), snap.Indexes
	n.servers = make(map[uint16]string, len(snap.Slots))
	for id, slot := range snap.Slots {
		n.servers[slot] = id
	}
}

func (n *namer) describe(e kernel.Event, now time.Duration) v1.ConnectionEvent {
	out := v1.ConnectionEvent{
		Kind: e.Kind.String(), Time: time.Now().Add(e.At - now).UTC(),
		ProxyID: n.proxies[e.VIPSlot], Server: n.servers[e.Slot],
		PID: e.PID, Comm: e.Comm, CgroupID: e.CgroupID,
		TookMS: ms(e.Took), RTTMS: ms(e.RTT), BytesIn: e.BytesIn, BytesOut: e.BytesOut,
	}
	if e.VIP.IsValid() {
		out.VIP = e.VIP.String()
	}
	if e.Server.IsValid() {
		out.Address = e.Server.String()
	}
	if e.Errno != 0 {
		out.Errno = unix.ErrnoName(unix.Errno(e.Errno))
	}
	if e.Kind == kernel.EventDenied {
		out.Reason = e.Denied.String()
	}
	return out
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
