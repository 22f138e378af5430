package fleet

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/daemon/catalog"
)

// Fleet reads what the hosts report and what is drained for all of them. A host
// that takes no part gets only why.
func (m *Manager) Fleet(ctx context.Context) (v1.Fleet, error) {
	f := v1.Fleet{
		Node: m.cfg.Node, Status: m.Status(), Now: m.now().UTC(), Consul: m.cfg.Access,
		Hosts: []v1.FleetHost{}, Drains: []v1.FleetDrain{},
	}
	if m.cfg.Off != "" {
		return f, nil
	}
	f.Consul.URL = m.cfg.Consul.URL()
	hosts, err := m.cfg.Consul.KVList(ctx, HostPrefix, 0)
	if err != nil {
		return f, refused("read what the hosts of the fleet report", err)
	}
	drains, err := m.cfg.Consul.KVList(ctx, DrainPrefix, 0)
	if err != nil {
		return f, refused("read what is drained for the fleet", err)
	}
	if f.Partial = hosts.Filtered || drains.Filtered; f.Partial {
		f.Status.Why = strings.TrimPrefix(f.Status.Why+
			"; ACLs hide some of it from this host: give its token key_prefix \"lictor/\" read", "; ")
	}
	for _, pair := range hosts.Pairs {
		if host, ok := m.parseHost(pair); ok {
			f.Hosts = append(f.Hosts, host)
		}
	}
	for _, d := range parseDrains(drains.Pairs) {
		f.Drains = append(f.Drains, d.FleetDrain)
	}
	slices.SortFunc(f.Hosts, func(a, b v1.FleetHost) int { return cmp.Compare(a.Node, b.Node) })
	slices.SortFunc(f.Drains, func(a, b v1.FleetDrain) int { return cmp.Compare(a.Server, b.Server) })
	return f, nil
}

// parseHost reads a report. What other versions add to one is passed over.
func (m *Manager) parseHost(pair catalog.KVPair) (host v1.FleetHost, ok bool) {
	node, ok := strings.CutPrefix(pair.Key, HostPrefix)
	if !ok || node == "" {
		return host, false
	}
	if err := json.Unmarshal(pair.Value, &host); err != nil {
		host = v1.FleetHost{Unreadable: "its report is no JSON that this version of lictord reads"}
	}
	host.Node = node
	host.Silent = m.now().Sub(host.Reported) > m.timing.silent
	return host, true
}

// Drain drains a server for every host, or ends that; by is who wants it, for
// people. What holds already is success.
func (m *Manager) Drain(ctx context.Context, server, by string, drained bool) error {
	if m.cfg.Off != "" {
		return fmt.Errorf("%w: %s", ErrUnavailable, m.cfg.Off)
	}
	if !drained {
		return refused("end the fleet's drain of "+server, m.cfg.Consul.KVDelete(ctx, DrainPrefix+server))
	}
	snap, err := m.cfg.Registry.Snapshot(ctx)
	if err != nil {
		return err
	}
	if _, seen := snap.State.Slots[server]; !seen {
		return fmt.Errorf("%w: server %s was never seen on this host; `lictor servers` lists them", ErrUnknown, server)
	}
	if usable := usableServers(snap.State); usable[server] && len(usable) == 1 {
		return fmt.Errorf("%w: %s is the last server that is not drained; undrain another one first", ErrLast, server)
	}
	value, err := json.Marshal(drainValue{By: tidy(by), Since: m.now().UTC()})
	if err != nil {
		return err
	}
	if err := m.mark(ctx); err != nil {
		return refused("drain "+server+" for the fleet", err)
	}
	_, err = m.cfg.Consul.KVPut(ctx, DrainPrefix+server, value, true, "")
	return refused("drain "+server+" for the fleet", err)
}

// refused makes an error of Consul one of this package, nil staying nil.
func refused(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, catalog.ErrDenied):
		return fmt.Errorf("%w to %s: %s. Give lictord's token key_prefix \"lictor/\" write, or use a token of your own: "+
			"consul kv put %s<server>, consul kv delete %s<server>", ErrForbidden, what, sentence(err), DrainPrefix, DrainPrefix)
	default:
		return fmt.Errorf("%w, to %s: %s", ErrUnavailable, what, sentence(err))
	}
}
