package kernel

import (
	"context"
	"encoding/binary"
	"math/bits"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/lictor-mesh/lictor/kernel/cgroup"
)

// listener collects events until stop.
type listener struct {
	r      *rig
	events chan Event
	cancel context.CancelFunc
	done   chan error
}

func (r *rig) listen() *listener {
	ctx, cancel := context.WithCancel(context.Background())
	l := &listener{r: r, events: make(chan Event, 1<<16), cancel: cancel, done: make(chan error, 1)}
	go func() { l.done <- r.k.Events(ctx, func(e Event) { l.events <- e }) }()
	return l
}

// want returns the next event of a kind.
func (l *listener) want(kind EventKind) Event {
	l.r.t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		select {
		case e := <-l.events:
			if e.Kind == kind {
				return e
			}
		case <-timeout:
			l.r.t.Fatalf("no event of kind %d", kind)
		}
	}
}

func (l *listener) stop() {
	l.r.t.Helper()
	l.cancel()
	if err := <-l.done; err != nil {
		l.r.t.Error(err)
	}
}

func TestEventsSayWhatHappened(t *testing.T) {
	r := newRig(t)
	events := r.listen()
	defer events.stop()
	s := r.serve(1, "127.0.0.1:0", echo)
	r.put(vip4, s.Backend)
	start := r.k.Now()
	conn, err := r.dial(vip4)
	if err != nil {
		t.Fatal(err)
	}
	name := readName(t, conn)
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	hear1(t, conn, 5)
	conn.Close()
	common := func(e Event) {
		t.Helper()
		if e.VIP != vip4 || e.Server != s.Addr || e.Slot != 1 || e.VIPSlot != 5 ||
			e.PID != uint32(os.Getpid()) || e.Comm == "" || e.Netns != r.cookie ||
			e.CgroupID != must(cgroup.ID(r.cfg.Cgroup)) || e.At < start || e.At > r.k.Now() {
			t.Errorf("event %+v", e)
		}
	}
	e := events.want(EventEstablished)
	common(e)
	if e.Took <= 0 || e.Took > time.Minute || e.RTT <= 0 {
		t.Errorf("established %+v", e)
	}
	latency := Histogram{Sum: e.Took}
	latency.Buckets[bits.Len64(uint64(e.Took.Microseconds()))] = 1
	e = events.want(EventBounced)
	common(e)
	if in := uint64(len(name) + 1 + 5); e.BytesIn != in || e.BytesOut != 5 || e.Took <= 0 || e.Errno != 0 {
		t.Errorf("bounced %+v, want %d bytes in and 5 out", e, in)
	}
	eventually(t, "bytes of the server", func() bool {
		c := must(r.k.Servers())[1]
		return c.BytesIn == uint64(len(name)+1+5) && c.BytesOut == 5
	})

	dead := r.closedPort(2)
	r.put(vip4, dead)
	r.wantErr(vip4, syscall.ECONNREFUSED)
	if e := events.want(EventFailed); e.Slot != 2 || e.Errno != uint32(syscall.ECONNREFUSED) {
		t.Errorf("failed %+v", e)
	}
	r.put(vip4)
	r.wantErr(vip4, syscall.ECONNREFUSED)
	if e := events.want(EventDenied); e.VIP != vip4 || e.VIPSlot != 5 || e.Denied != ReasonNoServer ||
		e.Errno != uint32(syscall.ECONNREFUSED) || e.PID != uint32(os.Getpid()) || e.Netns != r.cookie {
		t.Errorf("denied %+v", e)
	}
	if h := must(r.k.Latency())[1]; h != latency {
		t.Errorf("latency %+v, want that of the one connect, %+v", h, latency)
	}
}

// Nobody is told of the probe.
func TestTheProbesEventsAreLeftOut(t *testing.T) {
	r := newRig(t)
	events := r.listen()
	defer events.stop()
	for _, pool := range []netip.Prefix{r.cfg.Pool4, r.cfg.Pool6} {
		r.wantErr(netip.AddrPortFrom(pool.Addr(), probePort), syscall.ECONNREFUSED)
	}
	r.wantErr(vip4, syscall.ECONNREFUSED)
	if e := events.want(EventDenied); e.VIP != vip4 {
		t.Errorf("event %+v, want that of %v", e, vip4)
	}
}

// A full ring loses events, says how many, and loses nothing else.
func TestRingFlood(t *testing.T) {
	const connects = 1000
	r := newRig(t, func(c *Config) { c.RingBytes = uint32(os.Getpagesize()) })
	r.put(vip4)
	for range connects { // nobody reads
		r.wantErr(vip4, syscall.ECONNREFUSED)
	}
	reasons := r.reasons()
	if reasons[ReasonNoServer] != connects {
		t.Errorf("counted %d denials, want %d", reasons[ReasonNoServer], connects)
	}
	dropped := reasons[ReasonRingDropped]
	if dropped == 0 || dropped == connects {
		t.Fatalf("dropped %d", dropped)
	}
	events := r.listen()
	for range connects - dropped { // delivered although they came before
		events.want(EventDenied)
	}
	r.wantErr(vip4, syscall.ECONNREFUSED)
	events.want(EventDenied)
	events.stop()
	if n := len(events.events); n != 0 {
		t.Errorf("%d events more than were kept", n)
	}
	if again := r.reasons()[ReasonRingDropped]; again != dropped {
		t.Errorf("dropped %d more", again-dropped)
	}
}

func TestDecodeEvent(t *testing.T) {
	w := lictorEvent{Version: 1, Kind: uint8(EventClosed), ServerSlot: 3, VipSlot: 4, Err: 110}
	w.Size = uint16(unsafe.Sizeof(w))
	whole := append([]byte(nil), bytesOf(&w)...)
	if e, err := decodeEvent(whole); err != nil || e.Kind != EventClosed || e.Slot != 3 || e.VIPSlot != 4 || e.Errno != 110 {
		t.Errorf("%+v, %v", e, err)
	}
	w.Version, w.Size = 2, w.Size+8
	newer := append(append([]byte(nil), bytesOf(&w)...), make([]byte, 8)...)
	if e, err := decodeEvent(newer); err != nil || e.Slot != 3 {
		t.Errorf("newer: %+v, %v", e, err)
	}
	for _, bad := range [][]byte{nil, whole[:7], make([]byte, 128), whole[:100]} {
		if e, err := decodeEvent(bad); err == nil {
			t.Errorf("%d bytes gave %+v", len(bad), e)
		}
	}
}

func FuzzDecodeEvent(f *testing.F) {
	w := lictorEvent{Version: 1, Kind: uint8(EventClosed), Comm: [16]int8{'e', 'n', 'v', 'o', 'y'}}
	w.Size = uint16(unsafe.Sizeof(w))
	f.Add(append([]byte(nil), bytesOf(&w)...))
	f.Add([]byte{1, 0, 8, 0, 0, 0, 0, 0})
	w.Version, w.Size = 2, w.Size+8
	f.Add(append(append([]byte(nil), bytesOf(&w)...), make([]byte, 16)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeEvent(b)
		if err != nil {
			if e != (Event{}) {
				t.Errorf("%v, and yet %+v", err, e)
			}
			return
		}
		size := int(binary.NativeEndian.Uint16(b[unsafe.Offsetof(w.Size):]))
		if binary.NativeEndian.Uint16(b[unsafe.Offsetof(w.Version):]) == 0 || size < int(eventHead) || size > len(b) {
			t.Fatalf("%d bytes of %d are taken for %+v", size, len(b), e)
		}
		// What follows the record, or what a newer program appended to it, is
		// not looked at; what an older one did not write is zero.
		whole := make([]byte, unsafe.Sizeof(w))
		copy(whole, b[:size])
		binary.NativeEndian.PutUint16(whole[unsafe.Offsetof(w.Size):], uint16(len(whole)))
		if again, err := decodeEvent(whole); err != nil || again != e {
			t.Errorf("%+v became %+v: %v", e, again, err)
		}
		if len(e.Comm) > len(w.Comm) || e.Kind.String() == "" || e.Denied.String() == "" {
			t.Errorf("%+v", e)
		}
	})
}
