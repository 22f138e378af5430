// Package v1 holds the types of lictord's API, version 1, and a client for it.
// Fields may be added; none is renamed or removed within the version.
package v1

import (
	"encoding/json"
	"net/netip"
	"time"

	"github.com/lictor-mesh/lictor/state"
)

// RegisterRequest is the body of PUT /v1/proxies/{id}. With an empty owner the
// owner is the caller's network namespace. Netns, Cgroup and Owner exclude each
// other and are for root only.
//
// When the proxy is registered already, what Envoy and Credential do not say at
// all (nil) is as before; a zero value means the defaults, or no credential. A
// process that is still there is as before unless Process is set.
type RegisterRequest struct {
	NodeName  string `json:"node_name,omitempty"` // "" means the daemon's --node-name
	Namespace string `json:"namespace,omitempty"`
	Partition string `json:"partition,omitempty"`
	Netns     string `json:"netns,omitempty"`  // path of a network namespace
	Cgroup    string `json:"cgroup,omitempty"` // path of a cgroup-v2 directory
	Owner     string `json:"owner,omitempty"`  // "any" or ""

	Envoy      *EnvoySettings `json:"envoy,omitempty"`
	Credential *Credential    `json:"credential,omitempty"`
	// Process says that the calling process is, or becomes by execve, the
	// proxy: when it ends, the proxy is deregistered after a hold time.
	Process bool `json:"process,omitempty"`
}

// EnvoySettings are what a proxy's bootstrap and its end of life depend on.
// Paths are named as the caller sees them.
type EnvoySettings = state.EnvoySettings

// PrometheusSettings are those of a proxy's metrics.
type PrometheusSettings = state.PrometheusSettings

// Login says how to log in with an auth method.
type Login = state.Login

// CredentialState is how a proxy stands with its credential, in a word.
type CredentialState = state.CredentialState

// Credential says how a proxy gets its ACL token. Files are opened as the
// caller sees them and with the caller's rights. The daemon keeps the two
// secrets sealed and never answers them.
type Credential struct {
	state.Credential
	Token       string `json:"token,omitempty"`        // of type "static"
	BearerToken string `json:"bearer_token,omitempty"` // of type "login", without Login.BearerTokenFile
}

// ServerRef names a server and the address at which proxies reach it.
type ServerRef struct {
	ID       string     `json:"id"`
	Address  netip.Addr `json:"address"`
	GRPCPort uint16     `json:"grpc_port"`
}

// Registered answers PUT /v1/proxies/{id}. Server is a hint, nil when there is
// none: which server a connect reaches is decided at the connect.
type Registered struct {
	ProxyID string     `json:"proxy_id"`
	VIP     string     `json:"vip,omitempty"`  // absent when no server has an IPv4 address
	VIP6    string     `json:"vip6,omitempty"` // absent when no server has an IPv6 address
	Port    uint16     `json:"port"`
	Server  *ServerRef `json:"server"`
	Seq     uint64     `json:"seq"` // of the registration in the journal
	// SecretsDir has the files that the bootstrap refers to, as the caller sees
	// it; "" when there are none.
	SecretsDir string `json:"secrets_dir,omitempty"`
}

// ProxyState says in a word what a proxy is doing.
type ProxyState string

// States of a proxy.
const (
	ProxyConnected ProxyState = "connected"            // at least one connection is established
	ProxyIdle      ProxyState = "idle"                 // nothing connected yet, or no longer
	ProxyWaiting   ProxyState = "waiting for capacity" // every server has refused it
	ProxyNoServer  ProxyState = "no server"            // no server is known for it
	ProxyNoOwner   ProxyState = "waiting for owner"    // its owner is not on the host, its VIP denies
)

// Owner says who may connect to a VIP.
type Owner struct {
	Kind     string `json:"kind"`           // "netns", "cgroup" or "any"
	Path     string `json:"path,omitempty"` // as given
	ID       uint64 `json:"id,omitempty"`   // network namespace cookie or cgroup id
	Resolved bool   `json:"resolved"`       // false: the VIP denies until the owner is there again
}

// Proxy is an assignment with its live connection counts.
type Proxy struct {
	ProxyID    string      `json:"proxy_id"`
	NodeName   string      `json:"node_name"`
	Namespace  string      `json:"namespace,omitempty"`
	Partition  string      `json:"partition,omitempty"`
	VIP        string      `json:"vip,omitempty"`
	VIP6       string      `json:"vip6,omitempty"`
	Port       uint16      `json:"port"`
	Owner      Owner       `json:"owner"`
	State      ProxyState  `json:"state"`
	Servers    []ServerRef `json:"servers"` // ranked, the first being in use
	HeldDown   []string    `json:"held_down,omitempty"`
	Reason     string      `json:"reason"` // of the placement
	PlacedAt   time.Time   `json:"placed_at"`
	Registered time.Time   `json:"registered_at"`
	Active     uint64      `json:"connections_active"`
	Total      uint64      `json:"connections_total"` // established, since the VIP was given
	Failed     uint64      `json:"connections_failed"`
	Bounced    uint64      `json:"connections_bounced"`

	Envoy   *EnvoySettings `json:"envoy,omitempty"`
	Process *Process       `json:"process,omitempty"`
	// CredentialType is "" without a credential.
	CredentialType    state.CredentialType `json:"credential_type,omitempty"`
	CredentialState   CredentialState      `json:"credential_state,omitempty"` // "" when not known yet
	CredentialProblem string               `json:"credential_problem,omitempty"`
	CredentialSince   time.Time            `json:"credential_since,omitzero"`
	TokenExpires      time.Time            `json:"token_expires_at,omitzero"` // zero: never, or not by login
}

// Process is the process that a proxy is.
type Process struct {
	PID   int    `json:"pid"`
	Alive bool   `json:"alive"`
	Phase string `json:"phase,omitempty"` // such as "running", "draining", "gone"
}

// Proxies answers GET /v1/proxies.
type Proxies struct {
	Proxies []Proxy `json:"proxies"`
}

// Server is a Consul server with what this host knows of it.
type Server struct {
	ID        string    `json:"id"`
	Addresses []string  `json:"addresses"`
	GRPCPort  uint16    `json:"grpc_port"`
	Version   string    `json:"version,omitempty"`
	Listed    bool      `json:"listed"` // the catalog lists it as passing
	Drained   bool      `json:"drained"`
	DrainedBy string    `json:"drained_by,omitempty"`
	Since     time.Time `json:"since,omitzero"` // listed since
	Proxies   int       `json:"proxies"`        // of this host that have it first
	Active    uint64    `json:"connections_active"`
	// Kept says why connections to a drained or gone server are not being closed
	// now; "" when there are none, or they are.
	Kept        string `json:"connections_kept,omitempty"`
	Redirected  uint64 `json:"connections_redirected"`
	Attempted   uint64 `json:"connections_attempted"`
	Established uint64 `json:"connections_established"`
	Failed      uint64 `json:"connections_failed"`
	FailedLocal uint64 `json:"connections_failed_local"`
	Bounced     uint64 `json:"connections_bounced"`
	BytesIn     uint64 `json:"bytes_received"`
	BytesOut    uint64 `json:"bytes_sent"`
}

// Servers answers GET /v1/servers.
type Servers struct {
	Servers []Server `json:"servers"`
}

// JournalEvent is one line of GET /v1/journal and of a proxy's history.
type JournalEvent struct {
	Seq  uint64          `json:"seq"`
	Time time.Time       `json:"time"`
	Kind string          `json:"kind"`
	Data json.RawMessage `json:"data"`
}

// History answers GET /v1/proxies/{id}/history, oldest first.
type History struct {
	ProxyID string         `json:"proxy_id"`
	Events  []JournalEvent `json:"events"`
	// Oldest is the oldest sequence number that the journal still retains.
	Oldest uint64 `json:"oldest_retained"`
}

// ConnectionsDropped is the Kind of a line that says how many events were lost
// before it, here or in the kernel.
const ConnectionsDropped = "dropped"

// ConnectionEvent is one line of GET /v1/connections.
type ConnectionEvent struct {
	Kind     string    `json:"kind"` // established, failed, failed_local, closed, bounced, denied, dropped
	Time     time.Time `json:"time"`
	ProxyID  string    `json:"proxy_id,omitempty"`
	VIP      string    `json:"vip,omitempty"`
	Server   string    `json:"server,omitempty"`
	Address  string    `json:"address,omitempty"` // of the server
	PID      uint32    `json:"pid,omitempty"`
	Comm     string    `json:"comm,omitempty"`
	CgroupID uint64    `json:"cgroup_id,omitempty"`
	Errno    string    `json:"errno,omitempty"`  // such as "ECONNREFUSED"
	Reason   string    `json:"reason,omitempty"` // of denied
	TookMS   float64   `json:"took_ms,omitempty"`
	RTTMS    float64   `json:"rtt_ms,omitempty"`
	BytesIn  uint64    `json:"bytes_received,omitempty"`
	BytesOut uint64    `json:"bytes_sent,omitempty"`
	Dropped  uint64    `json:"dropped,omitempty"`
}

// Status answers GET /v1/status.
type Status struct {
	Version    string      `json:"version"`
	Node       string      `json:"node"`
	PID        int         `json:"pid"`
	Started    time.Time   `json:"started_at"`
	Ready      bool        `json:"ready"`
	Problems   []string    `json:"problems"` // sentences, each with what to do; empty when all is well
	Attachment Attachment  `json:"attachment"`
	Consul     Consul      `json:"consul"`
	Journal    Journal     `json:"journal"`
	Proxies    ProxyCounts `json:"proxies"`
	Servers    int         `json:"servers"`
	// Reasons counts refused connects and other kernel events by reason.
	Reasons map[string]uint64 `json:"reasons"`
	// Drift counts repaired differences between the kernel's maps and the state, by kind.
	Drift map[string]uint64 `json:"drift"`
	Ring  Ring              `json:"ring"`
	Fleet FleetStatus       `json:"fleet,omitzero"`
	Pools []string          `json:"pools"` // CIDRs of the VIPs
}

// ProxyCounts counts proxies by what they are doing.
type ProxyCounts struct {
	Total   int `json:"total"`
	Waiting int `json:"waiting_for_capacity"`
	NoOwner int `json:"waiting_for_owner"`
	// Credentials counts proxies that have a credential, or trouble with the
	// servers' TLS, by how they stand.
	Credentials map[CredentialState]int `json:"credentials,omitempty"`
}

// Attachment says whether the hook is in effect, as verified.
type Attachment struct {
	InEffect bool      `json:"in_effect"`
	Cgroup   string    `json:"cgroup"`
	CgroupID uint64    `json:"cgroup_id"`
	Verified time.Time `json:"verified_at"`
	Problem  string    `json:"problem,omitempty"`
}

// Consul says how the daemon stands with Consul.
type Consul struct {
	Address     string    `json:"address,omitempty"`        // asked last
	LastContact time.Time `json:"last_contact_at,omitzero"` // zero: never in this process
	NoContact   time.Time `json:"no_contact_since,omitzero"`
	Errors      uint64    `json:"query_errors"`
	LastError   string    `json:"last_error,omitempty"`
}

// Journal says where the journal stands.
type Journal struct {
	UUID     string `json:"uuid"`
	Seq      uint64 `json:"seq"`
	Oldest   uint64 `json:"oldest_retained"`
	Bytes    int64  `json:"bytes"`
	Pending  int    `json:"placements_pending"` // in force, not journaled yet
	Writable bool   `json:"writable"`
	Problem  string `json:"problem,omitempty"`
}

// Ring counts the events of the kernel's ring buffer.
type Ring struct {
	Events  map[string]uint64 `json:"events"` // by kind
	Dropped uint64            `json:"dropped"`
}

// Problem is an RFC 9457 problem document, the body of every error.
type Problem struct {
	Type   string `json:"type"`  // URN that programs may test: urn:lictor:problem:not-found
	Title  string `json:"title"` // the same for every problem of the type
	Status int    `json:"status"`
	Detail string `json:"detail"` // what happened and what to do, in a sentence
}
