package catalog

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// healthPath lists the servers whose own checks pass.
const healthPath = "/v1/health/service/consul"

// follow watches one server after the other until ctx ends.
func (c *Catalog) follow(ctx context.Context) {
	failures := 0
	for ctx.Err() == nil {
		target, n := c.targets.next()
		if n == 0 {
			select { // resolveLoop says what the matter is
			case <-ctx.Done():
			case <-c.resolved:
			}
			continue
		}
		began := time.Now()
		err := c.source(ctx, target)
		if ctx.Err() != nil {
			return
		}
		c.problem(target, err)
		c.Refresh()
		if timedOut(err) {
			c.targets.postpone(target)
		}
		if time.Since(began) >= c.timing.steady {
			failures = 0
		}
		sleep(ctx, c.pause(failures, n))
		failures++
	}
}

// pause is how long to wait after so many failures in a row with n servers to
// go to. In the first round it is short, for another server may well answer,
// and random, for other hosts have lost the same server at the same time.
func (c *Catalog) pause(failures, n int) time.Duration {
	round := failures / n
	if round == 0 {
		return rand.N(c.timing.rotate) + 1
	}
	d := c.timing.backoffTo
	if shift := round - 1; shift < 16 {
		d = min(d, c.timing.backoff<<shift)
	}
	return d/2 + rand.N(d/2+1)
}

// watch follows the catalog on one server until that fails, and says how it did.
func (c *Catalog) watch(ctx context.Context, target string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)

	var index uint64
	for first := true; ; first = false {
		began := time.Now()
		a, err := c.health(ctx, target, index)
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			return err
		}
		changed, err := c.apply(target, a)
		if err != nil {
			return err
		}
		if first {
			wg.Go(func() { cancel(c.heartbeat(ctx, target)) })
		}
		index = nextIndex(index, a.index)
		if took := time.Since(began); !changed && !first && took < c.timing.quiet {
			sleep(ctx, c.timing.quiet-took)
		}
	}
}

// nextIndex is what to wait for after an answer, by the rules of Consul's
// documentation of blocking queries: an index that goes backwards (a restored
// snapshot) starts over, and one below 1 would not block.
func nextIndex(last, got uint64) uint64 {
	switch {
	case got < last:
		return 0
	case got < 1:
		return 1
	}
	return got
}

// apply hands the servers of an answer on, if it is one to go by.
func (c *Catalog) apply(target string, a answer) (changed bool, err error) {
	servers, unusable := parseEntries(a.entries, !c.cfg.TLS.Disabled, c.cfg.GRPCPort)
	switch {
	case !a.knownLeader:
		return false, &Problem{Sentence: fmt.Sprintf(
			"the Consul server at %s has no leader, so that what it knows may be old: check with `consul operator raft list-peers` that most servers are up", target)}
	case a.filtered:
		return false, &Problem{Err: errHidden, Sentence: fmt.Sprintf(
			"ACLs hide servers in what %s answers: the token needs service:read on \"consul\" and node:read on the servers",
			target)}
	case len(a.entries) == 0:
		return false, &Problem{Err: errNoServers, Sentence: fmt.Sprintf(
			"%s lists no healthy Consul server: check the health of the service \"consul\" there, "+
				"or the token, which needs service:read on \"consul\" and node:read", target)}
	case len(servers) == 0:
		port := "ports.grpc_tls"
		if c.cfg.TLS.Disabled {
			port = "ports.grpc"
		}
		return false, &Problem{Sentence: fmt.Sprintf(
			"no Consul server has an address and an open gRPC port (%s): set %s in the servers' configuration, or --consul-grpc-port",
			strings.Join(unusable, ", "), port)}
	}
	c.targets.setCatalog(servers, c.cfg.HTTPPort)
	c.contact(target) // first, so that who gets the set finds the status that goes with it
	changed = c.publish(servers)
	if changed {
		c.log.Info("consul servers changed", "servers", len(servers), "index", a.index, "from", target, "unusable", unusable)
	}
	return changed, nil
}

// heartbeat asks a server for its leader, again and again, while a query of
// ours blocks there: a server that was stopped, or cut off from the others,
// would let that query hang for minutes. It returns what was wrong, which
// means nothing once ctx has ended.
func (c *Catalog) heartbeat(ctx context.Context, target string) error {
	for {
		sleep(ctx, c.heartbeatPause())
		err := c.leader(ctx, target)
		if code := (statusError{}); errors.As(err, &code) && code.status < http.StatusInternalServerError {
			continue // a limit on requests, say: it is alive
		}
		if err != nil {
			return err
		}
		c.contact(target)
	}
}

// heartbeatPause is random, so that hosts do not ask all at once.
func (c *Catalog) heartbeatPause() time.Duration {
	return c.timing.heartbeat/2 + rand.N(c.timing.heartbeat/2+1)
}

// leader is an error unless a server answers in time and knows a leader.
func (c *Catalog) leader(ctx context.Context, target string) error {
	ctx, cancel := context.WithTimeout(ctx, c.timing.heartbeat)
	defer cancel()
	var leader string
	if _, err := c.get(ctx, target, "/v1/status/leader", nil, &leader); err != nil {
		return err
	}
	if leader == "" {
		return &Problem{Sentence: fmt.Sprintf(
			"the Consul server at %s has lost its leader, so what it knows may be old", target)}
	}
	return nil
}

// answer is one answer to the health query.
type answer struct {
	entries     []entry
	index       uint64
	filtered    bool
	knownLeader bool
}

// health asks for the servers, and blocks while index, unless 0, is current.
func (c *Catalog) health(ctx context.Context, target string, index uint64) (answer, error) {
	limit := c.timing.answer
	// near, whose order is of no interest here, keeps Consul from answering out
	// of its stream cache, which knows of no leader (hashicorp/consul#9776: every
	// answer would be taken for a loss of contact) and of no ACL filter.
	query := url.Values{"passing": {""}, "stale": {""}, "near": {"_agent"}}
	if index > 0 {
		query.Set("index", strconv.FormatUint(index, 10))
		query.Set("wait", c.timing.wait.String())
		// Consul adds up to a sixteenth of the wait, for servers' sake.
		limit += c.timing.wait + c.timing.wait/16
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var a answer
	header, err := c.get(ctx, target, healthPath, query, &a.entries)
	if err != nil {
		return answer{}, err
	}
	a.index, _ = strconv.ParseUint(header.Get("X-Consul-Index"), 10, 64) // 0: nextIndex knows
	a.filtered, a.knownLeader = filtered(header), knownLeader(header)
	return a, nil
}

// filtered says that ACLs kept something out of an answer.
func filtered(h http.Header) bool { return h.Get("X-Consul-Results-Filtered-By-ACLs") == "true" }

// knownLeader says that the server that answered is in touch with its leader.
func knownLeader(h http.Header) bool { return h.Get("X-Consul-Knownleader") != "false" }

// sleep waits for d or for the end of ctx.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
