package storm

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/state"
)

// Judge compares the ledger, the API, the journal and the kernel's map. The
// clients are held meanwhile.
type Judge struct {
	API    *v1.Client
	Pins   string // directory
	Ledger *Ledger
	// Journal is what has been read of the journal so far.
	Journal *Follower
	// Others says of a proxy that is not in the ledger that it may be there.
	Others func(id string) bool
}

// agree is how long what is not a promise may take: a placement is in force
// before it is journaled, within a second.
const agree = 3 * time.Second

// Dead compares the kernel's map with the ledger while no daemon runs: what was
// promised redirects, what was deregistered does not.
func (j *Judge) Dead() error {
	entries, err := ReadPins(j.Pins)
	if err != nil {
		return err
	}
	have := map[string]bool{}
	for _, e := range entries {
		have[e.VIP.Addr().String()] = true
	}
	must, doubtful := j.Ledger.promised()
	var errs []error
	for id, vip := range must {
		if !have[vip] {
			errs = append(errs, fmt.Errorf("%s was promised %s, which has no entry in the kernel", id, vip))
		}
		delete(have, vip)
	}
	extra := 0
	for vip := range have {
		if addr := netip.MustParseAddr(vip); addr.Is4() {
			extra++
		}
	}
	if j.Others == nil && extra > doubtful {
		errs = append(errs, fmt.Errorf("%d VIPs have an entry in the kernel that nobody was promised, and of %d calls only it is not known whether they came into force", extra, doubtful))
	}
	return errors.Join(errs...)
}

// Alive compares everything, and settles the ledger. Promises must hold at
// once; the rest must come to agree.
func (j *Judge) Alive(ctx context.Context) error {
	listed, err := j.API.Proxies(ctx)
	if err != nil {
		return err
	}
	mine := slices.DeleteFunc(slices.Clone(listed), func(p v1.Proxy) bool { return j.Others != nil && j.Others(p.ProxyID) })
	errs := j.Ledger.Settle(mine)
	for end := time.Now().Add(agree); ; time.Sleep(50 * time.Millisecond) {
		err := j.compare(ctx)
		if err == nil || time.Now().After(end) {
			return errors.Join(append(errs, err)...)
		}
	}
}

// compare holds API, journal and kernel against each other.
func (j *Judge) compare(ctx context.Context) error {
	listed, err := j.API.Proxies(ctx)
	if err != nil {
		return err
	}
	if err := j.Journal.Read(ctx, j.API); err != nil {
		return err
	}
	entries, err := ReadPins(j.Pins)
	if err != nil {
		return err
	}
	return errors.Join(sameProxies(listed, j.Journal.State), sameEntries(entries, j.Journal.State, listed))
}

// sameProxies compares the API with the journal.
func sameProxies(listed []v1.Proxy, s state.State) error {
	var errs []error
	if len(listed) != len(s.Proxies) {
		errs = append(errs, fmt.Errorf("the API lists %d proxies, the journal has %d", len(listed), len(s.Proxies)))
	}
	for _, p := range listed {
		was := s.Proxies[p.ProxyID]
		if was == nil {
			errs = append(errs, fmt.Errorf("the API lists %s, which is not in the journal", p.ProxyID))
			continue
		}
		var usable []string
		for _, id := range was.Ranked {
			if _, drained := s.Drained[id]; s.Servers[id] != nil && !drained {
				usable = append(usable, id)
			}
		}
		var servers []string
		for _, ref := range p.Servers {
			servers = append(servers, ref.ID)
		}
		if p.VIP != "" && p.VIP != was.VIP.String() || p.NodeName != was.Node || !slices.Equal(servers, usable) {
			errs = append(errs, fmt.Errorf("the API says that %s has %s, node %s, servers %v; the journal %s, %s, %v",
				p.ProxyID, p.VIP, p.NodeName, servers, was.VIP, was.Node, usable))
		}
	}
	return errors.Join(errs...)
}

// sameEntries compares the kernel with the journal; the API tells only the port.
func sameEntries(entries []Entry, s state.State, listed []v1.Proxy) error {
	want := map[netip.AddrPort]*state.Proxy{}
	for _, p := range listed {
		was := s.Proxies[p.ProxyID]
		if was == nil {
			continue
		}
		for _, vip := range []netip.Addr{was.VIP, was.VIP6} {
			if vip.IsValid() {
				want[netip.AddrPortFrom(vip, p.Port)] = was
			}
		}
	}
	var errs []error
	for _, e := range entries {
		p := want[e.VIP]
		if p == nil {
			errs = append(errs, fmt.Errorf("the kernel has an entry for %s, which the journal does not", e.VIP))
			continue
		}
		delete(want, e.VIP)
		ranked := backends(s, p, e.VIP.Addr().Is4())
		if e.Slot != p.Index || p.Owner.Kind != state.OwnerAny && e.OwnerID != p.Owner.ID || !slices.Equal(e.Ranked, ranked) {
			errs = append(errs, fmt.Errorf("the kernel has %+v for %s, the journal slot %d, owner %+v, servers %v",
				e, p.ID, p.Index, p.Owner, ranked))
		}
	}
	for vip, p := range want {
		errs = append(errs, fmt.Errorf("the kernel has no entry for %s of %s", vip, p.ID))
	}
	return errors.Join(errs...)
}

// backends are the addresses to which a connect to a VIP of the family may go.
func backends(s state.State, p *state.Proxy, v4 bool) (addrs []netip.AddrPort) {
	for _, id := range p.Ranked {
		server := s.Servers[id]
		if _, drained := s.Drained[id]; server == nil || drained {
			continue
		}
		addr := server.Addr6
		if v4 {
			addr = server.Addr4
		}
		if addr.IsValid() {
			addrs = append(addrs, netip.AddrPortFrom(addr, server.Port))
		}
	}
	return addrs
}
