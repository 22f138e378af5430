package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
	"golang.org/x/sync/errgroup"
)

// lookEvery is how long the demo waits between two looks into an Envoy, and so
// how much too late it may see a change.
const lookEvery = 20 * time.Millisecond

// arrivals are the times from a moment until a change had reached each Envoy.
type arrivals map[*member]time.Duration

// change makes a change to every proxy's configuration and waits until each
// running Envoy uses it. That is what proves a stream: the state that Envoy
// itself reports reads "connected" against an address with no host, too.
func (m *mesh) change(ctx context.Context, since time.Time) (arrivals, error) {
	m.mu.Lock()
	m.changes++
	timeout := 5000 + m.changes // in ms, a number that was never there before
	m.mu.Unlock()
	err := m.cluster.SetConfig(ctx, &api.ProxyConfigEntry{
		Kind: api.ProxyDefaults, Name: api.ProxyConfigGlobal,
		Config: map[string]any{"local_connect_timeout_ms": timeout},
	})
	if err != nil {
		return nil, err
	}
	members := m.running()
	took := make([]time.Duration, len(members))
	var all errgroup.Group
	for i, who := range members {
		all.Go(func() error {
			err := who.waitFor(ctx, fmt.Sprintf("%d.%03ds", timeout/1000, timeout%1000))
			took[i] = time.Since(since)
			return err
		})
	}
	err = all.Wait()
	out := arrivals{}
	for i, who := range members {
		out[who] = took[i]
	}
	return out, err
}

// waitFor waits until the member's Envoy connects to its application with that
// timeout.
func (who *member) waitFor(ctx context.Context, timeout string) error {
	want := fmt.Sprintf(`"connect_timeout": %q`, timeout)
	for {
		dump, err := who.envoy.Admin(ctx, http.MethodGet, "/config_dump?resource=dynamic_active_clusters")
		if err == nil && strings.Contains(string(dump), want) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the change has not reached %s: %w", who.name, context.Cause(ctx))
		case <-time.After(lookEvery):
		}
	}
}

// last is the longest time.
func (a arrivals) last() (longest time.Duration) {
	for _, took := range a {
		longest = max(longest, took)
	}
	return longest
}

// of are the times of some members, shortest first, as text.
func (a arrivals) of(members []*member) string {
	var took []time.Duration
	for _, who := range members {
		took = append(took, a[who])
	}
	slices.Sort(took)
	var out []string
	for _, t := range took {
		out = append(out, fmt.Sprintf("%.2f", t.Seconds()))
	}
	return strings.Join(out, ", ") + " s"
}
