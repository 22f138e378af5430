package daemon

import (
	"cmp"
	"context"
	"slices"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/daemon/process"
	"github.com/lictor-mesh/lictor/daemon/registry"
	"github.com/lictor-mesh/lictor/state"
)

// Proxies implements server.Backend.
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

// Proxy implements server.Backend.
func (b backend) Proxy(ctx context.Context, id string) (v1.Proxy, error) {
	views, err := b.registry.Views(ctx, id)
	if err != nil {
		return v1.Proxy{}, problem(err)
	}
	return b.proxy(views[0]), nil
}

func owner(o state.Owner, resolved bool) v1.Owner {
	return v1.Owner{Kind: string(o.Kind), Path: o.Path, ID: o.ID, Resolved: resolved}
}

func (b backend) proxy(v registry.View) v1.Proxy {
	n := v.Counters
	p := v1.Proxy{
		ProxyID: v.ID, NodeName: v.Node, Namespace: v.Namespace, Partition: v.Partition,
		Port:  b.cfg.VIPPort,
		Owner: owner(v.Owner, v.Resolved),
		State: proxyState(v), Servers: serverRefs(v), HeldDown: v.Held,
		Reason: string(v.Reason), PlacedAt: v.Placed, Registered: v.Registered,
		Active: n.Active(), Total: n.Established, Failed: n.Failed, Bounced: n.Bounced,
	}
	p.VIP, p.VIP6 = reachable(v)
	if v.Credential != nil {
		p.CredentialType = v.Credential.Type
	}
	p.CredentialState, p.CredentialProblem, p.CredentialSince = v.CredentialState, v.CredentialProblem, v.CredentialSince
	p.Envoy, p.TokenExpires = v.Envoy, v.Expires
	if v.Process != nil {
		p.Process = &v1.Process{PID: v.Process.PID}
		if info, ok := b.lifecycle.Info(v.ID); ok {
			p.Process.Alive, p.Process.Phase = info.Alive, string(info.Phase)
		} else { // it was registered a moment ago
			p.Process.Alive = !process.Gone(*v.Process, b.resolver.BootID)
		}
	}
	return p
}

// proxyStates are the API's words.
var proxyStates = map[registry.Doing]v1.ProxyState{
	registry.Idle: v1.ProxyIdle, registry.Connected: v1.ProxyConnected, registry.Waiting: v1.ProxyWaiting,
	registry.NoServer: v1.ProxyNoServer, registry.NoOwner: v1.ProxyNoOwner,
}

func proxyState(v registry.View) v1.ProxyState { return proxyStates[v.Doing()] }

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
