package v1

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// FleetState says how a host takes part in the fleet.
type FleetState string

// States of a host in the fleet.
const (
	FleetOn  FleetState = "on"
	FleetOff FleetState = "off" // Consul is not asked for it, or does not permit it
	// FleetCut says that Consul does not answer; what was drained stays so.
	FleetCut FleetState = "no contact"
)

// FleetStatus says how this host takes part in the fleet, for GET /v1/status.
type FleetStatus struct {
	State FleetState `json:"state"`
	// Why is a sentence that says why it is off or cut, or that only half of it
	// works, and what to do to have it; "" when it all works.
	Why string `json:"why,omitempty"`
	// Problem is a sentence about what is wrong and must not stay so: two hosts of
	// one name, a drain that could not be applied. "" when nothing is.
	Problem  string    `json:"problem,omitempty"`
	Drains   []string  `json:"drains,omitempty"`     // servers drained for the fleet, in force on this host
	Waiting  []string  `json:"waiting,omitempty"`    // those drained for it that this host has never seen
	Reported time.Time `json:"reported_at,omitzero"` // when this host's report was last written
	Read     time.Time `json:"drains_at,omitzero"`   // when the fleet's drains were last read
}

// Fleet answers GET /v1/fleet: what the hosts report of themselves, by name, and
// the drains that hold for all of them, by server.
type Fleet struct {
	Node   string       `json:"node"` // this host
	Status FleetStatus  `json:"status"`
	Hosts  []FleetHost  `json:"hosts"`
	Drains []FleetDrain `json:"drains"`
	Now    time.Time    `json:"now"` // on this host
	// Partial says that ACLs hide some of it from this host: who is not listed may
	// be there.
	Partial bool `json:"partial,omitempty"`
	// Consul is how this host reaches Consul, for a command that asks there with
	// a token of its own.
	Consul FleetConsul `json:"consul"`
}

// FleetHost is a host's report of itself.
type FleetHost struct {
	Node     string        `json:"node"`
	ID       string        `json:"id"` // its journal's UUID, to tell two hosts of one name
	Version  string        `json:"version"`
	Started  time.Time     `json:"started_at,omitzero"`
	Reported time.Time     `json:"reported_at,omitzero"` // by its own clock
	Ready    bool          `json:"ready"`
	Problems []string      `json:"problems,omitempty"` // the first few
	Proxies  ProxyCounts   `json:"proxies"`
	Seq      uint64        `json:"seq"` // of its journal
	Servers  []FleetServer `json:"servers,omitempty"`
	// Stopped is when lictord there was told to stop; zero while it runs. Redirects
	// go on there.
	Stopped time.Time `json:"stopped_at,omitzero"`
	// Silent is set by who reads it: the report is older than any that a running
	// host leaves, so lictord there has ended or cannot reach Consul.
	Silent bool `json:"silent,omitempty"`
	// Unreadable says why a report cannot be read, the rest being empty then.
	Unreadable string `json:"unreadable,omitempty"`
}

// FleetServer is what a host has on a server.
type FleetServer struct {
	ID      string `json:"id"`
	Listed  bool   `json:"listed"`
	Drained bool   `json:"drained,omitempty"`
	Proxies int    `json:"proxies"`
	Active  uint64 `json:"connections_active"`
	Kept    string `json:"connections_kept,omitempty"` // why connections of a drain stay
}

// FleetDrain is a drain that holds for every host.
type FleetDrain struct {
	Server string    `json:"server"`
	By     string    `json:"by,omitempty"`
	Since  time.Time `json:"since,omitzero"` // zero when nobody noted it
}

// FleetConsul says where Consul's HTTP API is, and how it is verified. Files are
// named as the daemon sees them.
type FleetConsul struct {
	URL        string `json:"url,omitempty"` // "" while no server answers
	CACerts    string `json:"ca_certs,omitempty"`
	Cert       string `json:"tls_cert,omitempty"`
	Key        string `json:"tls_key,omitempty"`
	ServerName string `json:"tls_server_name,omitempty"`
}

// Fleet lists the hosts of the fleet and what is drained for all of them.
func (c *Client) Fleet(ctx context.Context) (Fleet, error) {
	return call[Fleet](ctx, c, http.MethodGet, "/v1/fleet", nil)
}

// DrainFleet drains a server for every host of the fleet. It is answered when
// Consul has it; each host applies it by itself.
func (c *Client) DrainFleet(ctx context.Context, server string) error {
	_, err := c.do(ctx, http.MethodPost, "/v1/servers/"+url.PathEscape(server)+"/drain?fleet=true", nil)
	return err
}

// UndrainFleet ends a drain of the whole fleet. What was drained on a host alone
// stays so.
func (c *Client) UndrainFleet(ctx context.Context, server string) error {
	_, err := c.do(ctx, http.MethodPost, "/v1/servers/"+url.PathEscape(server)+"/undrain?fleet=true", nil)
	return err
}
