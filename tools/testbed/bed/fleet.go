package bed

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"

	"github.com/lictor-mesh/lictor/tools/testbed/reexec"
	"github.com/lictor-mesh/lictor/tools/testbed/xds"
)

// Fleet is one process on a node that speaks xDS for many proxies, each on a
// connection of its own, as so many Envoys would. Its methods may be called
// concurrently.
type Fleet struct {
	*Process
	stdin io.WriteCloser

	mu      sync.Mutex
	state   map[string]ProxyState
	events  []xds.Event   // the last keepEvents
	dropped int           // events before those
	changed chan struct{} // closed and made anew at each event
}

// ProxyState is what a fleet's proxy last said.
type ProxyState struct {
	Up      bool           // its listeners have arrived on the present stream
	Server  netip.AddrPort // really connected to
	Streams int            // that were ever up
	Last    xds.Event
}

// keepEvents bounds what a fleet remembers, so that it can run for hours.
const keepEvents = 200_000

// order is what the fleet's process is told, one per line.
type order struct {
	Add    *xds.Proxy     `json:"add,omitempty"`
	To     netip.AddrPort `json:"to,omitzero"`
	Netns  string         `json:"netns,omitempty"` // path; default: the process's own
	Remove string         `json:"remove,omitempty"`
}

// StartFleet starts a fleet without proxies.
func (n *Node) StartFleet() (*Fleet, error) {
	// Files, not exec's pipes: whoever waits for the process must not also
	// have to wait for its output to be read.
	inRead, inWrite, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start fleet: %w", err)
	}
	outRead, outWrite, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start fleet: %w", err), inRead.Close(), inWrite.Close())
	}
	p, err := n.Start(Command{
		Name: "fleet", Path: reexec.Path, Argv0: reexec.Argv0("fleet"), Stdin: inRead, Stdout: outWrite,
	})
	err = errors.Join(err, inRead.Close(), outWrite.Close())
	if err != nil {
		return nil, errors.Join(err, inWrite.Close(), outRead.Close())
	}
	f := &Fleet{Process: p, stdin: inWrite, state: map[string]ProxyState{}, changed: make(chan struct{})}
	go f.read(outRead) // ends with the process
	go func() { <-p.done; _ = inWrite.Close() }()
	return f, nil
}

// Add lets a proxy connect to an address, a server's or a VIP, from the network
// namespace of the node `from`; nil is the fleet's own.
func (f *Fleet) Add(p Proxy, to netip.AddrPort, from *Node) error {
	o := order{Add: &xds.Proxy{ID: p.ID, Service: p.Service, NodeName: p.NodeName}, To: to}
	if from != nil {
		o.Netns = from.Netns.Path
	}
	return f.order(o)
}

// Remove ends a proxy's connection, and its trying.
func (f *Fleet) Remove(id string) error {
	err := f.order(order{Remove: id})
	f.mu.Lock()
	delete(f.state, id)
	f.mu.Unlock()
	return err
}

func (f *Fleet) order(o order) error {
	line, err := json.Marshal(o)
	if err != nil {
		return err
	}
	f.mu.Lock() // lines must not mix
	defer f.mu.Unlock()
	if _, err := f.stdin.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("tell %s: %w", f.Name, err)
	}
	if o.Add != nil {
		f.state[o.Add.ID] = ProxyState{}
	}
	return nil
}

func (f *Fleet) read(r io.ReadCloser) {
	defer r.Close()
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		var e xds.Event
		if json.Unmarshal(lines.Bytes(), &e) == nil { // a last line may be cut by a kill
			f.apply(e)
		}
	}
}

func (f *Fleet) apply(e xds.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.events = append(f.events, e); len(f.events) > keepEvents {
		f.events = append([]xds.Event(nil), f.events[keepEvents/2:]...)
		f.dropped += keepEvents / 2
	}
	if s, ok := f.state[e.Proxy]; ok {
		s.Last = e
		switch e.Kind {
		case xds.Connected:
			s.Up = false // by its own stream, whatever one before it said last
			s.Server, _ = netip.ParseAddrPort(e.Server)
		case xds.Up:
			s.Up = true
			s.Streams++
		case xds.Ended:
			s.Up, s.Server = false, netip.AddrPort{}
		}
		f.state[e.Proxy] = s
	}
	close(f.changed)
	f.changed = make(chan struct{})
}

// State returns every proxy's state, by id.
func (f *Fleet) State() map[string]ProxyState {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.state)
}

// Events returns what was reported from the n-th event on, oldest first, and the
// number of the event that will come next. A fleet remembers its last 100,000
// events at least.
func (f *Fleet) Events(n int) (events []xds.Event, next int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	next = f.dropped + len(f.events)
	return slices.Clone(f.events[min(max(0, n-f.dropped), len(f.events)):]), next
}

// Servers counts the proxies that are up, by the server that they are connected to.
func (f *Fleet) Servers() map[netip.AddrPort]int {
	count := map[netip.AddrPort]int{}
	for _, s := range f.State() {
		if s.Up {
			count[s.Server]++
		}
	}
	return count
}

// WaitUp waits until at least n proxies are up.
func (f *Fleet) WaitUp(ctx context.Context, n int) error {
	return f.Wait(ctx, fmt.Sprintf("%d proxies are up", n), func(states map[string]ProxyState) bool {
		up := 0
		for _, s := range states {
			if s.Up {
				up++
			}
		}
		return up >= n
	})
}

// Wait waits until ok is true of the states; it is called at each event.
func (f *Fleet) Wait(ctx context.Context, what string, ok func(map[string]ProxyState) bool) error {
	for {
		f.mu.Lock()
		states, changed := maps.Clone(f.state), f.changed
		f.mu.Unlock()
		if ok(states) {
			return nil
		}
		select {
		case <-changed:
		case <-f.done:
			return f.ended()
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w; servers: %v", what, context.Cause(ctx), f.Servers())
		}
	}
}
