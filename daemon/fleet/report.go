package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/daemon/catalog"
)

// Bounds of a report, which Consul keeps in memory on every server.
const (
	maxProblems = 5
	maxProblem  = 300 // bytes of each
	maxServers  = 64
)

// ReportOf makes a host's report out of what it says of itself.
func ReportOf(s v1.Status, servers []v1.Server) v1.FleetHost {
	h := v1.FleetHost{
		Node: s.Node, ID: s.Journal.UUID, Version: s.Version, Started: s.Started.UTC().Round(0),
		Ready: s.Ready, Proxies: s.Proxies, Seq: s.Journal.Seq,
	}
	for _, p := range s.Problems[:min(len(s.Problems), maxProblems)] {
		if len(p) > maxProblem {
			p = strings.ToValidUTF8(p[:maxProblem], "") + "…"
		}
		h.Problems = append(h.Problems, p)
	}
	for _, srv := range servers[:min(len(servers), maxServers)] {
		h.Servers = append(h.Servers, v1.FleetServer{
			ID: srv.ID, Listed: srv.Listed, Drained: srv.Drained, Proxies: srv.Proxies, Active: srv.Active, Kept: srv.Kept,
		})
	}
	return h
}

// report is a report that was written.
type report struct {
	host v1.FleetHost
	at   time.Time
	next time.Time // when it is written again though nothing has changed
}

// urgency says how soon a report is worth a write on every Consul server.
type urgency int

const (
	notNow urgency = iota // when it is time anyway
	calm                  // what changes all day: numbers of proxies
	prompt                // what somebody may be waiting for
)

// urgent compares a host with what it reported last.
func urgent(was, is v1.FleetHost) urgency {
	if was.Version != is.Version || was.Started != is.Started || was.Ready != is.Ready ||
		len(was.Problems) != len(is.Problems) || !slices.Equal(leaving(was), leaving(is)) {
		return prompt
	}
	sameServers := slices.EqualFunc(was.Servers, is.Servers, func(a, b v1.FleetServer) bool {
		return a.ID == b.ID && a.Listed == b.Listed && a.Proxies == b.Proxies
	})
	if !sameServers || !reflect.DeepEqual(was.Proxies, is.Proxies) || !slices.Equal(was.Problems, is.Problems) {
		return calm
	}
	return notNow
}

// leaving are the servers that a drain is leaving, with what is left on them.
func leaving(h v1.FleetHost) (out []v1.FleetServer) {
	for _, s := range h.Servers {
		if s.Drained {
			out = append(out, s)
		}
	}
	return out
}

// report writes this host's report when there is something new, and now and then
// when there is not, until ctx ends.
func (m *Manager) report(ctx context.Context) {
	defer m.takeLeave(ctx)
	failures := 0
	for ctx.Err() == nil {
		due, host := m.due(ctx)
		if !due {
			sleep(ctx, m.lookAgain(), m.reportNow)
			continue
		}
		// All hosts have news at once when a server is drained for the fleet.
		sleep(ctx, rand.N(m.timing.spread+1), nil)
		err := m.write(ctx, host)
		m.amiss(ctx, partReport, err)
		if err != nil {
			sleep(ctx, m.backoff(err, failures), nil)
			failures++
			continue
		}
		failures = 0
		sleep(ctx, m.timing.prompt, nil)
	}
}

// lookAgain is how long a host is left alone between two looks at it. Somebody
// waits for what a drain comes to; the rest has time.
func (m *Manager) lookAgain() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.status.Drains) > 0 {
		return m.timing.watch
	}
	return m.timing.look
}

// takeLeave says in the report that lictord stops. It waits for nothing that does
// not answer: the report grows old then, which says as much.
func (m *Manager) takeLeave(ctx context.Context) {
	if m.session == "" || m.Status().State != v1.FleetOn {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.timing.farewell)
	defer cancel()
	host := m.reported.host
	host.Stopped, host.Ready = m.now().UTC().Round(0), false
	_ = m.write(ctx, host) // stopping
}

// due says whether there is something to report now.
func (m *Manager) due(ctx context.Context) (bool, v1.FleetHost) {
	bounded, cancel := context.WithTimeout(ctx, m.timing.answer)
	defer cancel()
	host, err := m.cfg.Report(bounded)
	if err != nil {
		return false, host // stopping, or too busy: a report that grows old says as much
	}
	host.Node, host.ID = m.cfg.Node, m.cfg.ID
	now, last := m.now(), m.reported
	switch urgent(last.host, host) {
	case prompt:
		return now.Sub(last.at) >= m.timing.prompt, host
	case calm:
		return now.Sub(last.at) >= m.timing.calm, host
	default:
		return !now.Before(last.next), host
	}
}

// write writes a report into the key that this host's session holds.
func (m *Manager) write(ctx context.Context, host v1.FleetHost) error {
	now := m.now()
	host.Reported = now.UTC().Round(0)
	value, err := json.Marshal(host)
	if err != nil {
		return err
	}
	key := HostPrefix + m.cfg.Node
	for try := 0; ; try++ {
		if err := m.hold(ctx, key); err != nil {
			return err
		}
		done, err := m.cfg.Consul.KVPut(ctx, key, value, false, m.session)
		if err == nil && done {
			break
		}
		if err != nil && !errors.Is(err, catalog.ErrSession) {
			return err
		}
		m.session = "" // it has ended, or another one holds the key
		if try > 0 {
			return fmt.Errorf("%w: another host writes %s as well", errCollision, key)
		}
	}
	m.reported = report{host: host, at: now, next: now.Add(m.timing.steady/2 + rand.N(m.timing.steady/2+1))}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.status.Reported = host.Reported
	return nil
}

// hold sees to it that there is a session, and that it goes on.
func (m *Manager) hold(ctx context.Context, key string) error {
	if m.session != "" && m.now().Sub(m.renewed) < m.timing.ttl/3 {
		return nil
	}
	if m.session != "" {
		err := m.cfg.Consul.RenewSession(ctx, m.session)
		if err == nil {
			m.renewed = m.now()
			return nil
		}
		if !errors.Is(err, catalog.ErrSession) {
			return err
		}
		m.session = ""
	}
	if err := m.takeOver(ctx, key); err != nil || m.session != "" {
		return err
	}
	name := NodePrefix + m.cfg.Node
	if err := m.cfg.Consul.RegisterNode(ctx, name, localAddr(m.cfg.Consul.URL()), map[string]string{"lictor-host": m.cfg.Node}); err != nil {
		return err
	}
	session, err := m.cfg.Consul.CreateSession(ctx, name, name, m.timing.ttl)
	if err != nil {
		return err
	}
	m.session, m.renewed = session, m.now()
	return nil
}

// takeOver goes on with the session of the process before this one. One that
// another host has left behind under the same name is ended; if that host still
// reports, it is an error.
func (m *Manager) takeOver(ctx context.Context, key string) error {
	pair, found, err := m.cfg.Consul.KVGet(ctx, key)
	if err != nil || !found || pair.Session == "" {
		return err
	}
	host, _ := m.parseHost(pair)
	switch {
	case host.ID == m.cfg.ID:
		err := m.cfg.Consul.RenewSession(ctx, pair.Session)
		if errors.Is(err, catalog.ErrSession) {
			return nil
		}
		if err == nil {
			m.session, m.renewed = pair.Session, m.now()
		}
		return err
	case host.Silent:
		return m.cfg.Consul.DestroySession(ctx, pair.Session)
	}
	return fmt.Errorf("%w: another one with the journal %s has reported as %s at %s; give each host a --node-name of its own "+
		"(this host takes the name over when the other has been silent for %v)",
		errCollision, host.ID, m.cfg.Node, host.Reported.Format(time.RFC3339), m.timing.silent)
}

// localAddr is the address from which this host reaches Consul. No packet is
// sent to find it.
func localAddr(consul string) string {
	const none = "127.0.0.1"
	u, err := url.Parse(consul)
	if err != nil || u.Host == "" {
		return none
	}
	conn, err := net.Dial("udp", u.Host)
	if err != nil {
		return none
	}
	defer conn.Close()
	host, _, err := net.SplitHostPort(conn.LocalAddr().String())
	if err != nil {
		return none
	}
	return host
}
