package state

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// Clone returns a copy that may be read while s is folded further, and folded
// itself. It copies the maps and shares their entries, which are never written.
func (s State) Clone() State {
	s.Servers = maps.Clone(s.Servers)
	s.Drained = maps.Clone(s.Drained)
	s.Proxies = maps.Clone(s.Proxies)
	s.Resting = maps.Clone(s.Resting)
	s.Slots = maps.Clone(s.Slots)
	s.Logins = maps.Clone(s.Logins)
	s.used = maps.Clone(s.used)
	return s
}

// Equal reports whether s and o say the same. Times are compared as instants;
// an absent list is an empty list.
func (s State) Equal(o State) bool {
	return s.Seq == o.Seq && s.Time.Equal(o.Time) && s.Swept.Equal(o.Swept) &&
		s.LastIndex == o.LastIndex &&
		maps.EqualFunc(s.Servers, o.Servers, func(a, b *Server) bool {
			return a.ServerSpec == b.ServerSpec && a.Since.Equal(b.Since)
		}) &&
		maps.EqualFunc(s.Drained, o.Drained, func(a, b Drain) bool {
			return a.By == b.By && a.Since.Equal(b.Since)
		}) &&
		maps.EqualFunc(s.Proxies, o.Proxies, (*Proxy).equal) &&
		maps.EqualFunc(s.Resting, o.Resting, time.Time.Equal) &&
		maps.EqualFunc(s.Slots, o.Slots, func(a, b SlotTenure) bool {
			return a.Slot == b.Slot && a.Gone.Equal(b.Gone)
		}) &&
		maps.EqualFunc(s.Logins, o.Logins, LoginRecord.equal)
}

func (p *Proxy) equal(o *Proxy) bool {
	return p.Registration.Equal(o.Registration) && p.Known == o.Known &&
		p.Registered.Equal(o.Registered) && p.Seq == o.Seq && slices.Equal(p.Ranked, o.Ranked) &&
		p.Reason == o.Reason && p.Placed.Equal(o.Placed) &&
		p.CredentialState == o.CredentialState && p.CredentialProblem == o.CredentialProblem &&
		p.CredentialSince.Equal(o.CredentialSince)
}

// Equal reports whether two registrations promise the same.
func (r Registration) Equal(o Registration) bool {
	if !r.Envoy.Equal(o.Envoy) || !r.Credential.Equal(o.Credential) || !r.Process.Equal(o.Process) {
		return false
	}
	r.Envoy, r.Credential, r.Process = nil, nil, nil
	o.Envoy, o.Credential, o.Process = nil, nil, nil
	return r == o
}

// Check returns what of the invariants in README.md does not hold, joined, or
// nil. A state folded from events that the daemon decided on always holds them;
// a violation is a bug or damage.
func (s State) Check() error {
	return errors.Join(s.checkServers(), s.checkProxies(), s.checkLogins())
}

func (s State) checkLogins() error {
	var errs []error
	byKey := map[string]string{}
	for accessor, l := range s.Logins {
		if l.Accessor != accessor {
			errs = append(errs, fmt.Errorf("token %q is kept as %q", l.Accessor, accessor))
		}
		if other, ok := byKey[l.Key]; ok {
			errs = append(errs, fmt.Errorf("tokens %q and %q are both sealed as %q", min(accessor, other), max(accessor, other), l.Key))
		}
		byKey[l.Key] = accessor
	}
	return joinSorted(errs)
}

func (s State) checkServers() error {
	var errs []error
	holder := map[uint16]string{}
	for id, t := range s.Slots {
		if t.Slot == 0 {
			errs = append(errs, fmt.Errorf("server %q holds slot 0", id))
		}
		if other, ok := holder[t.Slot]; ok {
			errs = append(errs, fmt.Errorf("servers %q and %q both hold slot %d", min(id, other), max(id, other), t.Slot))
		}
		holder[t.Slot] = id
		if _, listed := s.Servers[id]; listed != t.Gone.IsZero() {
			errs = append(errs, fmt.Errorf("server %q: listed is %t, its tenure ended is %t", id, listed, !t.Gone.IsZero()))
		}
	}
	for id, server := range s.Servers {
		if server.ID != id {
			errs = append(errs, fmt.Errorf("server %q is listed as %q", server.ID, id))
		}
		if t, ok := s.Slots[id]; !ok || t.Slot != server.Slot {
			errs = append(errs, fmt.Errorf("server %q has slot %d without a tenure of it", id, server.Slot))
		}
	}
	return joinSorted(errs)
}

func (s State) checkProxies() error {
	var errs []error
	byIndex := map[uint32]string{}
	byVIP := map[netip.Addr]string{}
	for id, p := range s.Proxies {
		if p.ID != id {
			errs = append(errs, fmt.Errorf("proxy %q is kept as %q", p.ID, id))
		}
		if p.Index == 0 {
			errs = append(errs, fmt.Errorf("proxy %q holds VIP index 0", id))
		}
		if other, ok := byIndex[p.Index]; ok {
			errs = append(errs, fmt.Errorf("proxies %q and %q both hold VIP index %d", min(id, other), max(id, other), p.Index))
		}
		byIndex[p.Index] = id
		if left, ok := s.Resting[p.Index]; ok {
			errs = append(errs, fmt.Errorf("proxy %q holds VIP index %d, which rests since %s", id, p.Index, left))
		}
		for _, vip := range []netip.Addr{p.VIP, p.VIP6} {
			if !vip.IsValid() {
				continue
			}
			if other, ok := byVIP[vip]; ok {
				errs = append(errs, fmt.Errorf("proxies %q and %q both hold VIP %s", min(id, other), max(id, other), vip))
			}
			byVIP[vip] = id
		}
		if s.used[p.Index] == 0 {
			errs = append(errs, fmt.Errorf("proxy %q: VIP index %d is not marked as used", id, p.Index))
		}
	}
	if len(s.used) > len(byIndex) {
		errs = append(errs, fmt.Errorf("%d VIP indexes are marked as used, proxies hold %d", len(s.used), len(byIndex)))
	}
	return joinSorted(errs)
}

// joinSorted makes the text independent of the order of a map.
func joinSorted(errs []error) error {
	slices.SortFunc(errs, func(a, b error) int {
		switch {
		case a.Error() < b.Error():
			return -1
		case a.Error() > b.Error():
			return 1
		}
		return 0
	})
	return errors.Join(errs...)
}
