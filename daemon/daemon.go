// Package daemon is lictord: it wires the components together, in the order of
// starting that nothing may break, and runs them until it is told to stop.
package daemon

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lictor-mesh/lictor/daemon/catalog"
	"github.com/lictor-mesh/lictor/daemon/config"
	"github.com/lictor-mesh/lictor/daemon/connections"
	"github.com/lictor-mesh/lictor/daemon/credentials"
	"github.com/lictor-mesh/lictor/daemon/drain"
	"github.com/lictor-mesh/lictor/daemon/fleet"
	"github.com/lictor-mesh/lictor/daemon/lifecycle"
	"github.com/lictor-mesh/lictor/daemon/metrics"
	"github.com/lictor-mesh/lictor/daemon/owners"
	"github.com/lictor-mesh/lictor/daemon/registry"
	"github.com/lictor-mesh/lictor/daemon/secrets"
	"github.com/lictor-mesh/lictor/daemon/server"
	"github.com/lictor-mesh/lictor/daemon/statuspage"
	"github.com/lictor-mesh/lictor/daemon/version"
	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/state/journal"
)

// Daemon is a running lictord. Its fields do not change after open.
type Daemon struct {
	cfg         config.Config
	log         *slog.Logger
	started     time.Time
	resolver    owners.Resolver
	journal     *journal.Journal
	kernel      *kernel.Kernel
	registry    *registry.Registry
	catalog     *catalog.Catalog
	drains      *drain.Closer
	fleet       *fleet.Manager
	secrets     *secrets.Base
	credentials *credentials.Manager
	lifecycle   *lifecycle.Manager
	bounces     *bounces
	metrics     *metrics.Metrics
	server      *server.Server
	page        *statuspage.Page
	hub         connections.Hub
	attached    attachment
	miscounted  atomic.Uint64 // live connections that the kernel's counts were off by at the start
}

// Run is lictord until ctx ends. Whatever it returns, redirects go on: the
// hook, its maps and the journal stay as they are.
func Run(ctx context.Context, cfg config.Config, logger *slog.Logger) (err error) {
	d := &Daemon{cfg: cfg, log: logger.With("component", "daemon"), started: time.Now()}
	defer func() { err = errors.Join(err, d.close()) }()
	if err := d.open(ctx, logger); err != nil {
		return err
	}
	d.log.Info("started", "version", version.Version(), "node", cfg.NodeName,
		"journal_seq", d.journal.Stats().Last)
	err = d.run(ctx, logger)
	d.log.Info("stopped; redirects go on in the kernel")
	return err
}

// open starts in this order: lock, verify, replay, listen, read the maps, journal
// what the kernel decided meanwhile, and only then repair. The programs are put
// into effect after the map is right, so that a first start refuses nobody who
// is registered.
func (d *Daemon) open(ctx context.Context, logger *slog.Logger) error {
	boot, err := owners.BootID()
	if err != nil {
		return err
	}
	d.resolver = owners.Resolver{BootID: boot}
	began := time.Now()
	j, s, err := journal.Open(ctx, d.cfg.StateDir, journal.Options{MachineID: machineID()})
	if err != nil {
		return openHint(err)
	}
	d.journal = j
	if warning := shortLived(d.cfg.StateDir); warning != "" {
		d.log.Warn("state does not last", "state_dir", d.cfg.StateDir, "problem", warning)
	}
	d.log.Debug("journal replayed", "seq", s.Seq, "took_ms", time.Since(began).Milliseconds())

	if d.catalog, err = catalog.New(d.catalogConfig(logger)); err != nil {
		return err
	}
	// A start that cannot have its socket or its address leaves the kernel
	// alone; whoever calls meanwhile waits for Run.
	d.metrics = metrics.New(version.Version())
	d.page = statuspage.New(statuspage.Config{Source: backend{d}, Logger: logger})
	api := server.New(server.Config{
		Backend: backend{d}, Logger: logger,
		Socket: d.cfg.Socket, HTTPAddr: d.cfg.HTTPAddr, Metrics: d.metrics.Handler(), Page: d.page,
	})
	if err := api.Listen(); err != nil {
		return err
	}
	d.server = api

	bounceBytes := uint32(bounceBytesPlain)
	if !d.cfg.TLS.Disabled {
		bounceBytes = bounceBytesTLS
	}
	kcfg := kernel.Config{
		BPFFS: d.cfg.BPFFS, Cgroup: d.cfg.Cgroup,
		Pool4: d.cfg.VIPCIDR, Pool6: d.cfg.VIPCIDR6,
		BounceBytes: bounceBytes, Logger: logger,
	}
	if d.kernel, err = kernel.Open(ctx, kcfg); err != nil {
		return err
	}
	uuid, err := parseUUID(j.Meta().UUID)
	if err != nil {
		return err
	}
	d.registry = registry.New(registry.Config{
		State: s, Journal: j, JournalUUID: uuid, Maps: d.kernel,
		Pools: registry.Pools{V4: d.cfg.VIPCIDR, V6: d.cfg.VIPCIDR6}, Port: d.cfg.VIPPort,
		BootID: boot, Seed: d.cfg.NodeName, Hold: d.kernel.HoldFor,
		Observer: d.metrics, Logger: logger,
	})
	d.drains = drain.New(d.registry, d.kernel, !d.cfg.ServerWatchDisabled, logger)
	d.fleet = d.newFleet(logger)
	d.bounces = newBounces()
	if err := d.openSecrets(logger); err != nil {
		return err
	}
	if err := d.registry.Start(); err != nil {
		return err
	}
	if err := d.kernel.Attach(ctx); err != nil {
		return err
	}
	d.attached.set(d.kernel.Verify(ctx))
	d.metrics.Collect(d.reading)
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	return nil
}

// A refusal has brought a few hundred bytes; under TLS the handshake adds up to
// 3,300 (measured, with a client certificate).
const (
	bounceBytesPlain = 1000
	bounceBytesTLS   = 4000
)

// gcPercent trades a little CPU for memory: a host's daemon sits beside the
// host's own work, and has little to do. With 10,000 proxies and nothing
// happening, a quarter rather than a half takes 8 MB off for half a hundredth of
// a CPU. GOGC overrides it.
const gcPercent = 25

// run is the run group: when one component ends with an error, all stop.
func (d *Daemon) run(ctx context.Context, logger *slog.Logger) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, component := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"registry", d.registry.Run},
		{"catalog", d.catalog.Run},
		{"servers", d.followServers},
		{"events", d.readEvents},
		{"attachment", d.watchAttachment},
		{"recount", d.recount},
		{"owners", owners.NewWatcher(d.registry, d.resolver, logger).Run},
		{"presence", d.watchPresence(logger)},
		{"credentials", d.credentials.Run},
		{"bounces", d.explainBounces},
		{"lifecycle", d.lifecycle.Run},
		{"drain", d.drains.Run},
		{"fleet", d.fleet.Run},
		{"api", d.server.Run},
		{"statuspage", d.page.Run},
	} {
		group.Go(func() error {
			if err := component.run(ctx); err != nil && !errors.Is(err, context.Canceled) {
				return fmt.Errorf("%s: %w", component.name, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// close releases what open got, in reverse.
func (d *Daemon) close() error {
	var errs []error
	if d.server != nil {
		errs = append(errs, d.server.Close())
	}
	if d.secrets != nil {
		errs = append(errs, d.secrets.Close())
	}
	if d.kernel != nil {
		errs = append(errs, d.kernel.Close())
	}
	if d.journal != nil {
		errs = append(errs, d.journal.Close())
	}
	return errors.Join(errs...)
}

func (d *Daemon) catalogConfig(logger *slog.Logger) catalog.Config {
	return catalog.Config{
		Addresses: d.cfg.ConsulAddresses,
		HTTPPort:  d.cfg.ConsulHTTPPort, GRPCPort: d.cfg.ConsulGRPCPort,
		TokenFile: d.cfg.ConsulTokenFile, WatchDisabled: d.cfg.ServerWatchDisabled,
		GRPCOnly: d.cfg.ConsulHTTPPort == 0,
		TLS:      d.catalogTLS(), Log: logger,
	}
}

func (d *Daemon) catalogTLS() catalog.TLS {
	t := d.cfg.TLS
	return catalog.TLS{Disabled: t.Disabled, CACerts: t.CACerts, Cert: t.Cert, Key: t.Key, ServerName: t.ServerName}
}

// machineID tells a journal that came with a copied disk; "" where there is
// none, as in containers.
func machineID() string {
	b, err := os.ReadFile("/etc/machine-id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func parseUUID(s string) (id [16]byte, err error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("journal's uuid %q is none", s)
	}
	return [16]byte(b), nil
}
