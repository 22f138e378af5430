package daemon

import (
	"cmp"
	"context"
	"fmt"
	"runtime/debug"
	"slices"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/daemon/metrics"
	"github.com/lictor-mesh/lictor/daemon/reconcile"
	"github.com/lictor-mesh/lictor/daemon/registry"
	"github.com/lictor-mesh/lictor/kernel"
)

// Servers lists what the catalog lists, what is drained, and what has
// connections still.
func (b backend) Servers(ctx context.Context) ([]v1.Server, error) {
	snap, err := b.registry.Snapshot(ctx)
	if err != nil {
		return nil, problem(err)
	}
	counters, err := b.kernel.Servers()
	if err != nil {
		return nil, fmt.Errorf("read the kernel's counters: %w", err)
	}
	out := []v1.Server{}
	for id, slot := range snap.Slots {
		n := counters[slot]
		s := v1.Server{
			ID: id, Proxies: snap.First[id], Active: n.Active(),
			Redirected: n.Redirected, Attempted: n.Attempted, Established: n.Established,
			Failed: n.Failed, FailedLocal: n.FailedLocal(), Bounced: n.Bounced,
			BytesIn: n.BytesIn, BytesOut: n.BytesOut, Addresses: []string{}, Kept: b.drains.Kept(id),
		}
		if drain, ok := snap.State.Drained[id]; ok {
			s.Drained, s.DrainedBy = true, drain.By
		}
		if srv := snap.State.Servers[id]; srv != nil {
			s.Listed, s.Since, s.GRPCPort, s.Version = true, srv.Since, srv.Port, srv.Version
			if srv.Addr4.IsValid() {
				s.Addresses = append(s.Addresses, srv.Addr4.String())
			}
			if srv.Addr6.IsValid() {
				s.Addresses = append(s.Addresses, srv.Addr6.String())
			}
		}
		if s.Listed || s.Drained || s.Active > 0 {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(x, y v1.Server) int { return cmp.Compare(x.ID, y.ID) })
	return out, nil
}

// reading is what a scrape reads.
func (d *Daemon) reading(ctx context.Context) (metrics.Reading, error) {
	snap, err := d.registry.Snapshot(ctx)
	if err != nil {
		return metrics.Reading{}, err
	}
	tally, err := d.registry.Tally(ctx)
	if err != nil {
		return metrics.Reading{}, err
	}
	reasons, err := d.kernel.Reasons()
	if err != nil {
		return metrics.Reading{}, err
	}
	_, _, hook := d.attached.get()
	stats, contact, fleet := d.journal.Stats(), d.catalog.Status(), d.fleet.Status()
	r := metrics.Reading{
		Hook:        hook == nil,
		Proxies:     map[v1.ProxyState]int{},
		Reasons:     reasons,
		RingDropped: reasons[kernel.ReasonRingDropped],
		Drift:       d.drift(),
		Journal: metrics.Journal{
			Seq: stats.Last, Bytes: stats.Bytes, Writable: d.registry.JournalProblem() == nil, Pending: snap.Pending,
		},
		Consul: metrics.Consul{Contact: contact.Problem == "", LastContact: contact.LastContact, Failed: contact.Failed},
		Fleet: metrics.Fleet{
			State: fleet.State, Drains: len(fleet.Drains), Waiting: len(fleet.Waiting), Reported: fleet.Reported,
		},
	}
	r.Ready = ready(r.Hook, r.Journal.Writable, len(snap.State.Servers))
	for doing, n := range tally {
		r.Proxies[proxyStates[registry.Doing(doing)]] = n
	}
	r.Servers, err = d.readServers(snap)
	return r, err
}

// readServers is each server's part of a reading.
func (d *Daemon) readServers(snap registry.Snapshot) ([]metrics.Server, error) {
	counters, err := d.kernel.Servers()
	if err != nil {
		return nil, err
	}
	latencies, err := d.kernel.Latency()
	if err != nil {
		return nil, err
	}
	servers := make([]metrics.Server, 0, len(snap.Slots))
	for id, slot := range snap.Slots {
		_, drained := snap.State.Drained[id]
		servers = append(servers, metrics.Server{
			ID: id, Counters: counters[slot], Latency: latencies[slot], Proxies: snap.First[id],
			Listed: snap.State.Servers[id] != nil, Drained: drained,
		})
	}
	return servers, nil
}

func (d *Daemon) drift() map[string]uint64 {
	out := map[string]uint64{string(reconcile.DriftConnections): d.miscounted.Load()}
	for kind, n := range d.registry.Drift() {
		out[string(kind)] = n
	}
	return out
}

// recount compares the kernel's counts of live connections with its sockets. What
// is off stays off until the next boot, as counters have one writer; so it is said.
func (d *Daemon) recount(ctx context.Context) error {
	defer debug.FreeOSMemory() // what the replay and the walk took is not needed again
	found, err := d.kernel.Recount()
	if err != nil {
		d.log.Warn("live connections not recounted; their gauge is what the kernel has counted", "err", err)
		return nil
	}
	if len(found) == 0 {
		return nil
	}
	snap, err := d.registry.Snapshot(ctx)
	if err != nil {
		return nil // stopping, which is no failure
	}
	names := map[uint16]string{}
	for id, slot := range snap.Slots {
		names[slot] = id
	}
	for slot, off := range found {
		d.miscounted.Add(uint64(max(off, -off)))
		d.log.Warn("count of live connections differs from the sockets that there are", "server", names[slot], "too_many", off)
	}
	return nil
}
