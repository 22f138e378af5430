package statuspage

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

const (
	points  = 120 // of a sparkline: ten minutes
	backlog = 32  // updates that a reader may be behind before it is let go
	// share bounds the part of a CPU that readings take: after one that took a
	// time, so many such times pass until the next, but not more than longest.
	share   = 20
	longest = 5 * time.Second
)

// reader is one who follows the page.
type reader struct {
	// out has updates in order, each a whole message of the stream. The hub
	// closes it to let the reader go.
	out chan []byte
}

// request asks for everything as it is now, once, or with a reader for all that
// follows too.
type request struct {
	reader *reader     // nil: once
	answer chan update // buffered for one; only without a reader
}

// reading is what the source said. Without full, only its servers.
type reading struct {
	full    bool
	servers []v1.Server
	status  v1.Status
	proxies []v1.Proxy
	err     error
}

// hub knows what is shown and tells the readers. It belongs to Run's goroutine;
// only readings are made in one of their own, at most one at a time.
type hub struct {
	*Page
	readers map[*reader]struct{}
	waiting []request // for the reading that is under way

	readings chan reading // buffered for one
	began    time.Time    // of the reading under way; zero: there is none
	fullAt   time.Time    // when the last one of everything was good
	due      time.Time    // no reading begins before
	wanted   bool         // a reading is due
	sampling bool         // the next reading is a point of the sparklines
	alarm    *time.Timer  // when what is wanted is due

	known   update // as told last; without a summary before it is read, and once nobody has asked for long
	rows    map[string]proxy
	past    map[string][]uint64
	stale   string
	failing bool // the last reading failed
	happens *chronicle
	once    sync.Once          // that the chronicle is told of drains before its time
	unwatch context.CancelFunc // ends the following of connections; nil: they are not followed
}

func newHub(p *Page) *hub {
	h := &hub{
		Page: p, readers: map[*reader]struct{}{}, readings: make(chan reading, 1),
		alarm: time.NewTimer(0), wanted: true,
		rows: map[string]proxy{}, past: map[string][]uint64{}, happens: newChronicle(),
	}
	return h
}

// run is the hub until ctx ends. What it starts and does not wait for is added
// to group.
func (h *hub) run(ctx context.Context, group *sync.WaitGroup) {
	tick := time.NewTicker(h.timing.tick)
	defer tick.Stop()
	sample := time.NewTicker(h.timing.sample)
	defer sample.Stop()
	defer h.alarm.Stop()
	defer h.end()
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-h.requests:
			h.asked(r)
		case r := <-h.leave:
			h.letGo(r)
			h.waiting = slices.DeleteFunc(h.waiting, func(w request) bool { return w.reader == r })
		case e := <-h.journal:
			h.happened(h.happens.add(e))
			h.wanted = h.wanted || len(h.readers) > 0
		case e := <-h.connects:
			if n := h.happens.connected(e); n != nil {
				h.happened(n)
				h.wanted = true
			}
		case r := <-h.readings:
			h.read(r)
		case <-h.alarm.C:
		case <-sample.C:
			h.sampling, h.wanted = true, true
			h.forget()
		case <-tick.C:
			h.tick()
		}
		h.look(ctx)
		h.watch(ctx, group)
	}
}

// watch follows connections while somebody watches.
func (h *hub) watch(ctx context.Context, group *sync.WaitGroup) {
	switch watched := len(h.readers) > 0; {
	case watched && h.unwatch == nil:
		ctx, h.unwatch = context.WithCancel(ctx)
		group.Go(func() { h.again(ctx, "connections", h.followConnections) })
	case !watched && h.unwatch != nil:
		h.unwatch()
		h.unwatch = nil
	}
}

// asked answers at once when what is known is of now, or as new as may be.
func (h *hub) asked(r request) {
	recent := time.Since(h.fullAt) < h.timing.tick || time.Now().Before(h.due) && time.Since(h.fullAt) < longest
	if h.known.Summary != nil && !h.failing && recent {
		h.answer(r)
		return
	}
	h.waiting, h.wanted = append(h.waiting, r), true
}

// end lets everybody go.
func (h *hub) end() {
	if h.unwatch != nil {
		h.unwatch()
	}
	for r := range h.readers {
		h.letGo(r)
	}
	for _, r := range h.waiting {
		h.refuse(r)
	}
	if !h.began.IsZero() {
		<-h.readings // its context has ended
	}
}

// forget lets go of what is known of thousands of proxies when nobody asks for
// it: who comes next waits for a reading of everything anyway.
func (h *hub) forget() {
	if len(h.readers) > 0 || len(h.waiting) > 0 || !h.began.IsZero() || time.Since(h.fullAt) < longest {
		return
	}
	h.known.Summary, h.known.Proxies, h.rows = nil, nil, map[string]proxy{}
}

// look begins a reading when one is wanted and may be.
func (h *hub) look(ctx context.Context) {
	if !h.wanted || !h.began.IsZero() {
		return
	}
	if wait := time.Until(h.due); wait > 0 {
		h.alarm.Reset(wait)
		return
	}
	full := len(h.readers) > 0 || len(h.waiting) > 0 || h.fullAt.IsZero()
	h.wanted, h.began = false, time.Now()
	go func() {
		ctx, cancel := context.WithTimeout(ctx, h.timing.patience)
		defer cancel()
		h.readings <- readSource(ctx, h.source, full)
	}()
}

func readSource(ctx context.Context, s Source, full bool) (r reading) {
	r.full = full
	defer caught(&r.err)
	if r.servers, r.err = s.Servers(ctx); r.err != nil || !full {
		return r
	}
	if r.status, r.err = s.Status(ctx); r.err != nil {
		return r
	}
	r.proxies, r.err = s.Proxies(ctx)
	return r
}

// caught makes an error of a panic: a fault of what only looks must not end the
// daemon.
func caught(err *error) {
	if fault := recover(); fault != nil {
		*err = fmt.Errorf("panic: %v\n%s", fault, debug.Stack())
	}
}

// read takes a reading over, and tells what differs.
func (h *hub) read(r reading) {
	took := time.Since(h.began)
	h.began, h.due = time.Time{}, time.Now().Add(max(h.timing.soonest, min(share*took, longest)))
	if r.err != nil {
		h.failed(r.err)
	} else {
		h.succeeded()
		h.tell(h.apply(r))
	}
	if !r.full { // who asked meanwhile waits for one that is
		h.wanted = h.wanted || len(h.waiting) > 0
		return
	}
	for _, w := range h.waiting {
		h.answer(w)
	}
	h.waiting = nil
}

func (h *hub) failed(err error) {
	if !h.failing {
		h.log.Warn("status cannot be read", "err", err)
	}
	h.failing = true
	h.stale = "lictord cannot tell how it is; its log says why. What is shown is as of earlier."
}

func (h *hub) succeeded() {
	if h.failing {
		h.log.Info("status can be read again")
	}
	h.failing, h.stale = false, ""
}

// apply makes a reading what is known, and gives what is new in it.
func (h *hub) apply(r reading) update {
	var news update
	if h.sampling {
		h.sampling = false
		h.sample(r.servers)
	}
	servers := make([]server, 0, len(r.servers))
	for _, s := range r.servers {
		servers = append(servers, serverOf(s, h.past[s.ID]))
	}
	h.once.Do(func() { h.happens.seedServers(servers) })
	if !slices.EqualFunc(servers, h.known.Servers, equalServer) {
		h.known.Servers, news.Servers = servers, servers
	}
	if !r.full {
		return news
	}
	h.fullAt = time.Now()
	s := summaryOf(r.status)
	h.known.Summary, news.Summary = &s, &s
	seen := make(map[string]proxy, len(r.proxies))
	h.known.Proxies = make([]proxy, 0, len(r.proxies))
	for _, one := range r.proxies {
		row := proxyOf(one)
		seen[row.ID] = row
		h.known.Proxies = append(h.known.Proxies, row)
		if h.rows[row.ID] != row {
			news.Proxies = append(news.Proxies, row)
		}
	}
	for id := range h.rows {
		if _, there := seen[id]; !there {
			news.Gone = append(news.Gone, id)
		}
	}
	slices.Sort(news.Gone)
	h.rows = seen
	h.happens.seed(h.known.Proxies)
	return news
}

func equalServer(a, b server) bool {
	return a.serverRow == b.serverRow && slices.Equal(a.Past, b.Past)
}

// sample adds a point to each server's sparkline. That of a server which is away
// goes on at nothing, until there is nothing else in it.
func (h *hub) sample(servers []v1.Server) {
	now := make(map[string]uint64, len(servers))
	for _, s := range servers {
		now[s.ID] = s.Active
		h.past[s.ID] = append(h.past[s.ID], s.Active)
	}
	for id, past := range h.past {
		if _, there := now[id]; !there {
			past = append(past, 0)
		}
		past = slices.Clone(past[max(0, len(past)-points):])
		if _, there := now[id]; !there && slices.Max(past) == 0 {
			delete(h.past, id)
			continue
		}
		h.past[id] = past
	}
}

// happened tells news, if it is.
func (h *hub) happened(n *entry) {
	if n != nil {
		h.tell(update{News: []news{n.told()}})
	}
}

// tick tells every reader that the daemon is there.
func (h *hub) tick() {
	if len(h.readers) == 0 {
		return
	}
	if !h.began.IsZero() && time.Since(h.began) > 2*h.timing.tick {
		h.stale = "lictord is slow to tell how it is. What is shown is as of earlier."
	}
	h.wanted = true
	h.broadcast(update{})
}

// tell tells every reader what is new, if anything is.
func (h *hub) tell(u update) {
	if u.Summary != nil || u.Servers != nil || u.Proxies != nil || u.Gone != nil || u.News != nil {
		h.broadcast(u)
	}
}

func (h *hub) broadcast(u update) {
	if len(h.readers) == 0 {
		return
	}
	message := h.message(u)
	for r := range h.readers {
		h.send(r, message)
	}
}

// message is an update as the stream has it.
func (h *hub) message(u update) []byte {
	u.Now, u.Stale = time.Now().UnixMilli(), h.stale
	text, err := json.Marshal(u)
	if err != nil { // strings and numbers always encode
		panic(err)
	}
	return append(append([]byte("data: "), text...), "\n\n"...)
}

// send never waits: a reader that is too far behind is let go.
func (h *hub) send(r *reader, message []byte) {
	select {
	case r.out <- message:
	default:
		h.letGo(r)
	}
}

func (h *hub) letGo(r *reader) {
	if _, there := h.readers[r]; there {
		delete(h.readers, r)
		close(r.out)
	}
}

// refuse ends a request without an answer.
func (h *hub) refuse(r request) {
	if r.reader != nil {
		close(r.reader.out)
		return
	}
	close(r.answer)
}

// answer tells everything.
func (h *hub) answer(r request) {
	all := h.known
	all.All, all.Build, all.News = true, h.web.build, h.happens.all()
	all.Now, all.Stale = time.Now().UnixMilli(), h.stale
	if r.reader == nil {
		r.answer <- all
		return
	}
	h.readers[r.reader] = struct{}{}
	h.send(r.reader, h.message(all))
}
