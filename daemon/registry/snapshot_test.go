package registry

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/state/journal"
)

// eager is a journal that wants a snapshot after every event.
type eager struct{ *journal.Journal }

func (j eager) SnapshotDue() bool {
	st := j.Stats()
	return st.Last > 0 && (len(st.Snapshots) == 0 || st.Snapshots[len(st.Snapshots)-1] < st.Last)
}

// A snapshot holds what is journaled and nothing else: what came into force while
// a promise was on its way to the disk is journaled before one is made.
func TestSnapshotHoldsWhatIsJournaled(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		if err := h.r.do(t.Context(), func() { h.journal.Journal = eager{h.disk} }); err != nil {
			t.Fatal(err)
		}
		h.servers("s1", "s2")
		h.settle()
		h.sick(func() error { time.Sleep(100 * time.Millisecond); return nil })
		done := make(chan error)
		go func() {
			_, err := h.register("a")
			done <- err
		}()
		time.Sleep(50 * time.Millisecond)
		h.servers("s1", "s3") // in force at once, while the disk syncs
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if h.snapshot().Pending == 0 {
			t.Error("nothing is pending: nothing is tested")
		}
		h.settle()
		if st := h.disk.Stats(); len(st.Snapshots) == 0 || st.Snapshots[len(st.Snapshots)-1] != st.Last {
			t.Errorf("snapshots %v of %d events", st.Snapshots, st.Last)
		}
		h.stop()
		if _, err := journal.Verify(h.ctx(), filepath.Join(h.dir, "state"), nil); err != nil {
			t.Error(err)
		}
	})
}
