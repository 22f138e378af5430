package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
	"unicode"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/daemon/catalog"
	"github.com/lictor-mesh/lictor/daemon/registry"
	"github.com/lictor-mesh/lictor/state"
)

// drainValue is the value of a key below DrainPrefix. A key with any other value
// is a drain too: `consul kv put` by hand is good enough.
type drainValue struct {
	By    string    `json:"by"`
	Since time.Time `json:"since,omitzero"`
}

// drain is one that Consul has.
type drain struct {
	v1.FleetDrain
	index uint64 // of Consul's, at which it was written
}

// maxBy bounds the words about who wanted a drain, in bytes: they are journaled.
const maxBy = 128

// watch follows the drains in Consul until ctx ends.
func (m *Manager) watch(ctx context.Context) {
	var index uint64
	var pause time.Duration
	for failures := 0; ctx.Err() == nil; {
		list, err := m.cfg.Consul.KVList(ctx, DrainPrefix, index)
		changed := false
		if err == nil {
			changed, err = m.heard(ctx, list, index == 0)
		}
		// A server that ends is left for another one: nothing to speak of.
		passing := err != nil && failures == 0 && !errors.Is(err, catalog.ErrDenied) && !errors.Is(err, errUndecided)
		if !passing {
			m.amiss(ctx, partDrains, err)
		}
		if err != nil {
			index = 0
			sleep(ctx, m.backoff(err, failures), nil)
			failures++
			continue
		}
		// While nothing is below the prefix Consul wakes a query at any write near
		// it, as at each host's report: what brought nothing new slows down.
		failures, index = 0, list.Index
		pause = min(2*pause+m.timing.spurious/20, m.timing.spurious)
		if changed {
			pause = 0
		}
		sleep(ctx, pause, nil)
	}
}

// backoff is how long to wait after so many failures in a row.
func (m *Manager) backoff(err error, failures int) time.Duration {
	d := m.timing.retryTo
	if failures < 10 {
		d = min(d, m.timing.retry<<failures)
	}
	switch {
	case errors.Is(err, catalog.ErrDenied):
		d = m.timing.denied
	case errors.Is(err, catalog.ErrNoServer): // which costs nothing to ask
		d = m.timing.lost
	}
	return d/2 + rand.N(d/2+1)
}

// heard makes an answer of Consul what is wanted, if it is one to go by.
func (m *Manager) heard(ctx context.Context, list catalog.KVList, first bool) (changed bool, err error) {
	if len(list.Pairs) == 0 && !list.Filtered && first {
		if err := m.mark(ctx); err != nil {
			return false, err
		}
	}
	found := parseDrains(list.Pairs)
	if list.Filtered {
		// What can be seen is wanted; what cannot may be wanted as well.
		changed = m.setWant(found, false)
		return changed, &catalog.Problem{Sentence: "the token of --consul-token-file may not read all of it", Err: catalog.ErrDenied}
	}
	missing, err := m.missing(ctx, found)
	if err != nil {
		return false, err
	}
	for id, last := range missing {
		still, err := m.ended(ctx, id, last)
		if err != nil {
			return false, err
		}
		maps.Copy(found, still)
	}
	return m.setWant(found, true), nil
}

// missing are the drains that are in force, or wanted, and not among those
// found, each with the index at which it was last seen, if it was.
func (m *Manager) missing(ctx context.Context, found map[string]drain) (map[string]uint64, error) {
	snap, err := m.cfg.Registry.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	gone := map[string]uint64{}
	for id, d := range snap.State.Drained {
		if _, still := found[id]; !still && strings.HasPrefix(d.By, byPrefix) {
			gone[id] = 0
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, d := range m.want {
		if _, still := found[id]; !still {
			gone[id] = d.index
		}
	}
	return gone, nil
}

// ended asks the leader about a drain that a list lacks, as a list may be that of
// a server which is behind. It gives the drain back if it is still there. Only a
// store that has gone on since the drain was seen can say that it ended; one that
// was replaced or set back cannot.
func (m *Manager) ended(ctx context.Context, id string, last uint64) (still map[string]drain, err error) {
	pair, found, err := m.cfg.Consul.KVGet(ctx, DrainPrefix+id)
	switch {
	case err != nil:
		return nil, err
	case found:
		return parseDrains([]catalog.KVPair{pair}), nil
	case pair.ModifyIndex <= max(last, 1):
		return nil, fmt.Errorf("%w: Consul no longer has that of %s, but its KV store has been replaced or set back; "+
			"to end it, lictor drain %s --fleet and then lictor undrain %s --fleet", errUndecided, id, id, id)
	}
	return nil, nil
}

// mark puts a key where the drains are, so that a query that waits for them is
// not woken by what is beside them. That it may not be written is no error.
func (m *Manager) mark(ctx context.Context) error {
	_, found, err := m.cfg.Consul.KVGet(ctx, DrainPrefix)
	if err != nil || found {
		return err
	}
	_, err = m.cfg.Consul.KVPut(ctx, DrainPrefix, nil, true, "")
	if err != nil && !errors.Is(err, catalog.ErrDenied) {
		return err
	}
	return nil
}

// setWant takes over what is wanted; all says that nothing else is.
func (m *Manager) setWant(found map[string]drain, all bool) (changed bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !all {
		found = maps.Clone(found)
		for id, d := range m.want {
			if _, seen := found[id]; !seen {
				found[id] = d
			}
		}
	}
	changed = !maps.Equal(found, m.want) || all && !m.known
	m.want, m.known = found, m.known || all
	if all {
		m.status.Read = m.now().UTC()
	}
	if changed {
		kick(m.applyNow)
	}
	return changed
}

// parseDrains reads what is below DrainPrefix, by server. What cannot name a
// server is passed over.
func parseDrains(pairs []catalog.KVPair) map[string]drain {
	found := map[string]drain{}
	for _, p := range pairs {
		id, ok := strings.CutPrefix(p.Key, DrainPrefix)
		if !ok || v1.CheckID("server", id) != nil {
			continue
		}
		var v drainValue
		if json.Unmarshal(p.Value, &v) != nil || tidy(v.By) == "" {
			v.By = "the key " + p.Key
		}
		found[id] = drain{
			FleetDrain: v1.FleetDrain{Server: id, By: tidy(v.By), Since: v.Since.UTC().Round(0)},
			index:      p.ModifyIndex,
		}
	}
	return found
}

// tidy makes words from elsewhere fit for the journal and for a terminal. Of
// long ones it looks at the beginning alone: Consul takes half a megabyte.
func tidy(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s[:min(len(s), 4*maxBy)], ""))
	return strings.ToValidUTF8(s[:min(len(s), maxBy)], "")
}

// keep makes what is in force on this host what is wanted, until ctx ends. It
// looks again and again, as a server may be seen later than its drain, and an
// operator may have ended one here.
func (m *Manager) keep(ctx context.Context) {
	for ctx.Err() == nil {
		changed, err := m.apply(ctx)
		m.amiss(ctx, partApply, err)
		if changed {
			kick(m.reportNow)
		}
		sleep(ctx, m.applyAgain(), m.applyNow)
	}
}

// applyAgain is how long the state is left alone between two looks at it: a copy
// of it costs a millisecond for some thousand proxies.
func (m *Manager) applyAgain() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.want) > 0 || len(m.status.Drains) > 0 {
		return m.timing.apply
	}
	return m.timing.look
}

// apply drains what is wanted and is not drained, and undrains what this package
// drained and nobody wants. It says whether anything was.
func (m *Manager) apply(ctx context.Context) (changed bool, err error) {
	m.mu.Lock()
	want, known := m.want, m.known // replaced, never written to
	m.mu.Unlock()
	snap, err := m.cfg.Registry.Snapshot(ctx)
	if err != nil {
		return false, err
	}
	var errs []error
	var force, waiting []string
	drained := snap.State.Drained
	usable := usableServers(snap.State)
	for _, id := range slices.Sorted(maps.Keys(want)) {
		if _, is := drained[id]; is {
			force = append(force, id) // by us, or by an operator here, whose drain it stays
			continue
		}
		if usable[id] && len(usable) == 1 {
			errs = append(errs, fmt.Errorf("%s is drained for the fleet, but not on this host: it has no other server", id))
			continue
		}
		err := m.cfg.Registry.Drain(ctx, id, byPrefix+want[id].By, true)
		switch {
		case errors.Is(err, registry.ErrNotRegistered):
			waiting = append(waiting, id)
		case err != nil:
			errs = append(errs, fmt.Errorf("%s is drained for the fleet, but not on this host yet: %w", id, err))
		default:
			delete(usable, id)
			force, changed = append(force, id), true
			m.log.Info("server drained for the fleet", "server", id, "by", want[id].By)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(drained)) {
		_, wanted := want[id]
		if wanted || !strings.HasPrefix(drained[id].By, byPrefix) {
			continue
		}
		if !known {
			force = append(force, id) // as far as anybody can say
			continue
		}
		if err := m.cfg.Registry.Drain(ctx, id, byPrefix+"no longer wanted", false); err != nil {
			errs = append(errs, fmt.Errorf("%s is no longer drained for the fleet, but still on this host: %w", id, err))
			force = append(force, id)
			continue
		}
		changed = true
		m.log.Info("fleet's drain ended", "server", id)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.status.Drains, m.status.Waiting = force, waiting
	return changed, errors.Join(errs...)
}

// usableServers are those that are listed and not drained. A key in Consul must
// not be enough to leave a host without any.
func usableServers(s state.State) map[string]bool {
	usable := map[string]bool{}
	for id := range s.Servers {
		if _, is := s.Drained[id]; !is {
			usable[id] = true
		}
	}
	return usable
}
