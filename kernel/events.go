package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"github.com/cilium/ebpf/ringbuf"
)

// eventHead is how much of a record must be there to know the rest.
const eventHead = unsafe.Offsetof(lictorEvent{}.At)

// eventsEvery is how long an event may lie in the ring. Failures and bounces,
// and a ring that fills up, wake the reader at once.
const eventsEvery = 100 * time.Millisecond

// Events calls handle for each event, in order, until ctx ends, and returns
// nil then. One call at a time. What established, closed or denied a connection
// may come up to a tenth of a second late. Events that came while nobody read are
// delivered first. When handle is slower than events come, the ring overflows,
// which Reasons counts; connections and counters never wait for it.
func (k *Kernel) Events(ctx context.Context, handle func(Event)) error {
	rd, err := ringbuf.NewReader(k.objs.Events)
	if err != nil {
		return fmt.Errorf("open the event ring: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { rd.Close() }) // ends the read below
	defer stop()
	defer rd.Close()
	rd.SetDeadline(time.Now().Add(eventsEvery))
	var rec ringbuf.Record
	for {
		err := rd.ReadInto(&rec)
		if errors.Is(err, os.ErrDeadlineExceeded) { // and all was read
			rd.SetDeadline(time.Now().Add(eventsEvery))
			continue
		}
		if err != nil {
			if errors.Is(err, os.ErrClosed) && ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("read the event ring: %w", err)
		}
		e, err := decodeEvent(rec.RawSample)
		if err != nil {
			return err
		}
		if !k.isProbe(VIPKey{Addr: e.VIP}) {
			handle(e)
		}
	}
}

// decodeEvent reads a record. One from an older or a newer program is cut or
// filled with zeros: members are only ever appended.
func decodeEvent(b []byte) (Event, error) {
	var w lictorEvent
	if len(b) < int(eventHead) {
		return Event{}, fmt.Errorf("event of %d bytes is too short", len(b))
	}
	copy(bytesOf(&w), b[:eventHead])
	if w.Version == 0 || int(w.Size) < int(eventHead) || int(w.Size) > len(b) {
		return Event{}, fmt.Errorf("event of version %d says it has %d bytes of %d", w.Version, w.Size, len(b))
	}
	copy(bytesOf(&w), b[:w.Size])
	e := Event{
		Kind:     EventKind(w.Kind),
		At:       time.Duration(w.At),
		VIP:      addrPortOf(w.VipAddr, w.VipPort),
		VIPSlot:  w.VipSlot,
		Server:   addrPortOf(w.ServerAddr, w.ServerPort),
		Slot:     w.ServerSlot,
		PID:      w.Pid,
		Comm:     commOf(w.Comm),
		CgroupID: w.CgroupId,
		Netns:    w.Netns,
		Errno:    w.Err,
		Denied:   Reason(w.Reason),
		Took:     time.Duration(w.Took),
		RTT:      time.Duration(w.RttUs) * time.Microsecond,
		BytesIn:  w.BytesIn,
		BytesOut: w.BytesOut,
	}
	return e, nil
}
