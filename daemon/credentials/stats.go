package credentials

import (
	"maps"
	"sync"

	"github.com/lictor-mesh/lictor/state"
)

// Stats is what a Manager has done since it was made, and how its proxies stand.
type Stats struct {
	Logins   uint64 // tokens that auth methods issued
	Logouts  uint64 // tokens deleted in Consul, also when they were gone already
	Reopened uint64 // times that a proxy's streams were closed for a new token
	// Failures counts by what failed: those of logins and logouts by their reason
	// (Reasons), those of checks by the state that they led to.
	Failures map[string]uint64
	// Proxies counts those that have files, by how they stand; "" is not known
	// yet.
	Proxies map[state.CredentialState]int
	// Leaving is the number of tokens that are still to be logged out.
	Leaving int
	// TLSProblem is a sentence about the daemon's own TLS files when they cannot
	// be used as they are now; proxies keep those of before.
	TLSProblem string
}

// Reasons for which logins and logouts fail, a closed set.
const (
	ReasonAuthMethod = "auth-method" // there is none of that name
	ReasonBearer     = "bearer"      // the bearer token is refused, expired, or cannot be read
	ReasonBinding    = "binding"     // no binding rule matches
	ReasonLimited    = "limited"     // Consul limits requests
	ReasonNoACLs     = "no-acls"     // ACLs are disabled in Consul
	ReasonContact    = "contact"     // no server answered
	ReasonLogout     = "logout"      // a token could not be deleted
	ReasonDisk       = "disk"        // a token could not be kept for its logout
)

// Reasons lists them.
var Reasons = []string{
	ReasonAuthMethod, ReasonBearer, ReasonBinding, ReasonLimited, ReasonNoACLs, ReasonContact, ReasonLogout, ReasonDisk,
}

type counters struct {
	mu       sync.Mutex
	logins   uint64
	logouts  uint64
	reopened uint64
	failures map[string]uint64
}

func newCounters() counters { return counters{failures: map[string]uint64{}} }

func (c *counters) add(what *uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*what++
}

func (c *counters) fail(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failures[reason]++
}

// Stats says what was done, and how the proxies stand now.
func (m *Manager) Stats() Stats {
	m.stats.mu.Lock()
	s := Stats{
		Logins: m.stats.logins, Logouts: m.stats.logouts, Reopened: m.stats.reopened,
		Failures: maps.Clone(m.stats.failures), Proxies: map[state.CredentialState]int{},
	}
	m.stats.mu.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.workers {
		s.Proxies[w.state()]++
	}
	s.Leaving, s.TLSProblem = len(m.leaving), m.tls.problem
	return s
}
