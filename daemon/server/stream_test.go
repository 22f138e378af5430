package server

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

func journalOf(n int) (events []v1.JournalEvent) {
	for seq := range n {
		events = append(events, v1.JournalEvent{
			Seq: uint64(seq + 1), Kind: "Placed",
			Data: json.RawMessage(`{"id":"` + strings.Repeat("x", 200) + `"}`),
		})
	}
	return events
}

func TestJournalInOrder(t *testing.T) {
	asRoot(t)
	backend := newFake()
	backend.events = journalOf(5000)
	c := start(t, backend).client()
	for _, since := range []uint64{0, 4990, 5000, 9999} {
		var got []uint64
		err := c.Journal(t.Context(), since, false, func(e v1.JournalEvent) error {
			got = append(got, e.Seq)
			return nil
		})
		want := max(0, 5000-int(since))
		if err != nil || len(got) != want {
			t.Errorf("Journal(since %d): %d events, %v, want %d", since, len(got), err, want)
		}
		for i, seq := range got {
			if seq != since+uint64(i)+1 {
				t.Fatalf("event %d of Journal(since %d) is %d", i, since, seq)
			}
		}
	}
}

func TestJournalErrors(t *testing.T) {
	asRoot(t)
	backend := newFake()
	backend.events = journalOf(3)
	c := start(t, backend).client()
	ignore := func(v1.JournalEvent) error { return nil }
	if p := problem(t, c.Journal(t.Context(), 666, true, ignore)); p.Type != v1.ProblemNotRetained {
		t.Errorf("problem = %+v", p)
	}
	// A journal that fails after its first lines must not look whole.
	backend.fail = errors.New("disk on fire")
	if err := c.Journal(t.Context(), 0, false, ignore); err == nil || !strings.Contains(err.Error(), "cut") {
		t.Errorf("a stream that failed ended with %v", err)
	}
	// The caller's own error ends it.
	stop := errors.New("enough")
	if err := c.Journal(t.Context(), 0, true, func(v1.JournalEvent) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("Journal() = %v, want the callback's error", err)
	}
}

func TestFollowersAreFlushedAndEndWithTheDaemon(t *testing.T) {
	asRoot(t)
	backend := newFake()
	backend.events = journalOf(2)
	s := start(t, backend)
	c := s.client()
	journal, connections := make(chan v1.JournalEvent, 2), make(chan v1.ConnectionEvent, 1)
	ended := make(chan error, 2)
	go func() {
		ended <- c.Journal(t.Context(), 0, true, func(e v1.JournalEvent) error { journal <- e; return nil })
	}()
	go func() {
		ended <- c.Connections(t.Context(), func(e v1.ConnectionEvent) error { connections <- e; return nil })
	}()
	await(t, backend.connected)
	backend.feed <- v1.ConnectionEvent{Kind: "established", PID: 7}
	await(t, journal)
	await(t, journal)
	if e := await(t, connections); e.PID != 7 {
		t.Errorf("event = %+v", e)
	}
	if err := s.stop(); err != nil {
		t.Errorf("Run() = %v", err)
	}
	for range 2 {
		if err := await(t, ended); err != nil {
			t.Errorf("a follower ended with %v, want nil: the daemon stopped in order", err)
		}
	}
	await(t, backend.connected) // left
}

func TestAFollowersOwnEndEndsTheSource(t *testing.T) {
	asRoot(t)
	backend := newFake()
	c := start(t, backend).client()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Connections(ctx, func(v1.ConnectionEvent) error { return nil }) }()
	await(t, backend.connected)
	cancel()
	if err := await(t, ended); !errors.Is(err, context.Canceled) {
		t.Errorf("Connections() = %v, want the context's error", err)
	}
	await(t, backend.connected)
}

func TestASlowReaderLosesEventsExactlyAndBlocksNobody(t *testing.T) {
	asRoot(t)
	backend := newFake()
	s := start(t, backend)
	conn := s.dial()
	// A small window, so that the reader is slow at once.
	if err := conn.(*net.UnixConn).SetReadBuffer(1); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprint(conn, "GET /v1/connections?follow=true HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	await(t, backend.connected)
	const events = 20 * connectionBacklog
	begin := time.Now()
	for i := range events {
		backend.feed <- v1.ConnectionEvent{Kind: "closed", PID: uint32(i), Comm: strings.Repeat("x", 100)}
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("the source waited for the reader: %v", took)
	}
	close(backend.feed) // the stream ends once all is written
	seen, dropped, next := 0, uint64(0), uint32(0)
	body := false
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		if !body {
			body = lines.Text() == ""
			continue
		}
		var e v1.ConnectionEvent
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatalf("line %q: %v", lines.Text(), err)
		}
		if e.Kind == "dropped" {
			dropped += e.Dropped
			next += uint32(e.Dropped)
			continue
		}
		if e.PID != next {
			t.Fatalf("event %d where %d belongs: a drop is not told at its place", e.PID, next)
		}
		next++
		seen++
	}
	if dropped == 0 || seen+int(dropped) != events {
		t.Errorf("%d seen, %d dropped, of %d", seen, dropped, events)
	}
}

func TestAReaderThatStandsStillLosesItsConnection(t *testing.T) {
	asRoot(t)
	backend := newFake()
	backend.events = journalOf(20000)
	s := start(t, backend, func(s *Server) { s.timing.line = 100 * time.Millisecond })
	conn := s.dial()
	if _, err := fmt.Fprint(conn, "GET /v1/journal HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(400 * time.Millisecond) // the standing still that is meant
	begin := time.Now()
	buf := make([]byte, 1<<20)
	total := 0
	for {
		n, err := conn.Read(buf)
		total += n
		if err != nil {
			break
		}
	}
	if total > 2<<20 || time.Since(begin) > 2*time.Second {
		t.Errorf("read %d bytes in %v after standing still: the connection was kept", total, time.Since(begin))
	}
}

func TestTheCountOfWhatTheKernelDroppedIsKept(t *testing.T) {
	q := newQueue(1)
	_ = q.put(v1.ConnectionEvent{Kind: "closed"})
	_ = q.put(v1.ConnectionEvent{Kind: "dropped", Dropped: 41})
	_ = q.put(v1.ConnectionEvent{Kind: "closed"})
	if events, lost := q.take(); len(events) != 1 || lost.Dropped != 42 {
		t.Errorf("take() = %v, %+v, want 1 event and 42 dropped", events, lost)
	}
	if events, lost := q.take(); len(events) != 0 || lost.Dropped != 0 {
		t.Errorf("second take() = %v, %+v, want nothing", events, lost)
	}
}

// await takes a value, or fails the test.
func await[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(10 * time.Second):
		t.Fatal("nothing came within 10 s")
		panic("not reached")
	}
}
