package kernel

import (
	"net/netip"
	"time"
)

// VIPKey is what a socket connects to.
type VIPKey struct {
	Addr  netip.AddrPort // IPv4 or IPv6, never v4-mapped
	Proto uint16         // ProtoTCP; others are for later
}

// ProtoTCP is IPPROTO_TCP. An MPTCP socket connects by a subflow that is TCP's.
const ProtoTCP = 6

// VIP is one entry of the kernel's map: what a connect to Key becomes.
type VIP struct {
	Key   VIPKey
	Slot  uint32 // index of the VIP's words in vip_state, from 1; the IPv4 and the IPv6 VIP of a proxy share it
	Owner Owner
	// Set identifies the set of servers that placements are made from. When it
	// differs from the one under which every server refused, the kernel's
	// wait ends at once.
	Set    uint32
	Ranked []Backend // all of Key's family, best first, at most MaxRanked; empty: ECONNREFUSED
}

// Backend is a server as the kernel sees it.
type Backend struct {
	Slot uint16 // index of the server's counters, from 1
	Addr netip.AddrPort
}

// OwnerKind says what the kernel compares with the caller of connect.
type OwnerKind uint8

// Kinds of owners. The zero value denies everybody.
const (
	OwnerUnresolved = OwnerKind(lictorOwnerKindOWNER_UNRESOLVED)
	OwnerNetns      = OwnerKind(lictorOwnerKindOWNER_NETNS)
	OwnerCgroup     = OwnerKind(lictorOwnerKindOWNER_CGROUP)
	OwnerAny        = OwnerKind(lictorOwnerKindOWNER_ANY)
)

// Owner is who may connect to a VIP.
type Owner struct {
	Kind  OwnerKind
	ID    uint64 // network namespace cookie or cgroup id
	Level uint32 // of the cgroup below the hierarchy's root
}

// HoldReason says why the kernel passes over a server.
type HoldReason uint8

// Reasons for a hold-down.
const (
	HoldNone    = HoldReason(lictorHoldReasonHOLD_NONE)
	HoldFailed  = HoldReason(lictorHoldReasonHOLD_FAILED)
	HoldBounced = HoldReason(lictorHoldReasonHOLD_BOUNCED)
)

// Hold is one server's hold-down for one VIP.
type Hold struct {
	Slot   uint16 // of the server
	Reason HoldReason
	At     time.Duration // on CLOCK_MONOTONIC, when the server failed or refused
}

// VIPState is what the kernel alone writes about a VIP.
type VIPState struct {
	Slot      uint32
	LastSlot  uint16        // server of the last redirect, 0 before the first
	LastAt    time.Duration // CLOCK_MONOTONIC of that redirect
	Holds     []Hold        // those recorded, expired or not
	WaitUntil time.Duration // CLOCK_MONOTONIC; connects are refused on the host until then, as every server refused
	Counters  Counters
}

// Counters only ever grow.
//
//	redirected = attempted + failed locally
//	attempted  = established + failed + pending
//	active     = established - closed
type Counters struct {
	Redirected  uint64 // connects that were given the server's address
	Attempted   uint64 // of these, those for which TCP sent a SYN
	Established uint64
	Failed      uint64 // SYN sent, never established
	Closed      uint64 // left ESTABLISHED
	Bounced     uint64 // of Closed: ended by the server, or for want of an answer, soon after they began
	BytesIn     uint64 // from the server, added when a connection closes
	BytesOut    uint64 // to the server, likewise
}

// Active is the number of connections established and not closed. Both are
// counted on several CPUs while they are read: it can be off by what connected
// or closed meanwhile, and is never below 0.
func (c Counters) Active() uint64 { return less(c.Established, c.Closed) }

// FailedLocal is the number of connects that ended before TCP sent a SYN. It can
// be off by the connects under way, and is never below 0.
func (c Counters) FailedLocal() uint64 { return less(c.Redirected, c.Attempted) }

func less(a, b uint64) uint64 {
	if b > a {
		return 0
	}
	return a - b
}

// EventKind says what an event reports.
type EventKind uint8

// Kinds of events.
const (
	EventEstablished = EventKind(lictorEventKindEVENT_ESTABLISHED)
	EventFailed      = EventKind(lictorEventKindEVENT_FAILED) // a connect that failed, with its errno
	// EventFailedLocal: a connect that ended before TCP sent anything. It is
	// noticed at the VIP's next connect.
	EventFailedLocal = EventKind(lictorEventKindEVENT_FAILED_LOCAL)
	EventClosed      = EventKind(lictorEventKindEVENT_CLOSED)
	EventBounced     = EventKind(lictorEventKindEVENT_BOUNCED)
	EventDenied      = EventKind(lictorEventKindEVENT_DENIED)
)

// Event is one record of the ring buffer.
type Event struct {
	Kind     EventKind
	At       time.Duration // CLOCK_MONOTONIC
	VIP      netip.AddrPort
	VIPSlot  uint32
	Server   netip.AddrPort
	Slot     uint16        // of the server, 0 for EventDenied
	PID      uint32        // process (tgid), as of the connect
	Comm     string        // its name, likewise
	CgroupID uint64        // likewise
	Netns    uint64        // cookie, likewise
	Errno    uint32        // of EventFailed and EventDenied
	Denied   Reason        // of EventDenied
	Took     time.Duration // EventEstablished, EventFailed: since the connect; EventClosed, EventBounced: since established
	RTT      time.Duration // smoothed
	BytesIn  uint64
	BytesOut uint64
}

// Socket is a live connection found by walking the sockets' storage.
type Socket struct {
	VIP         netip.AddrPort
	VIPSlot     uint32
	Server      netip.AddrPort
	Slot        uint16
	Local       netip.AddrPort // its own side
	Device      uint32         // index of the one it is bound to, 0 for none
	Cookie      uint64         // of the socket
	Netns       uint64         // cookie
	PID         uint32         // process (tgid) that connected it
	Established bool
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
	Buckets [lictorLimitLATENCY_BUCKETS]uint64
	Sum     time.Duration
}
