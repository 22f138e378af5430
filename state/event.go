package state

import (
	"net/netip"
	"time"
)

// Event is one fact of the journal. Everything that Fold needs is inside it:
// time, ids and the results of decisions, never their inputs.
//
// Seq and Time are stamped by the journal when the event is appended. An event
// that is in force before it is journaled (a placement, a change of servers) is
// folded with Seq 0 and carries its own time in its body, so that a replay gives
// the same state.
type Event struct {
	Seq  uint64    // position in the journal, 1 for the first; 0 when not journaled yet
	Time time.Time // UTC, never before the time of the previous event
	Body Body      // what happened
}

// Body is what happened: one of the types below, by value.
type Body interface {
	// Kind is the name under which the event is journaled.
	Kind() Kind
	// ProxyID names the proxy whose history the event belongs to, or "".
	ProxyID() string
}

// Kind names a type of event, in the journal and in the API.
type Kind string

// The kinds of events.
const (
	KindServerSeen        Kind = "ServerSeen"
	KindServerChanged     Kind = "ServerChanged"
	KindServerGone        Kind = "ServerGone"
	KindServerDrained     Kind = "ServerDrained"
	KindServerUndrained   Kind = "ServerUndrained"
	KindProxyRegistered   Kind = "ProxyRegistered"
	KindProxyChanged      Kind = "ProxyChanged"
	KindProxyDeregistered Kind = "ProxyDeregistered"
	KindPlaced            Kind = "Placed"
	KindLoggedIn          Kind = "LoggedIn"
	KindLoggedOut         Kind = "LoggedOut"
	KindCredentialChanged Kind = "CredentialChanged"
)

// Kinds lists every kind of event that this version knows.
var Kinds = []Kind{
	KindServerSeen, KindServerChanged, KindServerGone, KindServerDrained, KindServerUndrained,
	KindProxyRegistered, KindProxyChanged, KindProxyDeregistered, KindPlaced,
	KindLoggedIn, KindLoggedOut, KindCredentialChanged,
}

// ServerSeen says that the catalog lists a server that was not there before.
type ServerSeen struct {
	Server ServerSpec `json:"server"`
	// At is when that came into force, where it was before it is journaled.
	// Zero means the time of the event.
	At time.Time `json:"at,omitzero"`
}

// ServerChanged says that a listed server has a new address, port or version.
type ServerChanged struct {
	Server ServerSpec `json:"server"`
}

// ServerGone says that the catalog no longer lists a server as passing.
type ServerGone struct {
	ID string    `json:"id"`
	At time.Time `json:"at,omitzero"` // as that of ServerSeen
}

// ServerDrained says that an operator wants no proxy on a server. It holds for
// a server that is not listed too, and ends only with ServerUndrained.
type ServerDrained struct {
	ID string `json:"id"`
	By string `json:"by"` // who asked, for people: "uid 0"
}

// ServerUndrained ends ServerDrained.
type ServerUndrained struct {
	ID string `json:"id"`
	By string `json:"by"`
}

// ProxyRegistered promises a VIP to a proxy.
type ProxyRegistered struct {
	Proxy Registration `json:"proxy"`
}

// ProxyChanged replaces the owner, the settings, the credential or the process
// of a registered proxy, or says that Consul's catalog has been seen to know it.
// Its identity and its VIP never change. What is nil is as before; a zero value
// of Envoy, Credential or Process ends what was.
type ProxyChanged struct {
	ID         string         `json:"id"`
	Owner      *Owner         `json:"owner,omitempty"`
	Known      *bool          `json:"known,omitempty"`
	Envoy      *EnvoySettings `json:"envoy,omitempty"`
	Credential *Credential    `json:"credential,omitempty"`
	Process    *Process       `json:"process,omitempty"`
}

// ProxyDeregistered ends a registration. Its VIP rests from the event's time on.
type ProxyDeregistered struct {
	ID     string      `json:"id"`
	Reason LeaveReason `json:"reason"`
}

// LeaveReason says why a registration ended.
type LeaveReason string

// Reasons for which a registration ends.
const (
	LeaveOperator    LeaveReason = "operator"     // DELETE /v1/proxies/{id}
	LeaveCatalogGone LeaveReason = "catalog-gone" // Consul knew the proxy and no longer does
	LeaveOwnerGone   LeaveReason = "owner-gone"   // its namespace or cgroup is gone from the host
	LeaveProcessGone LeaveReason = "process-gone" // its process ended, and no other took its place in time
)

// Placed says which servers a proxy uses from now on, best first.
type Placed struct {
	ID     string      `json:"id"`
	Ranked []string    `json:"ranked"` // server ids, the first in use; empty when there is none
	Reason PlaceReason `json:"reason"`
	// At is when the placement came into force, which is before it is
	// journaled. Zero means the time of the event.
	At time.Time `json:"at,omitzero"`
}

// PlaceReason says why a proxy was placed.
type PlaceReason string

// Reasons for a placement.
const (
	PlaceInitial       PlaceReason = "initial"
	PlaceServerGone    PlaceReason = "server-gone"
	PlaceRebalance     PlaceReason = "rebalance"
	PlaceConnectFailed PlaceReason = "connect-failed" // the kernel moved on after a failed connect
	PlaceBounced       PlaceReason = "bounced"        // the kernel moved on after a bounce
	PlaceOperator      PlaceReason = "operator"       // a drain, or the end of one
)

// LoggedIn says that an auth method issued a token for a proxy. The token is to
// be deleted in Consul one day, whatever becomes of the proxy.
type LoggedIn struct {
	ID         string    `json:"id"`       // of the proxy
	Accessor   string    `json:"accessor"` // the token's public name
	AuthMethod string    `json:"auth_method"`
	Datacenter string    `json:"datacenter,omitempty"`
	Namespace  string    `json:"namespace,omitempty"`
	Partition  string    `json:"partition,omitempty"`
	Expires    time.Time `json:"expires,omitzero"` // zero: never
	Key        string    `json:"key"`              // names the sealed file that has the token
}

// LoggedOut says that a token of LoggedIn is deleted in Consul, so that its
// sealed file may go.
type LoggedOut struct {
	ID       string `json:"id"` // of the proxy, which may be gone
	Accessor string `json:"accessor"`
}

// CredentialChanged says how a proxy stands with its credential from now on.
type CredentialChanged struct {
	ID      string          `json:"id"`
	State   CredentialState `json:"state"`
	Problem string          `json:"problem,omitempty"` // a sentence with what to do; "" when there is none
}

// ServerSpec is what the catalog says of a server.
type ServerSpec struct {
	ID      string     `json:"id"`             // Consul's node name, unique in a datacenter; host:port when only an address was given
	Slot    uint16     `json:"slot"`           // index of its counters in the kernel's maps, from 1
	Addr4   netip.Addr `json:"addr4,omitzero"` // zero when it has no IPv4 address
	Addr6   netip.Addr `json:"addr6,omitzero"` // zero when it has no IPv6 address
	Port    uint16     `json:"port"`           // the gRPC port that proxies use: gRPC with TLS unless TLS is off
	Version string     `json:"version,omitempty"`
}

// Registration is what a proxy was promised.
type Registration struct {
	ID        string     `json:"id"` // unique on the host
	Node      string     `json:"node"`
	Namespace string     `json:"namespace,omitempty"`
	Partition string     `json:"partition,omitempty"`
	Owner     Owner      `json:"owner"`
	Index     uint32     `json:"index"`         // of the VIP within each pool, and of its slot in the kernel's maps, from 1
	VIP       netip.Addr `json:"vip,omitzero"`  // zero without an IPv4 pool
	VIP6      netip.Addr `json:"vip6,omitzero"` // zero without an IPv6 pool

	Envoy      *EnvoySettings `json:"envoy,omitempty"`      // nil: the defaults
	Credential *Credential    `json:"credential,omitempty"` // nil: none
	Process    *Process       `json:"process,omitempty"`    // nil: its end is not watched for
}

// Owner is who may connect to a VIP.
type Owner struct {
	Kind OwnerKind `json:"kind"`
	// Path of the network namespace or cgroup, absolute, where the caller gave
	// one.
	Path string `json:"path,omitempty"`
	// ID is the network namespace's cookie or the cgroup's id; it means
	// something only until the host reboots. 0 when not resolved.
	ID uint64 `json:"cookie,omitempty"`
	// Inode of the network namespace, to find out whether it is still there.
	Inode uint64 `json:"inode,omitempty"`
	// Level of the cgroup below the root of the hierarchy, from 1.
	Level uint32 `json:"level,omitempty"`
	// BootID of the boot in which ID and Inode were read, from
	// /proc/sys/kernel/random/boot_id.
	BootID string `json:"boot_id,omitempty"`
}

// OwnerKind says what is compared with the caller of connect.
type OwnerKind string

// Kinds of owners.
const (
	OwnerNetns  OwnerKind = "netns"
	OwnerCgroup OwnerKind = "cgroup"
	OwnerAny    OwnerKind = "any"
)
