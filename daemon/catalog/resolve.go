package catalog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// lookup is the system's resolver.
func lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", name)
}

// resolve finds the addresses that the operator's words stand for now, in the
// order given. What one name stands for is returned also when another fails.
func (c *Catalog) resolve(ctx context.Context) ([]netip.AddrPort, error) {
	hosts := c.spec.hosts
	if c.spec.command != nil {
		var err error
		if hosts, err = runCommand(ctx, c.spec.command, c.timing.command); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 2*c.timing.answer) // for all names together
	defer cancel()
	port := c.cfg.HTTPPort
	if c.cfg.WatchDisabled || c.cfg.GRPCOnly {
		port = c.cfg.GRPCPort
	}
	var all []netip.AddrPort
	var errs []error
	for _, h := range hosts {
		addrs := []netip.Addr{{}}
		var err error
		if addrs[0], err = netip.ParseAddr(h.name); err != nil {
			addrs, err = c.cfg.Lookup(ctx, h.name)
			addrs = slices.DeleteFunc(addrs, func(a netip.Addr) bool { return !usable(a.Unmap()) })
			if err == nil && len(addrs) == 0 {
				err = errors.New("no address that a server can have")
			}
			if err != nil {
				errs = append(errs, &Problem{
					Sentence: fmt.Sprintf("the DNS name %s in --consul-addresses cannot be resolved: check the name and this host's DNS", h.name),
					Err:      err,
				})
			}
		}
		for _, a := range addrs {
			ap := netip.AddrPortFrom(a.Unmap(), cmp.Or(h.port, port))
			if !slices.Contains(all, ap) {
				all = append(all, ap)
			}
		}
	}
	return all, errors.Join(errs...)
}

// Refresh asks for the addresses to be resolved anew, before their time: of use
// with Config.WatchDisabled, when a connect to a server has failed. It never
// blocks and may be called as often as one likes.
func (c *Catalog) Refresh() {
	select {
	case c.resolveNow <- struct{}{}:
	default:
	}
}

// resolveLoop resolves at start, on a timer and when asked, until ctx ends. The
// addresses last known stay when it fails.
func (c *Catalog) resolveLoop(ctx context.Context) {
	failures := 0
	for ctx.Err() == nil {
		addrs, err := c.resolve(ctx)
		if ctx.Err() != nil {
			return
		}
		if len(addrs) > 0 && (err == nil || c.partial()) {
			c.found(addrs)
		}
		if err != nil {
			c.resolveFailed(len(addrs), err)
			sleep(ctx, c.pause(failures+1, 1))
			failures++
			continue
		}
		failures = 0
		// Asked for by every failure of a query, it must not run in a tight loop.
		sleep(ctx, c.timing.backoff)
		timer := time.NewTimer(c.timing.resolve*3/4 + rand.N(c.timing.resolve/2+1))
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-c.resolveNow:
		}
		timer.Stop()
	}
}

// partial says whether addresses are to be taken though others could not be
// found out. Where they only say whom to ask, yes. Where they are the servers,
// proxies would lose those that a resolver does not answer for just now; so only
// while there are none at all.
func (c *Catalog) partial() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.cfg.WatchDisabled || c.last == nil
}

// resolveFailed reports a failed resolution. While another address is good it
// is no loss of contact, but counted.
func (c *Catalog) resolveFailed(found int, err error) {
	if c.cfg.WatchDisabled || found == 0 && c.Status().Server == "" {
		c.problem("", err)
		return
	}
	c.fail(err)
	c.log.Debug("resolve addresses", "err", err)
}

// found takes over what the operator's addresses resolve to.
func (c *Catalog) found(addrs []netip.AddrPort) {
	names := make([]string, len(addrs))
	for i, ap := range addrs {
		names[i] = ap.String()
	}
	if !c.cfg.WatchDisabled {
		c.targets.setOperator(names)
		select {
		case c.resolved <- struct{}{}:
		default:
		}
		return
	}
	servers := make([]Server, len(addrs))
	for i, ap := range addrs {
		servers[i] = Server{ID: names[i], Port: ap.Port()}
		if ap.Addr().Is4() {
			servers[i].Addr4 = ap.Addr()
		} else {
			servers[i].Addr6 = ap.Addr()
		}
	}
	slices.SortFunc(servers, func(a, b Server) int { return cmp.Compare(a.ID, b.ID) })
	c.contact(strings.Join(names, ","))
	if c.publish(servers) {
		c.log.Info("servers changed", "servers", names)
	}
}
