package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/daemon/bootstrap"
	"github.com/lictor-mesh/lictor/daemon/owners"
	"github.com/lictor-mesh/lictor/daemon/reconcile"
	"github.com/lictor-mesh/lictor/daemon/registry"
	"github.com/lictor-mesh/lictor/daemon/server"
	"github.com/lictor-mesh/lictor/state"
)

// backend answers the API. It holds nothing of its own.
type backend struct{ *Daemon }

var _ server.Backend = backend{}

func (b backend) Register(ctx context.Context, caller server.Caller, id string, req v1.RegisterRequest) (v1.Registered, error) {
	owner, err := b.resolver.Requested(owners.Caller{
		UID: caller.UID, NetnsCookie: caller.NetnsCookie, NetnsInode: caller.NetnsInode,
	}, req)
	if err != nil {
		return v1.Registered{}, problem(err)
	}
	if strings.HasPrefix(id, registry.AdoptedPrefix) {
		return v1.Registered{}, fmt.Errorf("%w: ids that begin with %s are the daemon's own", server.ErrInvalid, registry.AdoptedPrefix)
	}
	view, err := b.registry.Register(ctx, registry.Request{
		ID: id, Node: cmp.Or(req.NodeName, b.cfg.NodeName), Namespace: req.Namespace, Partition: req.Partition,
		Owner: owner, OwnerGone: b.resolver.Gone, Override: caller.UID == 0 && named(req),
	})
	if err != nil {
		return v1.Registered{}, problem(err)
	}
	out := v1.Registered{ProxyID: id, Port: b.cfg.VIPPort, Seq: view.Seq}
	out.VIP, out.VIP6 = reachable(view)
	if refs := serverRefs(view); len(refs) > 0 {
		out.Server = &refs[0]
	}
	return out, nil
}

// named says whether a request names its owner, which only root may.
func named(req v1.RegisterRequest) bool {
	return req.Netns != "" || req.Cgroup != "" || req.Owner != ""
}

func (b backend) Deregister(ctx context.Context, caller server.Caller, id string) error {
	return problem(b.registry.Deregister(ctx, id, state.LeaveOperator, b.allow(caller)))
}

// allow refuses whoever is neither root nor in the owner's network namespace.
func (b backend) allow(caller server.Caller) func(state.Owner) error {
	return func(o state.Owner) error {
		own := o.Kind == state.OwnerNetns && o.ID == caller.NetnsCookie && reconcile.Resolved(o, b.resolver.BootID)
		if caller.UID == 0 || own {
			return nil
		}
		return fmt.Errorf("%w: the proxy belongs to another %s; ask from there, or as root", server.ErrForbidden, o.Kind)
	}
}

func (b backend) Proxies(ctx context.Context) ([]v1.Proxy, error) {
	views, err := b.registry.Views(ctx)
	if err != nil {
		return nil, problem(err)
	}
	slices.SortFunc(views, func(x, y registry.View) int { return cmp.Compare(x.ID, y.ID) })
	out := make([]v1.Proxy, 0, len(views))
	for _, v := range views {
		out = append(out, b.proxy(v))
	}
	return out, nil
}

func (b backend) Proxy(ctx context.Context, id string) (v1.Proxy, error) {
	views, err := b.registry.Views(ctx, id)
	if err != nil {
		return v1.Proxy{}, problem(err)
	}
	return b.proxy(views[0]), nil
}

func (b backend) proxy(v registry.View) v1.Proxy {
	n := v.Counters
	p := v1.Proxy{
		ProxyID: v.ID, NodeName: v.Node, Namespace: v.Namespace, Partition: v.Partition,
		Port:  b.cfg.VIPPort,
		Owner: v1.Owner{Kind: string(v.Owner.Kind), Path: v.Owner.Path, ID: v.Owner.ID, Resolved: v.Resolved},
		State: proxyState(v), Servers: serverRefs(v), HeldDown: v.Held,
		Reason: string(v.Reason), PlacedAt: v.Placed, Registered: v.Registered,
		Active: n.Active(), Total: n.Established, Failed: n.Failed, Bounced: n.Bounced,
	}
	p.VIP, p.VIP6 = reachable(v)
	return p
}

func proxyState(v registry.View) v1.ProxyState {
	switch {
	case !v.Resolved:
		return v1.ProxyNoOwner
	case v.Counters.Active() > 0:
		return v1.ProxyConnected
	case len(v.Servers) == 0:
		return v1.ProxyNoServer
	case v.Waiting:
		return v1.ProxyWaiting
	default:
		return v1.ProxyIdle
	}
}

// reachable gives the VIPs of the families that a server has: a socket of one
// family cannot be sent to the other. While no server is known both are given.
func reachable(v registry.View) (vip, vip6 string) {
	has4, has6 := len(v.Servers) == 0, len(v.Servers) == 0
	for _, s := range v.Servers {
		has4 = has4 || s.Addr4.IsValid()
		has6 = has6 || s.Addr6.IsValid()
	}
	if has4 && v.VIP.IsValid() {
		vip = v.VIP.String()
	}
	if has6 && v.VIP6.IsValid() {
		vip6 = v.VIP6.String()
	}
	return vip, vip6
}

func serverRefs(v registry.View) []v1.ServerRef {
	refs := make([]v1.ServerRef, 0, len(v.Servers))
	for _, s := range v.Servers {
		addr := s.Addr4
		if !addr.IsValid() {
			addr = s.Addr6
		}
		refs = append(refs, v1.ServerRef{ID: s.ID, Address: addr, GRPCPort: s.Port})
	}
	return refs
}

func (b backend) Bootstrap(ctx context.Context, _ server.Caller, id string) ([]byte, error) {
	views, err := b.registry.Views(ctx, id)
	if err != nil {
		return nil, problem(err)
	}
	v := views[0]
	if len(v.Servers) == 0 {
		return nil, fmt.Errorf("%w: no Consul server is known yet, so it is not known which VIP Envoy can use; see `lictor status`", server.ErrUnavailable)
	}
	addr := v.VIP
	if vip, _ := reachable(v); vip == "" {
		addr = v.VIP6
	}
	doc, err := bootstrap.Build(bootstrap.Params{
		ProxyID: id, Node: v.Node, Namespace: v.Namespace, Partition: v.Partition,
		XDS: netip.AddrPortFrom(addr, b.cfg.VIPPort),
	})
	if err != nil {
		return nil, fmt.Errorf("build the bootstrap of %s: %w", id, err)
	}
	return doc, nil
}

func (b backend) Drain(ctx context.Context, caller server.Caller, id string, drained bool) error {
	if caller.UID != 0 {
		return fmt.Errorf("%w: only root drains servers", server.ErrForbidden)
	}
	return problem(b.registry.Drain(ctx, id, fmt.Sprintf("uid %d", caller.UID), drained))
}

func (b backend) Connections(ctx context.Context, fn func(v1.ConnectionEvent) error) error {
	return b.hub.Follow(ctx, fn)
}

// problem wraps an error so that the API knows its status.
func problem(err error) error {
	for _, known := range []struct{ is, as error }{
		{registry.ErrNotRegistered, server.ErrNotFound},
		{registry.ErrIdentity, server.ErrConflict},
		{registry.ErrNotDurable, server.ErrUnavailable},
		{registry.ErrStopped, server.ErrUnavailable},
		{registry.ErrPoolFull, server.ErrExhausted},
		{owners.ErrRootOnly, server.ErrForbidden},
		{owners.ErrInvalid, server.ErrInvalid},
	} {
		if errors.Is(err, known.is) {
			return fmt.Errorf("%w: %w", known.as, err)
		}
	}
	return err
}
