// Package state holds the facts of a Lictor host as a fold of events.
//
// It knows no clock, no disk and no kernel. Package journal keeps the events,
// package daemon decides on new ones; both use Fold, so a replayed state is the
// state that was.
package state

import "time"

// State is a fold of the journal up to Seq. The zero value is not ready to
// use; New makes the state before the first event.
//
// What the maps point to is never written after it was put there: Fold replaces
// an entry, it does not change one. So a Clone is cheap and may be read while
// the original is folded further. The maps themselves are not safe for
// concurrent use.
type State struct {
	Seq       uint64                 // of the last journaled event folded
	Time      time.Time              // the latest time of an event folded
	Servers   map[string]*Server     // by id: those listed
	Drained   map[string]Drain       // by server id, listed or not
	Proxies   map[string]*Proxy      // by id
	Resting   map[uint32]time.Time   // VIP index → when its proxy left
	LastIndex uint32                 // VIP index given last; the search for the next begins after it
	Slots     map[string]SlotTenure  // by server id: who had which slot, listed or gone
	Logins    map[string]LoginRecord // by accessor: tokens to be deleted when their proxies are gone
	Swept     time.Time              // when Resting was last cleared of what is older than MaxRest

	used map[uint32]int // VIP index → proxies that hold it; derived from Proxies
}

// Server is a listed server.
type Server struct {
	ServerSpec
	Since time.Time `json:"since"` // when it was listed
}

// Drain is an operator's wish to have no proxy on a server.
type Drain struct {
	By    string    `json:"by"`
	Since time.Time `json:"since"`
}

// SlotTenure is a server's hold of a slot of the kernel's counters. It outlives
// the server's listing, so that a server that comes back keeps its counters.
type SlotTenure struct {
	Slot uint16    `json:"slot"`
	Gone time.Time `json:"gone,omitzero"` // when the server was last unlisted; zero while it is listed
}

// Proxy is an assignment: a registration and its placement.
type Proxy struct {
	Registration
	Known      bool        `json:"known"`            // Consul's catalog has been seen to know it
	Registered time.Time   `json:"registered"`       // when
	Seq        uint64      `json:"seq"`              // of the registration in the journal
	Ranked     []string    `json:"ranked,omitempty"` // server ids, the first in use
	Reason     PlaceReason `json:"reason,omitempty"` // of the placement
	Placed     time.Time   `json:"placed,omitzero"`  // when; zero before the first placement

	CredentialState   CredentialState `json:"credential_state,omitempty"`   // "" when not known yet
	CredentialProblem string          `json:"credential_problem,omitempty"` // a sentence; "" when there is none
	CredentialSince   time.Time       `json:"credential_since,omitzero"`    // when it became so
}
