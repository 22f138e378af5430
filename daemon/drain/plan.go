package drain

import (
	"net/netip"
	"slices"
	"time"

	"github.com/lictor-mesh/lictor/daemon/registry"
	"github.com/lictor-mesh/lictor/kernel"
)

// reason says why a server is to be left.
type reason string

const (
	drained reason = "drained" // by an operator; it serves meanwhile
	gone    reason = "gone"    // from the catalog, which lists what is passing
	moved   reason = "moved"   // it is listed at another address
)

// servers is what the state says of them.
type servers struct {
	registry.Snapshot
	// followed: the list is Consul's. Else it is what a name resolves to, perhaps
	// to some of many addresses, other ones each time: an address that is not
	// among them any more is no worse than before.
	followed bool
}

// why says for which reason all connections to a server are to be left, "" for
// none.
func (s servers) why(id string) reason {
	if s.State.Servers[id] == nil && s.followed {
		return gone // drained or not: nobody vouches for it
	}
	if _, is := s.State.Drained[id]; is {
		return drained
	}
	return ""
}

// whyAt is why for a connection to one of a server's addresses.
func (s servers) whyAt(id string, at netip.AddrPort) reason {
	srv, reason := s.State.Servers[id], s.why(id)
	if reason != "" || srv == nil || !s.followed {
		return reason
	}
	if at.Port() == srv.Port && (at.Addr() == srv.Addr4 || at.Addr() == srv.Addr6) {
		return ""
	}
	return moved
}

// ids are those of the servers by slot.
func (s servers) ids() map[uint16]string {
	ids := make(map[uint16]string, len(s.Slots))
	for id, slot := range s.Slots {
		ids[slot] = id
	}
	return ids
}

// leavers says whether there is an established socket that is to leave its
// server.
func (s servers) leavers(sockets []kernel.Socket) bool {
	ids := s.ids()
	return slices.ContainsFunc(sockets, func(o kernel.Socket) bool {
		id, known := ids[o.Slot]
		return known && o.Established && s.whyAt(id, o.Server) != ""
	})
}

// departure is a server with connections that are to leave it.
type departure struct {
	id     string
	why    reason
	open   int             // connections
	ready  []kernel.Socket // those whose VIP leads to other servers
	alone  int             // those whose VIP leads nowhere
	orphan int             // those of a VIP that is no more
}

// plan is what is to be left, as of one look.
type plan struct {
	servers map[string]*departure
	server  map[uint64]string // socket by cookie → server id
	settled map[uint32]bool   // VIP slots that have a connection which may stay
}

// makePlan sorts the established sockets. Whether a VIP leads elsewhere is read
// from the kernel's own entry, which is what the next connect goes by: one that
// was not written yet closes nothing.
func makePlan(all servers, sockets []kernel.Socket, vips []kernel.VIP) plan {
	p := plan{servers: map[string]*departure{}, server: map[uint64]string{}, settled: map[uint32]bool{}}
	ids := all.ids()
	entries := make(map[netip.AddrPort]kernel.VIP, len(vips))
	for _, v := range vips {
		entries[v.Key.Addr] = v
	}
	for _, s := range sockets {
		id, known := ids[s.Slot]
		if !s.Established || !known {
			continue
		}
		reason := all.whyAt(id, s.Server)
		if reason == "" {
			p.settled[s.VIPSlot] = true
			continue
		}
		d := p.servers[id]
		if d == nil {
			d = &departure{id: id, why: reason}
			p.servers[id] = d
		}
		d.open++
		p.server[s.Cookie] = id
		switch v, registered := entries[s.VIP]; {
		case !registered || v.Slot != s.VIPSlot:
			d.orphan++
		case len(v.Ranked) == 0:
			d.alone++
		case !leadsTo(v, s.Server):
			d.ready = append(d.ready, s)
		}
	}
	return p
}

// leadsTo says whether the next connect to a VIP may go to a server.
func leadsTo(v kernel.VIP, server netip.AddrPort) bool {
	return slices.ContainsFunc(v.Ranked, func(b kernel.Backend) bool { return b.Addr == server })
}

// ready gives what may be closed, but for what was tried in vain lately: gently
// where a server still serves, fast where it is gone.
func (p plan) ready(tried map[uint64]time.Duration) (gentle, fast []kernel.Socket) {
	for _, d := range p.servers {
		for _, s := range d.ready {
			if _, later := tried[s.Cookie]; later {
				continue
			}
			if d.why == gone {
				fast = append(fast, s)
			} else {
				gentle = append(gentle, s)
			}
		}
	}
	return gentle, fast
}
