package main

import (
	"strings"
	"time"
)

// setup is what is between an Envoy and Consul's servers.
type setup string

const (
	lictor    setup = "lictor"    // a VIP
	list      setup = "list"      // all servers, in the bootstrap
	dataplane setup = "dataplane" // a consul-dataplane
)

// fault is what happens to the server.
type fault string

const (
	kill fault = "kill" // SIGKILL
	cut  fault = "cut"  // its network drops everything in silence
)

// scenario is what is repeated.
type scenario struct {
	setup setup
	fault fault
	room  bool // on the other servers, for the streams of the one that is lost
	dead  bool // lictord, since before the fault
}

func (s scenario) String() string {
	words := []string{string(s.setup), string(s.fault), "full"}
	if s.room {
		words[2] = "room"
	}
	if s.setup == lictor {
		words = append(words, s.daemon())
	}
	return strings.Join(words, " ")
}

func (s scenario) daemon() string {
	switch {
	case s.setup != lictor:
		return ""
	case s.dead:
		return "dead"
	default:
		return "alive"
	}
}

// envoys and absent are how many Envoys run, and how many proxies more the
// catalog has. A server takes 1.1 times its share of all of them: without the
// absent ones two of three servers have room for two of the five streams of the
// third, with them for all.
func (s scenario) envoys() int {
	if s.room {
		return 9
	}
	return 15
}

func (s scenario) absent() int {
	if s.room {
		return 18
	}
	return 0
}

// scenarios are all that are measured.
func scenarios(withDataplane bool) (all []scenario) {
	setups := []setup{lictor, list}
	if withDataplane {
		setups = append(setups, dataplane)
	}
	for _, room := range []bool{true, false} {
		for _, f := range []fault{kill, cut} {
			for _, s := range setups {
				all = append(all, scenario{setup: s, fault: f, room: room})
				if s == lictor {
					all = append(all, scenario{setup: s, fault: f, room: room, dead: true})
				}
			}
		}
	}
	return all
}

// wanted is what a scenario's figures are held against, zero for nothing.
type wanted struct {
	streamMedian time.Duration // until a stream is up elsewhere
	changeWorst  time.Duration // until the change is there
}

func (s scenario) wanted() wanted {
	switch {
	case s.setup != lictor || !s.room:
		return wanted{}
	case s.fault == kill:
		return wanted{streamMedian: 200 * time.Millisecond}
	case s.dead:
		return wanted{changeWorst: 6 * time.Second}
	default:
		return wanted{changeWorst: 4 * time.Second}
	}
}
