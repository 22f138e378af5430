package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

// books are what lictord says of its proxies and servers at one time.
type books struct {
	proxies []v1.Proxy
	servers []v1.Server
	streams map[string]int // by server, as the kernel has the sockets
}

// open reads the books.
func (m *mesh) open(ctx context.Context) (b books, err error) {
	if b.proxies, err = m.client.Proxies(ctx); err != nil {
		return b, err
	}
	if b.servers, err = m.client.Servers(ctx); err != nil {
		return b, err
	}
	b.streams = map[string]int{}
	for _, who := range m.members {
		streams, err := m.streams(who)
		if err != nil {
			return b, err
		}
		for server, n := range streams {
			b.streams[server] += n
		}
	}
	return b, nil
}

// agree reads the books once lictord counts as many connections to each server
// as there are sockets, and every running Envoy has one: neither can be looked
// at in the same instant as the other.
func (m *mesh) agree(ctx context.Context) (b books, err error) {
	return b, eventually(ctx, func() error {
		if b, err = m.open(ctx); err != nil {
			return err
		}
		all := 0
		for _, server := range b.servers {
			if have := uint64(b.streams[server.ID]); have != server.Active {
				return fmt.Errorf("lictord counts %d connections to %s, the kernel has %d", server.Active, server.ID, have)
			}
			all += b.streams[server.ID]
		}
		if all != len(m.running()) {
			return fmt.Errorf("there are %d connections for %d Envoys", all, len(m.running()))
		}
		return nil
	})
}

// same tells what differs in the assignments, if anything does.
func (b books) same(after books) error {
	var errs []error
	if len(b.proxies) != len(after.proxies) {
		errs = append(errs, fmt.Errorf("there are %d proxies, there were %d", len(after.proxies), len(b.proxies)))
	}
	for _, was := range b.proxies {
		i := slices.IndexFunc(after.proxies, func(p v1.Proxy) bool { return p.ProxyID == was.ProxyID })
		if i < 0 {
			errs = append(errs, fmt.Errorf("%s is gone", was.ProxyID))
			continue
		}
		if had, has := assignment(was), assignment(after.proxies[i]); had != has {
			errs = append(errs, fmt.Errorf("%s has %s, it had %s", was.ProxyID, has, had))
		}
	}
	return errors.Join(errs...)
}

// assignment is what must outlive lictord: what was promised, and the servers
// in their order.
func assignment(p v1.Proxy) string {
	var servers []string
	for _, s := range p.Servers {
		servers = append(servers, s.ID)
	}
	return fmt.Sprintf("%s%s:%d for %s %d on %s", p.VIP, p.VIP6, p.Port, p.Owner.Kind, p.Owner.ID, strings.Join(servers, ", "))
}

// grown is how many connections were counted since; an error when a counter
// went back, or when there are Envoys that nothing was counted for.
func (b books) grown(after books) (more uint64, err error) {
	var had, has uint64
	for _, was := range b.servers {
		i := slices.IndexFunc(after.servers, func(s v1.Server) bool { return s.ID == was.ID })
		if i < 0 && was.Established > 0 {
			return 0, fmt.Errorf("the counts of %s are gone", was.ID)
		}
		if i < 0 {
			continue
		}
		if now := after.servers[i]; now.Established < was.Established {
			return 0, fmt.Errorf("%s had %d connections, it has %d", was.ID, was.Established, now.Established)
		}
		had += was.Established
	}
	for _, now := range after.servers {
		has += now.Established
	}
	for _, p := range after.proxies {
		if p.Total == 0 {
			return 0, fmt.Errorf("no connection was counted for %s", p.ProxyID)
		}
	}
	if has == had {
		return 0, errors.New("the connection of the new Envoy was not counted")
	}
	return has - had, nil
}
