package registry

import (
	"errors"
	"io/fs"
	"syscall"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/state/journal"
)

var errDiskFull = &fs.PathError{Op: "write", Path: "journal.db", Err: syscall.ENOSPC}

// A full disk: nothing is promised, and nothing that failed is in force;
// placements go on, and are journaled when there is room again.
func TestDiskFull(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.servers("s1", "s2", "s3")
		h.mustRegister("a", "b")
		h.settle()
		syncs := h.journal.count()

		h.sick(func() error { return errDiskFull })
		for name, err := range map[string]error{
			"register":   func() error { _, err := h.register("c"); return err }(),
			"deregister": h.r.Deregister(t.Context(), "a", state.LeaveOperator, nil),
			"drain":      h.r.Drain(t.Context(), "s1", "uid 0", true),
			"change":     h.r.Change(t.Context(), state.ProxyChanged{ID: "a", Owner: &state.Owner{Kind: state.OwnerAny}}, nil),
		} {
			if !errors.Is(err, ErrNotDurable) || !errors.Is(err, journal.ErrFull) {
				t.Errorf("%s: %v", name, err)
			}
		}
		snap := h.snapshot()
		if len(snap.State.Proxies) != 2 || len(h.maps.vips) != 2 || len(snap.State.Drained) != 0 || len(snap.State.Resting) != 0 {
			t.Errorf("something changed: %d entries, state %s", len(h.maps.vips), dump(snap.State))
		}
		h.inForce("a")
		if h.r.JournalProblem() == nil {
			t.Error("no problem is told")
		}
		if _, err := h.register("a"); err != nil {
			t.Errorf("what is promised already: %v", err)
		}

		first := h.proxy("a").Ranked[0]
		left := without([]string{"s1", "s2", "s3"}, first)
		h.servers(left...)
		if e := h.inForce("a"); len(e.Ranked) != 2 {
			t.Errorf("a server left and the map has %+v", e.Ranked)
		}
		time.Sleep(10 * time.Second)
		if p := h.snapshot().Pending; p == 0 || h.journal.count() != syncs {
			t.Errorf("%d pending, %d syncs", p, h.journal.count()-syncs)
		}
		if n := h.logs.count("journal not writable"); n != 1 {
			t.Errorf("said %d times", n)
		}

		h.sick(nil)
		time.Sleep(1500 * time.Millisecond)
		if p := h.snapshot().Pending; p != 0 || h.r.JournalProblem() != nil {
			t.Errorf("room again: %d pending, %v", p, h.r.JournalProblem())
		}
		h.mustRegister("c")
	})
}

// Room that comes back is noticed though nobody calls and nothing is pending.
func TestDiskHasRoomAgain(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.servers("s1", "s2")
		h.mustRegister("a")
		h.settle()
		h.sick(func() error { return errDiskFull })
		if _, err := h.register("b"); !errors.Is(err, ErrNotDurable) {
			t.Fatal(err)
		}
		for range 5 {
			h.settle()
			if h.snapshot().Pending != 0 || h.r.JournalProblem() == nil {
				t.Fatalf("full: %d pending, problem %v", h.snapshot().Pending, h.r.JournalProblem())
			}
		}
		last := h.disk.Stats().Last
		h.sick(nil)
		h.settle()
		if err := h.r.JournalProblem(); err != nil || h.disk.Stats().Last != last {
			t.Errorf("room again: %v, event %d after %d", err, h.disk.Stats().Last, last)
		}
		if n := h.logs.count("journal writable again"); n != 1 {
			t.Errorf("said %d times", n)
		}
	})
}

// A disk that failed a sync takes nothing more in this process.
func TestDiskBroken(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.servers("s1", "s2")
		h.mustRegister("a")
		h.settle()
		h.sick(func() error { return syscall.EIO })
		if _, err := h.register("b"); !errors.Is(err, ErrNotDurable) || !errors.Is(err, journal.ErrBroken) {
			t.Errorf("register: %v", err)
		}
		h.sick(nil)
		if _, err := h.register("b"); !errors.Is(err, journal.ErrBroken) {
			t.Errorf("register after a failed sync: %v", err)
		}
		first := h.proxy("a").Ranked[0]
		h.settle()
		h.servers(without([]string{"s1", "s2"}, first)...)
		h.inForce("a")
		h.cancel()
		if err := <-h.ended; !errors.Is(err, journal.ErrBroken) {
			t.Errorf("Run: %v", err)
		}
		h.closeDisk()
		h.start()
		if h.snapshot().State.Proxies["b"] != nil {
			t.Error("b is there")
		}
		h.servers(without([]string{"s1", "s2"}, first)...)
		h.settle()
		h.inForce("a")
	})
}

// While the disk takes two seconds a sync, a server's end reaches the map at once.
func TestSlowDisk(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.servers("s1", "s2", "s3")
		h.mustRegister(names(9)...)
		h.settle()
		h.sick(func() error { time.Sleep(2 * time.Second); return nil })
		done := make(chan error)
		go func() {
			_, err := h.register("late")
			done <- err
		}()
		time.Sleep(time.Second + time.Millisecond)
		if h.r.DiskDelay() < time.Second {
			t.Errorf("a delay of %s is told", h.r.DiskDelay())
		}
		began := time.Now()
		h.servers("s2", "s3") // while the sync is under way
		for i := range 9 {
			if e := h.inForce(names(9)[i]); len(e.Ranked) != 2 {
				t.Errorf("entry %+v", e)
			}
		}
		if _, err := h.r.Views(t.Context()); err != nil || time.Since(began) > 0 {
			t.Errorf("it took %s, %v", time.Since(began), err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if e := h.inForce("late"); len(e.Ranked) != 2 {
			t.Errorf("registered while s1 left: %+v", e.Ranked)
		}
		time.Sleep(flushWithin + time.Second)
		if h.snapshot().Pending == 0 {
			t.Error("nothing is pending, while the disk syncs")
		}
		h.settle()
		if p := h.proxy("late"); len(p.Ranked) != 2 {
			t.Errorf("placed on %v", p.Ranked)
		}
		if n := h.logs.count("disk is slow"); n != 1 || h.r.DiskDelay() == 0 {
			t.Errorf("said %d times, a delay of %s is told", n, h.r.DiskDelay())
		}
		h.sick(nil)
		h.mustRegister("quick")
		if n := h.logs.count("disk is no longer slow"); n != 1 || h.r.DiskDelay() != 0 {
			t.Errorf("over: said %d times, a delay of %s is told", n, h.r.DiskDelay())
		}
	})
}

// A flapping catalog and a full disk: memory stays, and so does the meaning.
func TestPendingIsBounded(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.servers("s1", "s2", "s3")
		h.mustRegister(names(10)...)
		h.settle()
		h.sick(func() error { return errDiskFull })
		for range 100 {
			for _, set := range [][]string{{"s1"}, {"s1", "s2", "s4"}, {"s3", "s4"}, {"s1", "s2", "s3"}} {
				h.servers(set...)
				time.Sleep(300 * time.Millisecond)
			}
		}
		if n := h.snapshot().Pending; n > 10+4*4 {
			t.Errorf("%d facts are pending for 10 proxies and 4 servers", n)
		}
		h.sick(nil)
		h.settle()
	})
}

// Snapshots are made though registrations never pause.
func TestSnapshotUnderLoad(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.servers("s1", "s2")
		h.sick(func() error { time.Sleep(10 * time.Millisecond); return nil })
		stop := make(chan struct{})
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				h.mustRegister(names(400)...)
				for _, id := range names(400)[:399] {
					go func() { _ = h.r.Deregister(t.Context(), id, state.LeaveOperator, nil) }()
				}
				h.mustDeregister("proxy-399")
			}
		}()
		time.Sleep(time.Second)
		stats := h.disk.Stats()
		if n := len(stats.Snapshots); n == 0 || stats.Last-stats.Snapshots[n-1] > 12_000 {
			t.Errorf("%d events, snapshots at %v", stats.Last, stats.Snapshots)
		}
		close(stop)
		<-ended
		h.settle()
		if h.disk.Stats().Last < 10_000 {
			t.Fatalf("only %d events", h.disk.Stats().Last)
		}
	})
}

func without(names []string, one string) []string {
	var out []string
	for _, name := range names {
		if name != one {
			out = append(out, name)
		}
	}
	return out
}
