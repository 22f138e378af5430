package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/state/journal"
)

// writer is a keeper that consists of a journal: as lictord does, it gives the
// calls that come while the disk syncs the next sync together, and takes
// snapshots between two.
type writer struct {
	journal *journal.Journal
	state   state.State
	calls   chan call
	ended   chan struct{} // closed when run has returned
	next    uint32        // VIP index
	events  uint64        // journaled and acknowledged
}

type call struct {
	body   func(index uint32) []state.Body
	answer chan answer // buffered
}

type answer struct {
	index uint32
	err   error
}

// snapshotEvery is a number of commits: often, as it is the largest transaction
// that a cut can tear.
const snapshotEvery = 25

// pool is the number of VIPs; one is given again long after it was given back.
const pool = 60_000

func newWriter(j *journal.Journal, s state.State) *writer {
	w := &writer{journal: j, state: s, calls: make(chan call), ended: make(chan struct{})}
	for _, p := range s.Proxies {
		w.next = max(w.next, p.Index)
	}
	return w
}

// run commits until a commit fails, and refuses whoever waits.
func (w *writer) run() {
	defer close(w.ended)
	for commits := 1; ; commits++ {
		if commits%snapshotEvery == 0 && w.journal.Snapshot(w.state) != nil {
			return
		}
		if w.commit(w.gather()) != nil {
			return
		}
	}
}

// gather waits for a call and takes those that wait with it.
func (w *writer) gather() []call {
	calls := []call{<-w.calls}
	for {
		select {
		case c := <-w.calls:
			calls = append(calls, c)
		default:
			return calls
		}
	}
}

func (w *writer) commit(calls []call) error {
	var bodies []state.Body
	indices := make([]uint32, len(calls))
	for i, c := range calls {
		w.next = w.next%pool + 1
		indices[i] = w.next
		bodies = append(bodies, c.body(w.next)...)
	}
	events, err := w.journal.Append(bodies...)
	for _, e := range events {
		w.state = state.Fold(w.state, e)
	}
	w.events += uint64(len(events))
	for i, c := range calls {
		c.answer <- answer{indices[i], err}
	}
	return err
}

var errNoPower = errors.New("the writer has ended")

func (w *writer) do(body func(index uint32) []state.Body) (index uint32, err error) {
	c := call{body, make(chan answer, 1)}
	select {
	case w.calls <- c:
	case <-w.ended:
		return 0, errNoPower
	}
	a := <-c.answer
	return a.index, a.err
}

// Register journals a registration with its placement, which are one promise.
func (w *writer) Register(id string) (vip string, err error) {
	index, err := w.do(func(index uint32) []state.Body { return registration(id, index) })
	return vipOf(index).String(), err
}

func registration(id string, index uint32) []state.Body {
	return []state.Body{
		state.ProxyRegistered{Proxy: state.Registration{
			ID: id, Node: "pod-virtual", Owner: state.Owner{Kind: state.OwnerAny}, Index: index, VIP: vipOf(index),
		}},
		state.Placed{ID: id, Ranked: rankedOf(id), Reason: state.PlaceInitial},
	}
}

// Deregister journals the end of a registration.
func (w *writer) Deregister(id string) error {
	_, err := w.do(func(uint32) []state.Body {
		return []state.Body{state.ProxyDeregistered{ID: id, Reason: state.LeaveOperator}}
	})
	return err
}

func vipOf(index uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{239, 77, byte(index >> 8), byte(index)})
}

// rankedOf gives each proxy a list of its own, so that a mix-up would show.
func rankedOf(id string) []string { return []string{"server-of-" + id, "server-1", "server-2"} }

// inForce gives the VIPs of a replayed state, and says which registrations are
// there without what was journaled with them.
func inForce(s state.State) (found map[string]string, half []string) {
	found = map[string]string{}
	for id, p := range s.Proxies {
		found[id] = p.VIP.String()
		if strings.Join(p.Ranked, " ") != strings.Join(rankedOf(id), " ") {
			half = append(half, fmt.Sprintf("%s is registered and placed on %s", id, strconv.Quote(strings.Join(p.Ranked, " "))))
		}
	}
	return found, half
}
