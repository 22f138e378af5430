package daemon

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"strings"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/daemon/owners"
	"github.com/lictor-mesh/lictor/daemon/process"
	"github.com/lictor-mesh/lictor/daemon/registry"
	"github.com/lictor-mesh/lictor/daemon/server"
	"github.com/lictor-mesh/lictor/state"
)

// Register implements server.Backend.
func (b backend) Register(ctx context.Context, caller server.Caller, id string, req v1.RegisterRequest) (v1.Registered, error) {
	ask, err := b.request(caller, id, req)
	if err != nil {
		return v1.Registered{}, problem(err)
	}
	view, err := b.promise(ctx, ask, req.Credential)
	if err != nil {
		return v1.Registered{}, problem(err)
	}
	out := v1.Registered{ProxyID: id, Port: b.cfg.VIPPort, Seq: view.Seq, SecretsDir: b.secretsDir(view)}
	out.VIP, out.VIP6 = reachable(view)
	if refs := serverRefs(view); len(refs) > 0 {
		out.Server = &refs[0]
	}
	return out, nil
}

// request is what the registry is asked, when this caller may ask for it.
func (b backend) request(caller server.Caller, id string, req v1.RegisterRequest) (registry.Request, error) {
	if strings.HasPrefix(id, registry.AdoptedPrefix) {
		return registry.Request{}, fmt.Errorf("%w: ids that begin with %s are the daemon's own", server.ErrInvalid, registry.AdoptedPrefix)
	}
	owner, err := b.resolver.Requested(owners.Caller{
		UID: caller.UID, NetnsCookie: caller.NetnsCookie, NetnsInode: caller.NetnsInode,
	}, req)
	if err != nil {
		return registry.Request{}, err
	}
	ask := registry.Request{
		ID: id, Node: cmp.Or(req.NodeName, b.cfg.NodeName), Namespace: req.Namespace, Partition: req.Partition,
		Owner: owner, OwnerGone: b.resolver.Gone, Override: caller.UID == 0 && req.OwnerGiven(),
		UID: caller.UID, Envoy: req.Envoy,
		ProcessGone: func(p state.Process) bool { return process.Gone(p, b.resolver.BootID) },
	}
	if req.Credential != nil {
		ask.Credential = &req.Credential.Credential
	}
	if req.Process {
		ask.Process = &state.Process{
			PID: int(caller.PID), Start: caller.Start, BootID: b.resolver.BootID, UID: caller.UID, GID: caller.GID,
		}
	}
	return ask, mayAsk(caller, req)
}

// mayAsk refuses what lictord would do with root's rights for a caller that has
// not got them.
func mayAsk(caller server.Caller, req v1.RegisterRequest) error {
	if caller.UID == 0 {
		return nil
	}
	if c := req.Credential; c != nil && c.Type != state.CredentialNone && !req.Process {
		return fmt.Errorf("%w: a credential is handed to the process that is the proxy; register from it and say process, or register as root", server.ErrInvalid)
	}
	if s := req.Envoy; s != nil && s.GracefulBind != "" {
		// Checked before: it is an address and a port.
		if at, err := netip.ParseAddrPort(s.GracefulBind); err != nil || at.Port() < 1024 {
			return fmt.Errorf("%w: envoy.graceful_bind %s has a port below 1024, which is for root", server.ErrForbidden, s.GracefulBind)
		}
	}
	return nil
}
