package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

// connectionBacklog is how many connection events wait for a slow reader
// before further ones are dropped and counted; about 1 MB.
const connectionBacklog = 4096

// journal streams the journal's events. A reader sets the pace of its own
// stream: the backend reads the journal for it, and nobody waits for that.
func (s *Server) journal(w http.ResponseWriter, r *http.Request) {
	since, follow, err := s.readStream(r, "the journal", "since")
	if err != nil {
		s.writeError(w, r, err)
		return
	}
	out := s.newStream(w)
	if r.Method == http.MethodHead {
		out.open()
		return
	}
	ctx, cancel := s.untilStopping(r.Context())
	defer cancel()
	err = s.cfg.Backend.Journal(ctx, since, follow, func(event v1.JournalEvent) error {
		if err := out.line(event); err != nil || !follow {
			return err
		}
		return out.flush()
	})
	s.endStream(ctx, out, r, err)
}

// connections streams connection events. The backend hands them over without
// waiting; what the reader does not take in time is dropped, and counted in a
// line of its own.
func (s *Server) connections(w http.ResponseWriter, r *http.Request) {
	_, follow, err := s.readStream(r, "connection events", "")
	if err == nil && !follow {
		err = fmt.Errorf("connection events are not kept; ask with follow=true for those to come: %w", ErrInvalid)
	}
	if err != nil {
		s.writeError(w, r, err)
		return
	}
	out := s.newStream(w)
	if r.Method == http.MethodHead {
		out.open()
		return
	}
	ctx, cancel := s.untilStopping(r.Context())
	defer cancel()
	queue := newQueue(connectionBacklog)
	ended := make(chan error, 1) // one value, never blocks
	go func() {
		ended <- caught(func() error { return s.cfg.Backend.Connections(ctx, queue.put) })
	}()
	err = relay(ctx, cancel, queue, out, ended)
	s.endStream(ctx, out, r, err)
}

// relay writes what is queued until the source ends, and waits for that.
func relay(ctx context.Context, cancel func(), queue *queue, out *stream, ended <-chan error) error {
	// Opened when the source has had the time to refuse.
	opening := time.NewTimer(50 * time.Millisecond)
	defer opening.Stop()
	for {
		select {
		case <-opening.C:
			out.open()
		case <-queue.ready:
			if err := out.batch(queue.take()); err != nil {
				cancel()
				return errors.Join(err, <-ended)
			}
		case err := <-ended:
			if ctx.Err() == nil && err != nil {
				return err
			}
			return out.batch(queue.take())
		}
	}
}

// readStream checks a stream's request. seq is the name of the parameter with
// a sequence number, "" for none.
func (s *Server) readStream(r *http.Request, what, seq string) (since uint64, follow bool, err error) {
	allowed := []string{"follow"}
	if seq != "" {
		allowed = append(allowed, seq)
	}
	query, err := params(r, allowed...)
	if err != nil {
		return 0, false, err
	}
	if err := noBody(r); err != nil {
		return 0, false, err
	}
	p, _ := peerOf(r.Context())
	if err := p.caller.mayOperate("reading " + what); err != nil {
		return 0, false, err
	}
	if since, err = paramSeq(query, seq); err != nil {
		return 0, false, err
	}
	follow, err = paramBool(query, "follow")
	return since, follow, err
}

// untilStopping ends with the request or with the daemon's stop.
func (s *Server) untilStopping(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		select {
		case <-s.stopping:
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// endStream ends an answer of JSON lines. A stream that was ended from outside
// ends in order; one that failed after its begin is cut, so that its reader
// does not take it for whole.
func (s *Server) endStream(ctx context.Context, out *stream, r *http.Request, err error) {
	switch {
	case err == nil || ctx.Err() != nil || out.failed:
		out.open()
	case !out.opened:
		s.writeError(out.w, r, err)
	default:
		s.log.Error("stream cut", "path", r.URL.Path, "err", err)
		panic(http.ErrAbortHandler)
	}
}

// caught makes an error of a panic, in a goroutine that guard does not see.
func caught(f func() error) (err error) {
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("panic: %v\n%s", fault, debug.Stack())
		}
	}()
	return f()
}

// stream writes JSON lines. It is for one goroutine.
type stream struct {
	w        http.ResponseWriter
	rc       *http.ResponseController
	opened   bool          // the header is written
	failed   bool          // the reader has gone, or was too slow
	patience time.Duration // for a line to be taken
}

// newStream makes a stream whose lines have a time limit each, instead of the
// one that a short answer has in all.
func (s *Server) newStream(w http.ResponseWriter) *stream {
	return &stream{w: w, rc: http.NewResponseController(w), patience: s.timing.line}
}

// open writes the header, once.
func (o *stream) open() {
	if o.opened {
		return
	}
	o.opened = true
	_ = o.rc.SetWriteDeadline(time.Now().Add(o.patience))
	o.w.Header().Set("Content-Type", "application/jsonl")
	o.w.Header().Set("Cache-Control", "no-store")
	o.w.WriteHeader(http.StatusOK)
	_ = o.flush()
}

// line writes a value, which may stay in the buffer until flush.
func (o *stream) line(v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode a line: %w", err)
	}
	o.open()
	_ = o.rc.SetWriteDeadline(time.Now().Add(o.patience))
	if _, err := o.w.Write(append(text, '\n')); err != nil {
		o.failed = true
		return fmt.Errorf("write a line: %w", err)
	}
	return nil
}

func (o *stream) flush() error {
	if err := o.rc.Flush(); err != nil {
		o.failed = true
		return fmt.Errorf("write lines: %w", err)
	}
	return nil
}

// batch writes events, and how many were lost after them.
func (o *stream) batch(events []v1.ConnectionEvent, lost v1.ConnectionEvent) error {
	if lost.Dropped > 0 {
		events = append(events, lost)
	}
	for _, event := range events {
		if err := o.line(event); err != nil {
			return err
		}
	}
	if len(events) == 0 {
		return nil
	}
	return o.flush()
}

// queue holds connection events for one reader. Writers never wait: when it is
// full, events are counted instead.
type queue struct {
	ready chan struct{} // holds a token when there is something to take
	limit int

	mu     sync.Mutex
	events []v1.ConnectionEvent
	lost   v1.ConnectionEvent // Dropped counts those that came after events
}

func newQueue(limit int) *queue { return &queue{ready: make(chan struct{}, 1), limit: limit} }

// put adds an event. It returns nil always; the error is for Backend's sake.
func (q *queue) put(event v1.ConnectionEvent) error {
	q.mu.Lock()
	if len(q.events) < q.limit {
		q.events = append(q.events, event)
	} else {
		lost := uint64(1)
		if event.Dropped > 0 {
			lost = event.Dropped // a line that counts what was lost before it
		}
		q.lost = v1.ConnectionEvent{Kind: v1.ConnectionsDropped, Time: event.Time, Dropped: q.lost.Dropped + lost}
	}
	q.mu.Unlock()
	select {
	case q.ready <- struct{}{}:
	default: // the reader has yet to come for what is there
	}
	return nil
}

// take empties the queue, in order: the events, then what was lost after them.
func (q *queue) take() ([]v1.ConnectionEvent, v1.ConnectionEvent) {
	q.mu.Lock()
	defer q.mu.Unlock()
	events, lost := q.events, q.lost
	q.events, q.lost = nil, v1.ConnectionEvent{}
	return events, lost
}
