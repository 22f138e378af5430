package main

import (
	"fmt"
	"sync/atomic"
)

// keeper is what promises are made by: a journal, or a lictord with one.
type keeper interface {
	// Register returns the VIP that was promised.
	Register(id string) (vip string, err error)
	Deregister(id string) error
}

// maxLive is how many proxies a client has registered before it deregisters the
// oldest, so that a journal's snapshots stay small however long it lives.
const maxLive = 12

// client registers and deregisters proxies of its own, one call at a time, and
// remembers what it was told. An id is used once, so whatever it has not been
// told is there must not be.
type client struct {
	name string
	next int
	live []string          // ids, oldest first
	told map[string]string // id to VIP: registrations that were acknowledged
	// doubt is the id of the call that was under way when the power went: it may
	// have come into force or not. "" when there was none.
	doubt string
}

// run calls until a call fails, which is when the power is gone. acks counts
// what was acknowledged, over all clients.
func (c *client) run(k keeper, acks *atomic.Uint64) error {
	for {
		if err := c.call(k); err != nil {
			return err
		}
		acks.Add(1)
		c.doubt = ""
	}
}

func (c *client) call(k keeper) error {
	if len(c.live) >= maxLive || len(c.live) > 2 && c.next%3 == 2 {
		c.next++
		c.doubt = c.live[0]
		if err := k.Deregister(c.doubt); err != nil {
			return err
		}
		c.live = c.live[1:]
		delete(c.told, c.doubt)
		return nil
	}
	c.doubt = fmt.Sprintf("%s-%d", c.name, c.next)
	c.next++
	vip, err := k.Register(c.doubt)
	if err != nil {
		return err
	}
	c.live = append(c.live, c.doubt)
	c.told[c.doubt] = vip
	return nil
}

// check compares what is in force after the cut, id to VIP, with what the
// client was told, and takes its entries out of found. It says what was lost or
// is there without having been acknowledged, and goes on from what is there.
func (c *client) check(found map[string]string) (wrong []string) {
	for _, id := range c.live {
		vip, there := found[id]
		switch {
		case !there && id != c.doubt: // the doubt is a deregistration then
			wrong = append(wrong, fmt.Sprintf("%s was promised %s and is not registered", id, c.told[id]))
		case there && vip != c.told[id]:
			wrong = append(wrong, fmt.Sprintf("%s was promised %s and has %s", id, c.told[id], vip))
		}
	}
	order := c.live
	if _, registered := c.told[c.doubt]; !registered && c.doubt != "" {
		order = append(order, c.doubt)
	}
	c.live, c.doubt = nil, ""
	for _, id := range order {
		if vip, there := found[id]; there {
			c.live, c.told[id] = append(c.live, id), vip
		} else {
			delete(c.told, id)
		}
		delete(found, id)
	}
	return wrong
}

// fleet is all the clients of a run.
type fleet []*client

func newFleet(n int) fleet {
	f := make(fleet, n)
	for i := range f {
		f[i] = &client{name: fmt.Sprintf("client-%d", i), told: map[string]string{}}
	}
	return f
}

// check is that of all clients. What none of them has asked for, or was told is
// gone, must not be there.
func (f fleet) check(found map[string]string) (wrong []string) {
	for _, c := range f {
		wrong = append(wrong, c.check(found)...)
	}
	for id, vip := range found {
		wrong = append(wrong, fmt.Sprintf("%s has %s and was not promised it", id, vip))
	}
	return wrong
}
