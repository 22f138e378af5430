package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

// narrator tells the journal's events to people. It is fed in order, and what it
// has heard says why a proxy was moved: from where, and what became of the
// server before. What it has not heard it leaves out.
type narrator struct {
	app     *app
	on      map[string]string // proxy → the server it has first, "" for none
	servers map[string]fate   // what became of a server last
}

// fate is what became of a server.
type fate struct {
	kind string // of the event
	by   string
	at   time.Time
}

// joinedLately is how long after a server came proxies are still moved to it for
// that.
const joinedLately = 10 * time.Minute

func (a *app) narrator() *narrator {
	return &narrator{app: a, on: map[string]string{}, servers: map[string]fate{}}
}

// tell says in words what an event says, and takes note of it. One of a kind
// that this version does not know is shown as it is.
func (n *narrator) tell(event v1.JournalEvent) string {
	var d eventData
	if err := json.Unmarshal(event.Data, &d); err != nil {
		return string(event.Data)
	}
	text := n.words(event, d)
	n.learn(event, d)
	return text
}

// hear takes note of an event without telling it.
func (n *narrator) hear(event v1.JournalEvent) {
	var d eventData
	if json.Unmarshal(event.Data, &d) == nil {
		n.learn(event, d)
	}
}

func (n *narrator) learn(event v1.JournalEvent, d eventData) {
	id := d.ID
	if d.Server != nil {
		id = d.Server.ID
	}
	switch event.Kind {
	case "ServerSeen", "ServerGone", "ServerDrained", "ServerUndrained":
		at := event.Time
		if !d.At.IsZero() {
			at = d.At
		}
		n.servers[id] = fate{kind: event.Kind, by: d.By, at: at}
	case "Placed":
		n.on[id] = first(d.Ranked)
	case "ProxyDeregistered":
		delete(n.on, id)
	}
}

func (n *narrator) words(event v1.JournalEvent, d eventData) string {
	switch event.Kind {
	case "ServerSeen":
		if d.Server != nil {
			return d.Server.ID + " is listed by Consul: " + d.address()
		}
	case "ServerChanged":
		if d.Server != nil {
			return d.Server.ID + " has changed: " + d.address()
		}
	case "ServerGone":
		return d.ID + " is no longer listed by Consul as passing"
	case "ServerDrained":
		who, scope := drainer(d.By)
		return d.ID + " was drained" + scope + " by " + who
	case "ServerUndrained":
		if who, scope := drainer(d.By); scope == "" {
			return d.ID + "'s drain was ended by " + who
		}
		return d.ID + "'s drain for the whole fleet has ended"
	case "ProxyRegistered":
		return d.registered()
	case "ProxyChanged":
		return d.changes(event)
	case "ProxyDeregistered":
		return d.ID + " is no longer registered: " + leaveWords(d.Reason)
	case "Placed":
		return n.placed(event, d)
	}
	return d.credentialWords(n.app, event)
}

// placed tells of a placement: where to, from where, and why.
func (n *narrator) placed(event v1.JournalEvent, d eventData) string {
	was, known := n.on[d.ID]
	now := first(d.Ranked)
	why := n.why(event, d)
	switch {
	case now == "" && was != "":
		return fmt.Sprintf("%s has left %s and has no server: %s", d.ID, was, why)
	case now == "":
		return fmt.Sprintf("%s has no server: %s", d.ID, why)
	case known && was == now:
		return fmt.Sprintf("%s stays on %s%s: %s", d.ID, now, then(d.Ranked), why)
	case d.Reason == "initial":
		return fmt.Sprintf("%s: on %s%s, %s", d.ID, now, then(d.Ranked), why)
	}
	return fmt.Sprintf("%s moved%s to %s%s: %s", d.ID, from(was), now, then(d.Ranked), why)
}

func from(server string) string {
	if server == "" {
		return ""
	}
	return " from " + server
}

// then names the servers that come next.
func then(ranked []string) string {
	if len(ranked) < 2 {
		return ""
	}
	return " (then " + strings.Join(ranked[1:], ", ") + ")"
}

func first(ranked []string) string {
	if len(ranked) == 0 {
		return ""
	}
	return ranked[0]
}

// why says what led to a placement, and who, as far as that was heard.
func (n *narrator) why(event v1.JournalEvent, d eventData) string {
	was, now := n.on[d.ID], first(d.Ranked)
	old, new := n.servers[was], n.servers[now]
	name := was
	if name == "" {
		name = "the server before"
	}
	switch d.Reason {
	case "initial":
		return "when it was registered"
	case "connect-failed":
		return "the kernel moved it, as a connect to " + name + " failed"
	case "bounced":
		return "the kernel moved it, as " + name + " ended its connection at once: at its capacity, or refusing the token"
	case "server-gone":
		switch {
		case was != "" && was == now: // the list behind it is shorter
			return "another server has gone"
		case old.kind == "ServerGone":
			return "Consul no longer lists " + name + n.app.since(old.at)
		case old.kind == "ServerDrained":
			return old.drained(name) + n.at(old.at)
		}
		return "Consul no longer lists " + name
	case "rebalance":
		if new.kind == "ServerSeen" && event.Time.Sub(new.at) < joinedLately && was != now {
			return now + " has joined" + n.at(new.at) + " and gets its share"
		}
		return "so that every server has its share"
	case "operator":
		switch {
		case old.kind == "ServerDrained":
			return old.drained(name) + n.at(old.at)
		case new.kind == "ServerUndrained":
			return new.undrained(now) + n.at(new.at)
		}
		return "an operator drained a server, or ended a drain"
	}
	return d.Reason
}

// drained says who drained a server.
func (f fate) drained(server string) string {
	who, scope := drainer(f.by)
	return who + " drained " + server + scope
}

// undrained says who ended that. A host ends a drain of the fleet by itself.
func (f fate) undrained(server string) string {
	if who, scope := drainer(f.by); scope == "" {
		return who + " ended the drain of " + server
	}
	return "the fleet's drain of " + server + " ended"
}

// at is when something happened, as the end of some words; "" when not known.
func (n *narrator) at(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return " at " + n.app.clock(t)
}

// prime tells it how things are now, so that the first events to come can be
// told as well as the later ones. What is not known to it is left out.
func (n *narrator) prime(ctx context.Context, client *v1.Client) {
	proxies, err := client.Proxies(ctx)
	if err != nil {
		return
	}
	servers, err := client.Servers(ctx)
	if err != nil {
		return
	}
	for _, p := range proxies {
		if len(p.Servers) > 0 {
			n.on[p.ProxyID] = p.Servers[0].ID
		}
	}
	for _, s := range servers {
		switch {
		case s.Drained:
			n.servers[s.ID] = fate{kind: "ServerDrained", by: s.DrainedBy}
		case s.Listed:
			n.servers[s.ID] = fate{kind: "ServerSeen", at: s.Since}
		}
	}
}
