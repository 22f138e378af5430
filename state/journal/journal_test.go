package journal_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/state/journal"
	"github.com/lictor-mesh/lictor/state/journal/journaltest"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// clock is a clock that a test sets.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

func newClock() *clock { return &clock{time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)} }

func mustOpen(t testing.TB, dir string, opts journal.Options) (*journal.Journal, state.State) {
	t.Helper()
	testenv.NoLeaks(t)
	return journaltest.Open(t, dir, opts)
}

func mustAppend(t testing.TB, j *journal.Journal, bodies ...state.Body) []state.Event {
	t.Helper()
	events, err := j.Append(bodies...)
	if err != nil {
		t.Fatal(err)
	}
	return events
}

func registered(n uint32) state.ProxyRegistered {
	b := [4]byte{239, 77, byte(n >> 8), byte(n)}
	return state.ProxyRegistered{Proxy: state.Registration{
		ID: fmt.Sprintf("web-%d-sidecar-proxy", n), Node: "node-virtual", Namespace: "default",
		Owner: state.Owner{Kind: state.OwnerNetns, ID: uint64(n) + 1000, Inode: 4026531840 + uint64(n), BootID: "7e5d8b5e-0b3c-4d53-8fb8-3bd3ae1d2d1c"},
		Index: n, VIP: netip.AddrFrom4(b),
	}}
}

func placed(n uint32, reason state.PlaceReason) state.Placed {
	return state.Placed{ID: registered(n).Proxy.ID, Ranked: []string{"server-1", "server-2", "server-3"}, Reason: reason}
}

func TestAppendAndReopen(t *testing.T) {
	dir := t.TempDir()
	c := newClock()
	j, s := mustOpen(t, dir, journal.Options{Now: c.now})
	if !s.Equal(state.New()) {
		t.Fatalf("a new journal holds %+v", s)
	}
	for n := uint32(1); n <= 300; n++ {
		c.at = c.at.Add(time.Millisecond)
		for _, e := range mustAppend(t, j, registered(n), placed(n, state.PlaceInitial)) {
			s = state.Fold(s, e)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	_, again := mustOpen(t, dir, journal.Options{Now: c.now})
	if !s.Equal(again) {
		t.Errorf("replayed state differs:\n%+v\n%+v", s, again)
	}
	if again.Seq != 600 || len(again.Proxies) != 300 {
		t.Errorf("seq %d, %d proxies", again.Seq, len(again.Proxies))
	}
}

func TestTimeNeverGoesBack(t *testing.T) {
	c := newClock()
	start := c.at
	j, _ := mustOpen(t, t.TempDir(), journal.Options{Now: c.now})
	for _, step := range []struct{ set, want time.Duration }{
		{0, 0}, {time.Second, time.Second}, {-24 * time.Hour, time.Second}, {365 * 24 * time.Hour, 365 * 24 * time.Hour}, {2 * time.Second, 365 * 24 * time.Hour},
	} {
		c.at = start.Add(step.set)
		if got := mustAppend(t, j, registered(1))[0].Time; !got.Equal(start.Add(step.want)) {
			t.Errorf("clock at %s: event at %s, want %s", c.at, got, start.Add(step.want))
		}
	}
}

func TestOneProcessADirectory(t *testing.T) {
	dir := t.TempDir()
	mustOpen(t, dir, journal.Options{})
	if _, _, err := journal.Open(context.Background(), dir, journal.Options{}); !errors.Is(err, journal.ErrLocked) {
		t.Errorf("a second Open: %v", err)
	}
}
