package statuspage

import (
	"context"
	"net/http"
	"time"
)

// ask gets everything as it is now.
func (p *Page) ask(ctx context.Context) (update, error) {
	r := request{answer: make(chan update, 1)}
	if err := p.request(ctx, r); err != nil {
		return update{}, err
	}
	select {
	case u, there := <-r.answer:
		if !there {
			return update{}, errStopping
		}
		return u, nil
	case <-ctx.Done():
		return update{}, ctx.Err()
	}
}

func (p *Page) request(ctx context.Context, r request) error {
	select {
	case p.requests <- r:
		return nil
	case <-p.stopped:
		return errStopping
	case <-ctx.Done():
		return ctx.Err()
	}
}

// events streams updates to a page, until it goes, is too slow, or the daemon
// stops.
func (p *Page) events(w http.ResponseWriter, r *http.Request) {
	if p.readers.Add(1) > maxReaders {
		p.readers.Add(-1)
		w.Header().Set("Retry-After", "10")
		http.Error(w, "too many pages follow lictord on this host; close some", http.StatusServiceUnavailable)
		return
	}
	defer p.readers.Add(-1)
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Time{}) // that of a request is not one of its answer
	w.Header().Set("Content-Type", "text/event-stream")
	if r.Method == http.MethodHead {
		return
	}
	me := &reader{out: make(chan []byte, backlog)}
	if err := p.request(r.Context(), request{reader: me}); err != nil {
		http.Error(w, "lictord is stopping", http.StatusServiceUnavailable)
		return
	}
	defer p.away(me)
	message := []byte("retry: 1000\n\n")
	for {
		_ = rc.SetWriteDeadline(time.Now().Add(p.timing.patience))
		if _, err := w.Write(message); err != nil {
			return
		}
		if err := rc.Flush(); err != nil {
			return
		}
		var there bool
		select {
		case message, there = <-me.out:
			if !there {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}

// away tells the hub that a reader has gone.
func (p *Page) away(r *reader) {
	select {
	case p.leave <- r:
	case <-p.stopped:
	}
}
