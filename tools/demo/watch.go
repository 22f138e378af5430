package main

import (
	"context"
	"strings"
	"sync"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

// lookAround is how often the sockets and lictord are looked at for the view.
const lookAround = 100 * time.Millisecond

// watch keeps a picture of servers, streams and lictord.
type watch struct {
	mesh *mesh
	feed *feed

	mu  sync.Mutex
	pic picture
}

// picture is how things are. Maps in it are made anew, never written to.
type picture struct {
	streams  map[string]map[string]int // member, server, connections in the kernel
	assigned map[string]string         // member, server that lictord has first; as it last said
	servers  []serverPicture
	lictor   lictorPicture
}

type serverPicture struct {
	name          string
	alive, listed bool
}

type lictorPicture struct {
	alive, answers, ready bool
	pid                   int
	seq                   uint64
	active                uint64 // connections that it counts
}

// run looks until the context ends.
func (w *watch) run(ctx context.Context) {
	tick := time.NewTicker(lookAround)
	defer tick.Stop()
	for {
		w.look(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// now is the picture as it last was.
func (w *watch) now() picture {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pic
}

func (w *watch) look(ctx context.Context) {
	before := w.now()
	pic := picture{streams: map[string]map[string]int{}, assigned: before.assigned}
	for _, who := range w.mesh.members {
		streams, err := w.mesh.streams(who)
		if err != nil {
			streams = before.streams[who.name]
		}
		pic.streams[who.name] = streams
	}
	listed := map[string]bool{}
	for _, s := range before.servers {
		listed[s.name] = s.listed
	}
	pic.lictor = w.lookAtLictor(ctx, &pic, listed)
	for _, s := range w.mesh.cluster.Servers() {
		pic.servers = append(pic.servers, serverPicture{name: s.Name, alive: s.Process().Alive(), listed: listed[s.Name]})
	}
	if ctx.Err() != nil {
		return
	}
	w.mu.Lock()
	w.pic = pic
	w.mu.Unlock()
	w.tell(before, pic)
}

// lookAtLictor asks lictord, and leaves what it does not say as it was.
func (w *watch) lookAtLictor(ctx context.Context, pic *picture, listed map[string]bool) (l lictorPicture) {
	p := w.mesh.lictor.Process()
	l.pid, l.alive = p.PID(), p.Alive()
	if !l.alive {
		return l
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	status, err := w.mesh.client.Status(ctx)
	if err != nil {
		return l
	}
	servers, err := w.mesh.client.Servers(ctx)
	if err != nil {
		return l
	}
	proxies, err := w.mesh.client.Proxies(ctx)
	if err != nil {
		return l
	}
	l.answers, l.ready, l.seq = true, status.Ready, status.Journal.Seq
	clear(listed)
	for _, s := range servers {
		listed[s.ID] = s.Listed
		l.active += s.Active
	}
	pic.assigned = assigned(proxies)
	return l
}

// assigned is the server that each member has first.
func assigned(proxies []v1.Proxy) map[string]string {
	out := map[string]string{}
	for _, p := range proxies {
		if len(p.Servers) > 0 {
			out[memberOf(p.ProxyID)] = p.Servers[0].ID
		}
	}
	return out
}

// tell says which connections came and went.
func (w *watch) tell(before, now picture) {
	for _, who := range w.mesh.members {
		was, is := before.streams[who.name], now.streams[who.name]
		var came, went []string
		for _, s := range now.servers {
			switch had, has := was[s.name] > 0, is[s.name] > 0; {
			case has && !had:
				came = append(came, s.name)
			case had && !has:
				went = append(went, s.name)
			}
		}
		switch {
		case len(came) > 0 && len(went) > 0:
			w.feed.say("%-8s went from %s to %s", who.name, went[0], came[0])
		case len(came) > 0:
			w.feed.say("%-8s is connected to %s", who.name, strings.Join(came, ", "))
		case len(went) > 0:
			w.feed.say("%-8s has left %s", who.name, strings.Join(went, ", "))
		}
	}
}

// only is the server with connections; of several, the first by name.
func only(streams map[string]int) (server string) {
	for name, n := range streams {
		if n > 0 && (server == "" || name < server) {
			server = name
		}
	}
	return server
}
