package metrics

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/daemon/catalog"
	"github.com/lictor-mesh/lictor/daemon/reconcile"
)

// Journal is the journal's part of a reading.
type Journal struct {
	Seq      uint64
	Bytes    int64
	Writable bool
	Pending  int // facts in force that are not journaled yet
}

// Consul is the catalog's part of a reading.
type Consul struct {
	Contact     bool                      // the last query was answered
	LastContact time.Time                 // zero: never
	Failed      map[catalog.Reason]uint64 // queries
}

// Fleet is how the host takes part in the fleet.
type Fleet struct {
	State    v1.FleetState
	Drains   int       // of the fleet, in force on this host
	Waiting  int       // of the fleet, of servers that this host has never seen
	Reported time.Time // when this host's report was last written; zero: never
}

// The values of labels are closed sets, each given when it is 0 too, so that an
// alert has something to compare.
var (
	proxyStates = []v1.ProxyState{
		v1.ProxyConnected, v1.ProxyIdle, v1.ProxyWaiting, v1.ProxyNoServer, v1.ProxyNoOwner,
	}
	fleetStates = []v1.FleetState{v1.FleetOn, v1.FleetOff, v1.FleetCut}
	driftKinds  = []reconcile.Drift{reconcile.DriftMissing, reconcile.DriftChanged, reconcile.DriftUnknown, reconcile.DriftConnections}
)

// label makes a label's value of a word for people.
func label[S ~string](s S) string { return strings.ReplaceAll(string(s), " ", "-") }

// healthDescs are the metrics of the daemon itself and of its surroundings.
type healthDescs struct {
	ready, hook, states, drift     *prometheus.Desc
	seq, size, writable, pending   *prometheus.Desc
	contact, last, errors          *prometheus.Desc
	fleet, fleetDrains, fleetWrote *prometheus.Desc
}

func newHealthDescs() healthDescs {
	return healthDescs{
		ready:    desc("ready", "1 while /readyz says so: the hook is in effect, the journal writable, a server known."),
		hook:     desc("hook_in_effect", "1 while the hook was verified, in the last seconds, to redirect connects; 0: connects to VIPs fail."),
		states:   desc("proxy_states", "Registered proxies by what they are doing.", "state"),
		drift:    desc("reconcile_drift_total", "Differences between the kernel's map and the state that were repaired, by kind; connections: by how many the kernel's counts of live ones were off at the start, which stays.", "kind"),
		seq:      desc("journal_seq", "Sequence number of the last journaled event."),
		size:     desc("journal_bytes", "Size of the journal's file."),
		writable: desc("journal_writable", "1 while the journal can be written; 0: registrations and drains are refused, redirects and failover go on."),
		pending:  desc("journal_pending_events", "Placements that are in force and not journaled yet."),
		contact:  desc("consul_contact", "1 while a Consul server answers; 0: the last known servers stay in force."),
		last:     desc("consul_last_contact_timestamp_seconds", "When a Consul server last answered; 0 if none has. A query that waits for changes takes minutes."),
		errors:   desc("consul_query_errors_total", "Queries to Consul that failed, by reason.", "reason"),
		fleet:    desc("fleet_state", "1 for how the host takes part in the fleet, 0 for the other states.", "state"),
		fleetDrains: desc("fleet_drains", "Servers drained for the fleet, in force on this host (applied), and those of which this host knows no server (waiting).",
			"state"),
		fleetWrote: desc("fleet_report_timestamp_seconds", "When this host last wrote its report for the fleet; 0 if it has not."),
	}
}

func (d healthDescs) describe(ch chan<- *prometheus.Desc) {
	for _, one := range []*prometheus.Desc{
		d.ready, d.hook, d.states, d.drift, d.seq, d.size, d.writable, d.pending,
		d.contact, d.last, d.errors, d.fleet, d.fleetDrains, d.fleetWrote,
	} {
		ch <- one
	}
}

func (d healthDescs) collect(ch chan<- prometheus.Metric, r Reading) {
	ch <- gauge(d.ready, truth(r.Ready))
	ch <- gauge(d.hook, truth(r.Hook))
	for _, s := range proxyStates {
		ch <- gauge(d.states, float64(r.Proxies[s]), label(s))
	}
	for _, kind := range driftKinds {
		ch <- counter(d.drift, r.Drift[string(kind)], string(kind))
	}
	ch <- gauge(d.seq, float64(r.Journal.Seq))
	ch <- gauge(d.size, float64(r.Journal.Bytes))
	ch <- gauge(d.writable, truth(r.Journal.Writable))
	ch <- gauge(d.pending, float64(r.Journal.Pending))
	ch <- gauge(d.contact, truth(r.Consul.Contact))
	ch <- gauge(d.last, timestamp(r.Consul.LastContact))
	for _, reason := range catalog.Reasons {
		ch <- counter(d.errors, r.Consul.Failed[reason], string(reason))
	}
	for _, s := range fleetStates {
		ch <- gauge(d.fleet, truth(r.Fleet.State == s), label(s))
	}
	ch <- gauge(d.fleetDrains, float64(r.Fleet.Drains), "applied")
	ch <- gauge(d.fleetDrains, float64(r.Fleet.Waiting), "waiting")
	ch <- gauge(d.fleetWrote, timestamp(r.Fleet.Reported))
}

// timestamp is a time in seconds since 1970, 0 for none.
func timestamp(at time.Time) float64 {
	if at.IsZero() {
		return 0
	}
	return float64(at.UnixMilli()) / 1000
}
