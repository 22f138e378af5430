package registry

import (
	"time"

	"github.com/lictor-mesh/lictor/state"
)

// pending are the facts that are in force and not journaled yet, in the order
// in which they are to be. What a later fact makes meaningless is left out, so
// that a disk that is full for long does not fill the memory; replaying what is
// left gives the same state. The zero value is empty.
type pending struct {
	bodies  []state.Body // nil where one was left out
	dropped int          // how many are
	placed  map[string]int
	servers map[string][]int // by server: where its events are, oldest first
	// moved says that a slot has passed from one server to another: then the
	// order among servers matters, and all their events stay.
	moved bool
	since time.Time // when the oldest came
}

func (p *pending) len() int { return len(p.bodies) - p.dropped }

// add takes a fact that came at the given time.
func (p *pending) add(b state.Body, at time.Time) {
	if p.len() == 0 {
		p.since = at
	}
	switch b := b.(type) {
	case state.Placed:
		p.place(b)
	case state.ServerSeen:
		p.server(b.Server.ID, b)
	case state.ServerChanged:
		p.server(b.Server.ID, b)
	case state.ServerGone:
		p.server(b.ID, b)
	default:
		p.bodies = append(p.bodies, b)
	}
}

// place keeps the last placement of each proxy. It may stay where the former
// one was: events of proxies and events of servers give the same state in
// either order.
func (p *pending) place(b state.Placed) {
	if at, ok := p.placed[b.ID]; ok {
		p.bodies[at] = b
		return
	}
	if p.placed == nil {
		p.placed = map[string]int{}
	}
	p.placed[b.ID] = len(p.bodies)
	p.bodies = append(p.bodies, b)
}

func (p *pending) server(id string, b state.Body) {
	before := p.servers[id]
	if n := len(before); n > 0 && b.Kind() != state.KindServerSeen && p.bodies[before[n-1]].Kind() == state.KindServerChanged {
		before = p.drop(before, 1) // what it was changed to matters no longer
	}
	if n := len(before); n > 1 && !p.moved && p.bodies[before[n-2]].Kind() == b.Kind() && b.Kind() != state.KindServerChanged {
		before = p.drop(before, 2) // it went and came back, or the reverse
	}
	if p.servers == nil {
		p.servers = map[string][]int{}
	}
	p.servers[id] = append(before, len(p.bodies))
	p.bodies = append(p.bodies, b)
}

// drop leaves out the last n of a server's events.
func (p *pending) drop(of []int, n int) []int {
	keep := len(of) - n
	for _, at := range of[keep:] {
		p.bodies[at] = nil
	}
	p.dropped += n
	return of[:keep]
}

// take empties p and gives what was in it.
func (p *pending) take() pending {
	taken := *p
	*p = pending{}
	return taken
}

// list gives the facts in order.
func (p *pending) list() []state.Body {
	out := make([]state.Body, 0, p.len())
	for _, b := range p.bodies {
		if b != nil {
			out = append(out, b)
		}
	}
	return out
}

// putBack returns what was taken and could not be journaled. It comes before
// what came since.
func (p *pending) putBack(older pending) {
	newer := p.take()
	*p = older
	p.moved = p.moved || newer.moved
	for _, b := range newer.list() {
		p.add(b, newer.since)
	}
}
