package server

import (
	"context"
	"errors"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

// Errors that a Backend returns, wrapped in a sentence for people; the server
// makes problem documents of them.
var (
	ErrNotFound    = errors.New("not found")    // 404
	ErrConflict    = errors.New("conflict")     // 409: the id belongs to another identity or owner
	ErrForbidden   = errors.New("forbidden")    // 403
	ErrInvalid     = errors.New("invalid")      // 422
	ErrUnavailable = errors.New("unavailable")  // 503: nothing was changed
	ErrNotYet      = errors.New("not yet")      // 503: what it needs is not there yet
	ErrExhausted   = errors.New("no VIP left")  // 507
	ErrTooOften    = errors.New("too often")    // 429: nothing was changed
	ErrGone        = errors.New("not retained") // 410: older than what the journal keeps
)

// Caller is who is at the other end of the API connection, as the kernel says.
type Caller struct {
	UID, GID    uint32
	PID         int32
	NetnsCookie uint64 // of the socket's network namespace
	NetnsInode  uint64
	// Start of the process, in clock ticks since boot, for a registration that
	// asks for its process to be watched; else 0.
	Start uint64
}

// Backend is what the API needs of the daemon. It is safe for concurrent use.
type Backend interface {
	Register(ctx context.Context, caller Caller, id string, req v1.RegisterRequest) (v1.Registered, error)
	Deregister(ctx context.Context, caller Caller, id string) error
	Proxies(ctx context.Context) ([]v1.Proxy, error)
	Proxy(ctx context.Context, id string) (v1.Proxy, error)
	History(ctx context.Context, id string) (v1.History, error)
	Bootstrap(ctx context.Context, caller Caller, id string) ([]byte, error)
	Servers(ctx context.Context) ([]v1.Server, error)
	// Drain drains a server or ends that, for this host or for the whole fleet.
	Drain(ctx context.Context, caller Caller, server string, drained, fleet bool) error
	// Fleet is what the hosts report of themselves.
	Fleet(ctx context.Context) (v1.Fleet, error)
	// StateAt gives the state after the event seq or, where at is not zero, as of
	// then, as JSON.
	StateAt(ctx context.Context, seq uint64, at time.Time) ([]byte, error)
	// Journal calls fn for each event after since, in order, and with follow
	// goes on until ctx ends.
	Journal(ctx context.Context, since uint64, follow bool, fn func(v1.JournalEvent) error) error
	// Connections calls fn for each connection event from now on, until ctx ends.
	Connections(ctx context.Context, fn func(v1.ConnectionEvent) error) error
	Status(ctx context.Context) (v1.Status, error)
}
