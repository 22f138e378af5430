package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/lictor-mesh/lictor/daemon/bootstrap"
	"github.com/lictor-mesh/lictor/daemon/catalog"
	"github.com/lictor-mesh/lictor/daemon/credentials"
	"github.com/lictor-mesh/lictor/daemon/process"
	"github.com/lictor-mesh/lictor/daemon/registry"
	"github.com/lictor-mesh/lictor/daemon/secrets"
	"github.com/lictor-mesh/lictor/daemon/server"
	"github.com/lictor-mesh/lictor/state"
)

// Bootstrap implements server.Backend. What it refers to is there when it is
// handed out: the VIP in the map, the files in the proxy's directory. What is
// not there yet, in Consul or on this host, is ErrNotYet.
func (b backend) Bootstrap(ctx context.Context, _ server.Caller, id string) ([]byte, error) {
	views, err := b.registry.Views(ctx, id)
	if err != nil {
		return nil, problem(err)
	}
	v := views[0]
	if err := askable(v); err != nil {
		return nil, err
	}
	files, err := b.credentials.Ready(ctx, id)
	if err != nil {
		return nil, notYet(err)
	}
	central, err := b.catalog.BootstrapParams(ctx, catalog.ParamsQuery{
		Token: files.Token, ProxyID: id, Node: v.Node, Namespace: v.Namespace, Partition: v.Partition, TLS: files.TLS,
	})
	if err != nil {
		return nil, notYet(err)
	}
	params, err := b.params(ctx, v, files, central)
	if err != nil {
		return nil, err
	}
	document, err := bootstrap.Build(params)
	if wrong := (*bootstrap.ConfigError)(nil); errors.As(err, &wrong) {
		return nil, fmt.Errorf("%w: %w", server.ErrInvalid, err)
	}
	if err != nil {
		return nil, fmt.Errorf("build the bootstrap of %s: %w", id, err)
	}
	return document, nil
}

// askable says what keeps Consul from being asked about a proxy.
func askable(v registry.View) error {
	switch {
	case v.Node == "":
		return fmt.Errorf("%w: %s is a VIP that was found in the kernel, and Consul's name of its proxy is not known; "+
			"register that proxy anew, then deregister this one", server.ErrInvalid, v.ID)
	case len(v.Servers) == 0:
		return fmt.Errorf("%w: no Consul server is known yet, so it is not known which VIP Envoy can use; see `lictor status`", server.ErrNotYet)
	}
	return nil
}

// params puts together what the bootstrap is made of.
func (b backend) params(ctx context.Context, v registry.View, files credentials.Files, central catalog.Params) (bootstrap.Params, error) {
	p := bootstrap.Params{
		ProxyID: v.ID, Node: v.Node, Namespace: v.Namespace, Partition: v.Partition,
		XDS: netip.AddrPortFrom(b.xdsAddr(v), b.cfg.VIPPort),
		Central: bootstrap.Central{
			Service: central.Service, Identity: central.Identity, Datacenter: central.Datacenter,
			Namespace: central.Namespace, Partition: central.Partition, NodeName: central.NodeName,
			Config: central.Config, AccessLogs: central.AccessLogs,
		},
		Env: b.environment(v.Process),
	}
	if v.Envoy != nil {
		p.Settings = *v.Envoy
	}
	if files.Token != "" {
		p.TokenFile = filepath.Join(files.Dir, bootstrap.TokenFile)
	}
	if files.CA {
		p.TLS = &bootstrap.TLS{CAFile: filepath.Join(files.Dir, bootstrap.CAFile), ServerName: b.cfg.TLS.ServerName}
		if p.Settings.ServerName != "" {
			p.TLS.ServerName = p.Settings.ServerName
		}
		if files.Client {
			p.TLS.ClientFile = filepath.Join(files.Dir, bootstrap.ClientFile)
		}
	}
	if prom := p.Settings.Prometheus; prom != nil && prom.CACertsPath != "" {
		cas, err := b.readCAs(ctx, v, prom.CACertsPath)
		if err != nil {
			return p, fmt.Errorf("%w: envoy.prometheus.ca_certs_path: %w", server.ErrInvalid, err)
		}
		p.PrometheusCAs = cas
	}
	return p, nil
}

// xdsAddr is the VIP of a family that a server has.
func (b backend) xdsAddr(v registry.View) netip.Addr {
	if vip, _ := reachable(v); vip == "" {
		return v.VIP6
	}
	return v.VIP
}

// maxCAs bounds the certificates of a directory, in bytes.
const maxCAs = 1 << 20

// readCAs reads a directory of certificates, as the proxy sees it.
func (b backend) readCAs(ctx context.Context, v registry.View, dir string) ([]byte, error) {
	var view *secrets.View
	var err error
	if v.Process != nil {
		view, err = secrets.OfProcess(*v.Process, b.resolver.BootID)
	} else {
		view, err = secrets.Host(v.ID)
	}
	if err != nil {
		return nil, err
	}
	content, err := view.ReadDir(ctx, dir, maxCAs)
	return content, errors.Join(err, view.Close())
}

// environment looks up variables of a process as it was started. A process
// that is not watched has none that is known, and one that has ended serves
// nobody.
func (b backend) environment(p *state.Process) func(string) (string, bool) {
	if p == nil {
		return nil
	}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.PID))
	if err != nil || process.Gone(*p, b.resolver.BootID) { // its pid may be another's
		return nil
	}
	return bootstrap.Environ(string(raw))
}

// notYet marks what a caller may ask for again, in the words of its sentence.
func notYet(err error) error {
	var problem *catalog.Problem
	var waiting *credentials.NotReadyError
	switch {
	case errors.As(err, &waiting):
		return fmt.Errorf("%w: %s", server.ErrNotYet, waiting.Sentence)
	case errors.As(err, &problem):
		return fmt.Errorf("%w: %s", server.ErrNotYet, problem.Sentence)
	}
	return err
}
