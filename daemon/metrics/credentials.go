package metrics

import (
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/lictor-mesh/lictor/state"
)

// Credentials is how proxies stand with their ACL tokens and with the servers'
// TLS, and what was done for them in this process.
type Credentials struct {
	Proxies  map[state.CredentialState]int // "": not tried yet
	Logins   uint64                        // tokens that auth methods issued
	Logouts  uint64                        // tokens deleted in Consul
	Reopened uint64                        // streams closed for a new token
	Failures map[string]uint64             // by reason, each of a closed set
	Leaving  int                           // tokens still to be deleted
}

// CollectCredentials adds what is read of credentials at each scrape. read must
// not block.
func (m *Metrics) CollectCredentials(read func() Credentials) {
	m.registry.MustRegister(&credentialCollector{
		read:     read,
		proxies:  desc("proxy_credentials", "Proxies by how their credential, and the servers' TLS for them, stands.", "state"),
		logins:   desc("logins_total", "Tokens that auth methods of Consul issued."),
		logouts:  desc("logouts_total", "Tokens of logins that were deleted in Consul."),
		reopened: desc("credential_reopens_total", "Times that a proxy's streams were closed for a new token."),
		failures: desc("credential_failures_total", "Logins, logouts and checks of credentials that failed, by reason.", "reason"),
		leaving:  desc("logouts_pending", "Tokens of logins that are still to be deleted in Consul."),
	})
}

type credentialCollector struct {
	read                                                  func() Credentials
	proxies, logins, logouts, reopened, failures, leaving *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (c *credentialCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.proxies, c.logins, c.logouts, c.reopened, c.failures, c.leaving} {
		ch <- d
	}
}

// notTried is the label of the state that has no name.
const notTried = "not-tried"

// Collect implements prometheus.Collector.
func (c *credentialCollector) Collect(ch chan<- prometheus.Metric) {
	now := c.read()
	ch <- gauge(c.proxies, float64(now.Proxies[""]), notTried)
	for _, how := range state.CredentialStates { // 0 too, so that an alert has something to compare
		ch <- gauge(c.proxies, float64(now.Proxies[how]), string(how))
	}
	ch <- counter(c.logins, now.Logins)
	ch <- counter(c.logouts, now.Logouts)
	ch <- counter(c.reopened, now.Reopened)
	for _, reason := range slices.Sorted(maps.Keys(now.Failures)) {
		ch <- counter(c.failures, now.Failures[reason], reason)
	}
	ch <- gauge(c.leaving, float64(now.Leaving))
}
