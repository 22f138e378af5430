// Package kernel puts Lictor's hook into the kernel and keeps it there.
//
// The C programs in bpf/ redirect connects to VIPs and count them; this package
// loads them, attaches them by pinned links, upgrades them in place, and gives
// the daemon typed access to the maps. README.md says who writes each word.
package kernel

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"time"
)

// MaxRanked is the most servers that one VIP is given.
const MaxRanked = 8

// MaxVIPs is the number of VIP slots; slot 0 is the probe's.
const MaxVIPs = 65536

// MaxServers is the number of server slots; slot 0 is the probe's.
const MaxServers = 1024

// Errors that callers tell apart.
var (
	// ErrLocked is returned by Open and Unload when another daemon works on the
	// same bpffs path.
	ErrLocked = errors.New("another lictord holds the bpffs path")
	// ErrNewer is returned by Open when what is pinned was written by a newer
	// version, whose layout this one does not know. Nothing was touched.
	ErrNewer = errors.New("pinned by a newer version of lictord")
	// ErrForeign is returned when something that is not Lictor's is in the way.
	ErrForeign = errors.New("not ours")
)

// Config says where the hook goes and how it judges.
type Config struct {
	BPFFS  string       // directory for pins, created; a bpffs is mounted when there is none
	Cgroup string       // cgroup-v2 directory to attach to; "": the root of the cgroup2 mount
	Pool4  netip.Prefix // IPv4 addresses that are VIPs; zero: none
	Pool6  netip.Prefix // IPv6 addresses that are VIPs; zero: none

	// How long a server is passed over, for the VIP that it failed or refused.
	HoldFailed  time.Duration // after a connect that failed; 0: 10 s
	HoldBounced time.Duration // after a bounce; 0: 15 s
	// HoldRefused is how long a server that answered a connect with a reset is
	// passed over by every VIP of the host that has another one; 0: 5 s.
	HoldRefused time.Duration

	BounceWindow time.Duration // a connection that lived longer was no bounce; 0: 2 s
	BounceBytes  uint32        // nor one that received as much; 0: 1000. With TLS 4000 is right.

	// When every server of a VIP has refused, its connects are refused on the
	// host for WaitMin, then twice as long each time, up to WaitMax.
	WaitMin time.Duration // 0: 500 ms
	WaitMax time.Duration // 0: 15 s

	RingBytes uint32       // size of the event ring when it is created, a power of two; 0: 2 MiB
	Logger    *slog.Logger // nil: nothing is logged
}

// Meta is what the kernel remembers of the journal whose promises it holds.
type Meta struct {
	Journal     [16]byte // uuid of the journal; zero before the first SetMeta
	LastPromise uint64   // sequence number of the last promise in force
}

// Histogram counts connects by the time that they took.
type Histogram struct {
	// Buckets[i] counts those that took less than 1<<i microseconds and not
	// less than the bucket before; the last one counts all longer ones too.
	Buckets [24]uint64
	Sum     time.Duration
}

// Kernel is the hook of one host. Its methods may be called from several
// goroutines, PutVIPs and DeleteVIPs from one at a time for the same key.
type Kernel struct{}

var errUnbuilt = errors.New("kernel: not built yet")

// Open loads the programs against the maps pinned under cfg.BPFFS, which it
// adopts, migrates or makes. It attaches nothing: a hook that is in effect goes
// on as it was until Attach.
func Open(ctx context.Context, cfg Config) (*Kernel, error) { return nil, errUnbuilt }

// Attach puts the programs of Open into effect, in place of those that were.
func (k *Kernel) Attach(ctx context.Context) error { return errUnbuilt }

// Close closes descriptors and the lock. The hook and its maps stay.
func (k *Kernel) Close() error { return errUnbuilt }

// Unload detaches and unpins everything of Lictor's under bpffs. It is a
// success when there is nothing.
func Unload(bpffs string) error { return errUnbuilt }

// Meta returns what SetMeta pinned.
func (k *Kernel) Meta() (Meta, error) { return Meta{}, errUnbuilt }

// SetMeta pins what the kernel is to remember of the journal.
func (k *Kernel) SetMeta(m Meta) error { return errUnbuilt }

// VIPs returns every entry, in no order.
func (k *Kernel) VIPs() ([]VIP, error) { return nil, errUnbuilt }

// PutVIPs writes whole entries. Writing the same again changes nothing.
func (k *Kernel) PutVIPs(vips []VIP) error { return errUnbuilt }

// DeleteVIPs removes entries; one that is absent is a success.
func (k *Kernel) DeleteVIPs(keys []VIPKey) error { return errUnbuilt }

// VIPState returns what the kernel wrote about a VIP.
func (k *Kernel) VIPState(slot uint32) (VIPState, error) { return VIPState{}, errUnbuilt }

// VIPStates returns what the kernel wrote about several, in the order asked.
func (k *Kernel) VIPStates(slots []uint32) ([]VIPState, error) { return nil, errUnbuilt }

// ResetVIP makes a slot as new, for a proxy that never had it.
func (k *Kernel) ResetVIP(slot uint32) error { return errUnbuilt }

// Servers returns the counters of every server slot that has any.
func (k *Kernel) Servers() (map[uint16]Counters, error) { return nil, errUnbuilt }

// Refused returns, by server slot, when the server last answered a connect of
// this host with a reset and was not reached since, on CLOCK_MONOTONIC.
func (k *Kernel) Refused() (map[uint16]time.Duration, error) { return nil, errUnbuilt }

// Latency returns how long established connects took, by server slot.
func (k *Kernel) Latency() (map[uint16]Histogram, error) { return nil, errUnbuilt }

// Reasons returns what the kernel counted by reason.
func (k *Kernel) Reasons() (map[Reason]uint64, error) { return nil, errUnbuilt }

// Events calls handle for each event, in order, until ctx ends, and returns
// nil then. One call at a time; a slow handle makes the ring overflow, which
// Reasons counts.
func (k *Kernel) Events(ctx context.Context, handle func(Event)) error { return errUnbuilt }

// Sockets lists the sockets of all namespaces that were redirected.
func (k *Kernel) Sockets() ([]Socket, error) { return nil, errUnbuilt }

// Recount compares Active with a walk over the sockets and returns, by server
// slot, by how much the counters are too high; empty when they agree.
func (k *Kernel) Recount() (map[uint16]int64, error) { return nil, errUnbuilt }

// Attachment is the hook as it was found to be in effect.
type Attachment struct {
	Cgroup   string // directory
	CgroupID uint64
	HostRoot bool     // it is the root of the host's hierarchy, not of a container's view of it
	Programs []string // attached there and ours
	Probe    string   // what a connect from outside our own cgroup proved
}

// Verify finds out whether the hook is in effect; the error says what is not.
func (k *Kernel) Verify(ctx context.Context) (Attachment, error) { return Attachment{}, errUnbuilt }

// Now is the time on the kernel's clock, CLOCK_MONOTONIC.
func (k *Kernel) Now() time.Duration { return 0 }

// Feature is one thing that the hook wants of the kernel or the host.
type Feature struct {
	Name     string
	Have     bool
	Required bool   // without it the hook does not work at all
	Why      string // what it is for
	How      string // to get it
	Err      string // of the probe, when Have is false
}

// Features is a list in the order in which to read it.
type Features []Feature

// Probe finds out what this kernel and host have.
func Probe() Features { return nil }
