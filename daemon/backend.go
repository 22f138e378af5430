package daemon

import (
	"context"
	"errors"
	"fmt"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/daemon/fleet"
	"github.com/lictor-mesh/lictor/daemon/owners"
	"github.com/lictor-mesh/lictor/daemon/reconcile"
	"github.com/lictor-mesh/lictor/daemon/registry"
	"github.com/lictor-mesh/lictor/daemon/server"
	"github.com/lictor-mesh/lictor/state"
)

// backend answers the API. It holds nothing of its own.
type backend struct{ *Daemon }

var _ server.Backend = backend{}

// Deregister implements server.Backend.
func (b backend) Deregister(ctx context.Context, caller server.Caller, id string) error {
	err := b.registry.Deregister(ctx, id, state.LeaveOperator, b.allow(caller))
	if err == nil {
		b.credentials.Wake()
		b.lifecycle.Look()
	}
	return problem(err)
}

// allow refuses whoever may not use a proxy.
func (b backend) allow(caller server.Caller) func(*state.Proxy) error {
	return func(p *state.Proxy) error {
		return caller.MayUse(p.ID, owner(p.Owner, reconcile.Resolved(p.Owner, b.resolver.BootID)))
	}
}

// Drain implements server.Backend.
func (b backend) Drain(ctx context.Context, caller server.Caller, id string, drained, forFleet bool) error {
	if caller.UID != 0 {
		return fmt.Errorf("%w: only root drains servers", server.ErrForbidden)
	}
	by := fmt.Sprintf("uid %d", caller.UID)
	if forFleet {
		return problem(b.fleet.Drain(ctx, id, by+" on "+b.cfg.NodeName, drained))
	}
	if by, held := b.fleet.Holds(id); held && !drained {
		return fmt.Errorf("%w: %s is drained for the whole fleet, by %s; `lictor undrain %s --fleet` ends that", server.ErrConflict, id, by, id)
	}
	return problem(b.registry.Drain(ctx, id, by, drained))
}

// Fleet implements server.Backend.
func (b backend) Fleet(ctx context.Context) (v1.Fleet, error) {
	f, err := b.fleet.Fleet(ctx)
	return f, problem(err)
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
		{registry.ErrTooOften, server.ErrTooOften},
		{fleet.ErrForbidden, server.ErrForbidden},
		{fleet.ErrUnavailable, server.ErrUnavailable},
		{fleet.ErrUnknown, server.ErrNotFound},
		{fleet.ErrLast, server.ErrConflict},
		{owners.ErrRootOnly, server.ErrForbidden},
		{owners.ErrInvalid, server.ErrInvalid},
	} {
		if errors.Is(err, known.is) {
			return fmt.Errorf("%w: %w", known.as, err)
		}
	}
	return err
}
