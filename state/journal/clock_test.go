package journal_test

import (
	"context"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/state/journal"
)

// With retention by age and the clock set forward a year, back a day and right
// again, snapshots go on being made, history stays bounded by both measures,
// and no state is lost.
func TestSnapshotsWhileTheClockIsSet(t *testing.T) {
	c := newClock()
	opts := journal.Options{Now: c.now, Retain: journal.Retain{Events: 100, Age: time.Minute}, NoSync: true}
	dir := t.TempDir()
	j, s := mustOpen(t, dir, opts)
	for _, skew := range []time.Duration{0, 365 * 24 * time.Hour, -365 * 24 * time.Hour, -24 * time.Hour, 24 * time.Hour} {
		c.at = c.at.Add(skew)
		made := 0
		for n := uint32(1); n <= 300; n++ {
			c.at = c.at.Add(time.Second)
			s = state.Fold(s, mustAppend(t, j, registered(n))[0])
			if !j.SnapshotDue() {
				continue
			}
			made++
			if err := j.Snapshot(s); err != nil {
				t.Fatal(err)
			}
		}
		if made < 5 || made > 20 {
			t.Errorf("set by %s: %d snapshots in five minutes, with a minute of retention", skew, made)
		}
		if st := j.Stats(); st.Last+1-st.First > 300 {
			t.Errorf("set by %s: %d events are kept", skew, st.Last+1-st.First)
		}
		if got, err := j.StateAtSeq(context.Background(), s.Seq); err != nil || !got.Equal(s) {
			t.Errorf("set by %s: the newest state is another, or none: %v", skew, err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if _, again := mustOpen(t, dir, opts); !again.Equal(s) {
		t.Errorf("replayed state differs:\n%+v\n%+v", s, again)
	}
}
