// Package logs keeps a log readable when the same thing happens again and
// again: a server that refuses a thousand proxies is told a few times, with how
// often it was left out, and not a thousand times a second.
//
// A line is the same as another when its level, message, component and all
// words are: numbers, times and durations do not tell lines apart, and in the
// text of an error neither do digits, such as those of a port. Of the same line
// Same are written within a window, of all lines of one message Alike. What was
// left out is counted, and told at the end of the window by the last of those
// lines, with left_out. Nothing is left out below slog.LevelInfo: who asks for
// debug lines wants them all.
package logs

import (
	"context"
	"encoding/binary"
	"hash/maphash"
	"log/slog"
	"sync"
	"time"
)

// LeftOut is the key of the number of lines like this one that were not written.
const LeftOut = "left_out"

// Options of a limit. The zero value means the defaults.
type Options struct {
	Window time.Duration // default one minute
	Same   int           // lines of a window that are the same; default 3
	Alike  int           // lines of a window with the same message; default 60
}

// maxKinds bounds what is remembered of lines: of more kinds than these, only
// the limit for each message holds.
const maxKinds = 2048

// Handler is a slog.Handler that leaves out repeats. It is safe for concurrent
// use; handlers made of it by WithAttrs and WithGroup share its limits.
type Handler struct {
	next  slog.Handler
	seed  uint64 // of the attributes and groups that WithAttrs and WithGroup gave
	limit *limit
}

// limit is what the handlers of one log share.
type limit struct {
	Options
	hash maphash.Seed

	mu     sync.Mutex
	kinds  map[uint64]*kind
	forgot time.Time   // when room was last made
	timer  *time.Timer // ends the windows in which lines were left out; nil: there are none
}

// kind is lines that count as one.
type kind struct {
	until   time.Time // the window's end
	written int
	left    int
	last    slog.Record // of those left out
	next    slog.Handler
}

// Limit makes a handler that writes to next what is not left out. Before the
// process ends, Flush tells the rest.
func Limit(next slog.Handler, o Options) *Handler {
	if o.Window <= 0 {
		o.Window = time.Minute
	}
	if o.Same <= 0 {
		o.Same = 3
	}
	if o.Alike <= 0 {
		o.Alike = 60
	}
	return &Handler{next: next, limit: &limit{Options: o, hash: maphash.MakeSeed(), kinds: map[uint64]*kind{}}}
}

// Enabled implements slog.Handler.
func (h *Handler) Enabled(ctx context.Context, l slog.Level) bool { return h.next.Enabled(ctx, l) }

// WithAttrs implements slog.Handler.
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	sum := h.begin(h.seed)
	for _, a := range attrs {
		words(&sum, a)
	}
	return &Handler{h.next.WithAttrs(attrs), sum.Sum64(), h.limit}
}

// WithGroup implements slog.Handler.
func (h *Handler) WithGroup(name string) slog.Handler {
	sum := h.begin(h.seed)
	_, _ = sum.WriteString(name) // never fails
	return &Handler{h.next.WithGroup(name), sum.Sum64(), h.limit}
}

// begin begins a hash with an earlier one.
func (h *Handler) begin(of uint64) (sum maphash.Hash) {
	sum.SetSeed(h.limit.hash)
	_, _ = sum.Write(binary.NativeEndian.AppendUint64(nil, of))
	return sum
}

// Handle implements slog.Handler.
func (h *Handler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelInfo {
		return h.next.Handle(ctx, r)
	}
	message := h.begin(h.seed)
	_ = message.WriteByte(byte(r.Level))
	_, _ = message.WriteString(r.Message)
	alike := message.Sum64()
	same := h.begin(alike)
	r.Attrs(func(a slog.Attr) bool {
		words(&same, a)
		return true
	})
	left, write := h.limit.admit(h.next, r, same.Sum64(), alike)
	if !write {
		return nil
	}
	if left > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int(LeftOut, left))
	}
	return h.next.Handle(ctx, r)
}

// admit says whether a line is written, and how many like it were left out
// before that are not told of yet.
func (l *limit) admit(next slog.Handler, r slog.Record, same, alike uint64) (left int, write bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	of := []struct {
		key  uint64
		most int
	}{{alike, l.Alike}, {same, l.Same}}
	var kinds []*kind
	for _, one := range of {
		k := l.kinds[one.key]
		if k == nil {
			if k = l.add(one.key, one.key == alike); k == nil {
				continue
			}
		}
		if !now.Before(k.until) {
			k.until, k.written = now.Add(l.Window), 0
		}
		if k.written >= one.most {
			k.left++
			k.last, k.next = r.Clone(), next
			l.arm(k.until.Sub(now))
			return 0, false
		}
		kinds = append(kinds, k)
	}
	for _, k := range kinds {
		k.written++
		left += k.left
		k.left = 0
	}
	return left, true
}

// add remembers a kind of line, nil when there are too many. Messages are
// constants of the program: always room for them.
func (l *limit) add(key uint64, always bool) *kind {
	if now := time.Now(); len(l.kinds) >= maxKinds && now.Sub(l.forgot) > time.Second {
		l.forgot = now
		l.forget(now)
	}
	if len(l.kinds) >= maxKinds && !always {
		return nil
	}
	k := &kind{}
	l.kinds[key] = k
	return k
}

// forget forgets kinds whose window is over and that have nothing to tell.
func (l *limit) forget(now time.Time) {
	for key, k := range l.kinds {
		if k.left == 0 && !now.Before(k.until) {
			delete(l.kinds, key)
		}
	}
}

// arm has what is left out told, at the latest when its window ends.
func (l *limit) arm(in time.Duration) {
	if l.timer == nil {
		l.timer = time.AfterFunc(in, func() { l.tell(false) })
	}
}

// tell tells what was left out in windows that are over, or in all.
func (l *limit) tell(all bool) {
	now := time.Now()
	l.mu.Lock()
	var due []*kind
	var soonest time.Time
	l.timer = nil
	for _, k := range l.kinds {
		switch {
		case k.left == 0:
		case all || !now.Before(k.until):
			due = append(due, &kind{left: k.left, last: k.last, next: k.next})
			k.left, k.last, k.next = 0, slog.Record{}, nil
		case soonest.IsZero() || k.until.Before(soonest):
			soonest = k.until
		}
	}
	l.forget(now)
	if !soonest.IsZero() {
		l.arm(soonest.Sub(now))
	}
	l.mu.Unlock()
	for _, k := range due {
		if k.left > 1 { // the line itself is one of them
			k.last.AddAttrs(slog.Int(LeftOut, k.left-1))
		}
		_ = k.next.Handle(context.Background(), k.last) // nobody is left to be told
	}
}

// Flush tells what was left out so far.
func (h *Handler) Flush() { h.limit.tell(true) }
