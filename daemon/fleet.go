package daemon

import (
	"context"
	"log/slog"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/daemon/fleet"
)

// newFleet makes the host a part of the fleet, where Consul's HTTP API is asked.
func (d *Daemon) newFleet(logger *slog.Logger) *fleet.Manager {
	cfg := fleet.Config{
		Node: d.cfg.NodeName, ID: d.journal.Meta().UUID,
		Registry: d.registry, Consul: d.catalog, Report: d.report, Log: logger,
	}
	if t := d.cfg.TLS; !t.Disabled {
		cfg.Access = v1.FleetConsul{CACerts: t.CACerts, Cert: t.Cert, Key: t.Key, ServerName: t.ServerName}
	}
	switch {
	case d.cfg.ServerWatchDisabled:
		cfg.Off = "Consul is not asked for anything but what proxies need, as --server-watch-disabled is set"
	case d.cfg.ConsulHTTPPort == 0:
		cfg.Off = "hosts agree through Consul's KV store, which is not reached with --consul-http-port 0"
	}
	return fleet.New(cfg)
}

// report is what this host says of itself to the others.
func (d *Daemon) report(ctx context.Context) (v1.FleetHost, error) {
	status, err := backend{d}.Status(ctx)
	if err != nil {
		return v1.FleetHost{}, err
	}
	servers, err := backend{d}.Servers(ctx)
	if err != nil {
		return v1.FleetHost{}, err
	}
	return fleet.ReportOf(status, servers), nil
}

// fleetStatus says how the host takes part. That it takes none is no problem.
func (b backend) fleetStatus(st *v1.Status) {
	st.Fleet = b.fleet.Status()
	if st.Fleet.Problem != "" {
		st.Problems = append(st.Problems, "The fleet: "+st.Fleet.Problem)
	}
}
