package state

import "time"

// New returns the state before the first event.
func New() State {
	return State{
		Servers: map[string]*Server{},
		Drained: map[string]Drain{},
		Proxies: map[string]*Proxy{},
		Resting: map[uint32]time.Time{},
		Slots:   map[string]SlotTenure{},
		Logins:  map[string]LoginRecord{},
		used:    map[uint32]int{},
	}
}

// MaxRest is the longest rest that a VIP can be given: an index that rested for
// longer is forgotten, so that Resting stays small.
const MaxRest = 10 * time.Minute

// Fold returns the state after e. It consumes s as append consumes a slice: use
// s = Fold(s, e), and never the old value again.
//
// Fold is total. An event about what is not there (a placement of an unknown
// proxy, the end of an unknown server) changes nothing but Seq and Time, and
// nothing is checked across entities; Check does that. Therefore an event about
// a server and an event about a proxy give the same state in either order,
// which the daemon needs: it folds a placement (with Seq 0) while a batch of
// promises is still on its way to the disk.
//
// What was folded with Seq 0 is not folded again once it is journaled, as that
// could undo something later; an event without a body moves only Seq and Time,
// and says that everything up to Seq is folded.
func Fold(s State, e Event) State {
	s.Seq = max(s.Seq, e.Seq)
	if e.Time.After(s.Time) {
		s.Time = e.Time
	}
	switch b := e.Body.(type) {
	case ServerSeen:
		s.serverSeen(b.Server, either(b.At, e.Time))
	case ServerChanged:
		if _, ok := s.Servers[b.Server.ID]; ok {
			s.serverSeen(b.Server, e.Time)
		}
	case ServerGone:
		s.serverGone(b.ID, either(b.At, e.Time))
	case ServerDrained:
		if _, ok := s.Drained[b.ID]; !ok {
			s.Drained[b.ID] = Drain{By: b.By, Since: e.Time}
		}
	case ServerUndrained:
		delete(s.Drained, b.ID)
	case ProxyRegistered:
		s.proxyRegistered(b.Proxy, e)
	case ProxyChanged:
		s.proxyChanged(b)
	case ProxyDeregistered:
		s.proxyDeregistered(b.ID, e.Time)
	case Placed:
		s.placed(b, either(b.At, e.Time))
	case LoggedIn:
		s.Logins[b.Accessor] = LoginRecord{
			Accessor: b.Accessor, ProxyID: b.ID, AuthMethod: b.AuthMethod, Datacenter: b.Datacenter,
			Namespace: b.Namespace, Partition: b.Partition, Expires: b.Expires, Key: b.Key, Since: e.Time,
		}
	case LoggedOut:
		delete(s.Logins, b.Accessor)
	case CredentialChanged:
		s.credentialChanged(b, e.Time)
	}
	return s
}

// either returns at, or the event's time where the body has none of its own.
func either(at, event time.Time) time.Time {
	if at.IsZero() {
		return event
	}
	return at
}

// serverSeen lists a server, or gives a listed one another spec. A tenure of a
// server that is gone ends when another one is given its slot.
func (s *State) serverSeen(spec ServerSpec, at time.Time) {
	since := at
	if old, ok := s.Servers[spec.ID]; ok {
		since = old.Since
	}
	for id, t := range s.Slots {
		if t.Slot == spec.Slot && id != spec.ID && !t.Gone.IsZero() {
			delete(s.Slots, id)
		}
	}
	s.Servers[spec.ID] = &Server{ServerSpec: spec, Since: since}
	s.Slots[spec.ID] = SlotTenure{Slot: spec.Slot}
}

func (s *State) serverGone(id string, at time.Time) {
	server, ok := s.Servers[id]
	if !ok {
		return
	}
	delete(s.Servers, id)
	s.Slots[id] = SlotTenure{Slot: server.Slot, Gone: at}
}

// proxyRegistered keeps an earlier promise to the same id: a VIP that was
// handed out is never replaced.
func (s *State) proxyRegistered(r Registration, e Event) {
	if _, ok := s.Proxies[r.ID]; ok {
		return
	}
	r.Envoy, r.Credential, r.Process = orNil(r.Envoy), orNil(r.Credential), orNil(r.Process)
	s.Proxies[r.ID] = &Proxy{Registration: r, Registered: e.Time, Seq: e.Seq}
	s.used[r.Index]++
	s.LastIndex = r.Index
	delete(s.Resting, r.Index)
}

func (s *State) proxyChanged(b ProxyChanged) {
	old, ok := s.Proxies[b.ID]
	if !ok {
		return
	}
	p := *old
	if b.Owner != nil {
		p.Owner = *b.Owner
	}
	if b.Known != nil {
		p.Known = *b.Known
	}
	if b.Envoy != nil {
		p.Envoy = orNil(b.Envoy)
	}
	if b.Credential != nil && !b.Credential.Equal(p.Credential) {
		p.Credential = orNil(b.Credential)
		p.CredentialState, p.CredentialProblem, p.CredentialSince = "", "", time.Time{}
	}
	if b.Process != nil {
		p.Process = orNil(b.Process)
	}
	s.Proxies[b.ID] = &p
}

// orNil gives nil for a zero value, which says the same.
func orNil[T any, P interface {
	*T
	Equal(P) bool
}](p P) P {
	if p.Equal(nil) {
		return nil
	}
	return p
}

func (s *State) credentialChanged(b CredentialChanged, at time.Time) {
	old, ok := s.Proxies[b.ID]
	if !ok {
		return
	}
	p := *old
	if p.CredentialState != b.State || p.CredentialSince.IsZero() {
		p.CredentialSince = at
	}
	p.CredentialState, p.CredentialProblem = b.State, b.Problem
	s.Proxies[b.ID] = &p
}

func (s *State) proxyDeregistered(id string, at time.Time) {
	p, ok := s.Proxies[id]
	if !ok {
		return
	}
	delete(s.Proxies, id)
	if s.used[p.Index]--; s.used[p.Index] <= 0 {
		delete(s.used, p.Index)
		s.Resting[p.Index] = at
	}
	s.sweep(at)
}

// sweep forgets rests longer than MaxRest, at most once every MaxRest of
// journal time, so that its cost is spread over what left meanwhile. It depends
// on the event alone, so a replay forgets the same.
func (s *State) sweep(at time.Time) {
	if at.Sub(s.Swept) < MaxRest {
		return
	}
	s.Swept = at
	for index, left := range s.Resting {
		if at.Sub(left) >= MaxRest {
			delete(s.Resting, index)
		}
	}
}

func (s *State) placed(b Placed, at time.Time) {
	old, ok := s.Proxies[b.ID]
	if !ok {
		return
	}
	p := *old
	p.Ranked, p.Reason, p.Placed = b.Ranked, b.Reason, at
	s.Proxies[b.ID] = &p
}
