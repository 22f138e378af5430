package kernel

import "fmt"

// Reason says why a connect to a pool's address was not redirected, or what
// else the kernel counts once each.
type Reason uint8

// Reasons that deny.
const (
	ReasonNone            = Reason(lictorReasonREASON_NONE)
	ReasonStranger        = Reason(lictorReasonREASON_STRANGER)         // EPERM: not the VIP's owner
	ReasonOwnerUnresolved = Reason(lictorReasonREASON_OWNER_UNRESOLVED) // EPERM: the owner is not known since the reboot
	ReasonNoEntry         = Reason(lictorReasonREASON_NO_ENTRY)         // ECONNREFUSED: an address of a pool that is no VIP
	ReasonNoServer        = Reason(lictorReasonREASON_NO_SERVER)        // ECONNREFUSED: a VIP without servers
	ReasonWaiting         = Reason(lictorReasonREASON_WAITING)          // ECONNREFUSED: every server refused a moment ago
	ReasonTorn            = Reason(lictorReasonREASON_TORN)             // ECONNREFUSED: the entry is damaged, or was rewritten faster than it could be read
	ReasonUDPSend         = Reason(lictorReasonREASON_UDP_SEND)         // EPERM: a datagram to a pool's address
)

// Reasons that do not deny.
const (
	ReasonForeign     = Reason(lictorReasonREASON_FOREIGN)      // another program had denied the connect before ours ran
	ReasonUntracked   = Reason(lictorReasonREASON_UNTRACKED)    // redirected, but without memory for its socket: in no other count
	ReasonSockopt     = Reason(lictorReasonREASON_SOCKOPT)      // keepalive or user timeout could not be set
	ReasonElsewhere   = Reason(lictorReasonREASON_ELSEWHERE)    // another program changed the address after ours ran
	ReasonRingDropped = Reason(lictorReasonREASON_RING_DROPPED) // the event ring was full
)

var reasonNames = [lictorReasonREASON_MAX]string{
	ReasonNone:            "none",
	ReasonStranger:        "stranger",
	ReasonOwnerUnresolved: "owner-unresolved",
	ReasonNoEntry:         "no-entry",
	ReasonNoServer:        "no-server",
	ReasonWaiting:         "waiting",
	ReasonTorn:            "torn",
	ReasonUDPSend:         "udp-send",
	ReasonForeign:         "denied-elsewhere",
	ReasonUntracked:       "untracked",
	ReasonSockopt:         "sockopt-failed",
	ReasonElsewhere:       "readdressed-elsewhere",
	ReasonRingDropped:     "ring-dropped",
}

// String is the value of a metric's label.
func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return fmt.Sprintf("reason-%d", uint8(r))
}

// Denies says whether the reason ended a connect.
func (r Reason) Denies() bool { return r >= ReasonStranger && r <= ReasonUDPSend }
