package main

import (
	"context"
	"flag"
	"path/filepath"
	"testing"

	"github.com/lictor-mesh/lictor/state/journal"
	"github.com/lictor-mesh/lictor/tools/powercut/disk"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

var (
	cuts     = flag.Int("cuts", 200, "how often the power of a journal is cut")
	hostCuts = flag.Int("host-cuts", 8, "how often the power of a host with a lictord is cut")
	seed     = flag.Uint64("seed", 1, "of the moments of the cuts")
)

func prepare(t *testing.T) {
	t.Helper()
	testenv.Privileged(t)
	testenv.NoLeaks(t)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func kept(t *testing.T, tally Tally, err error) {
	t.Helper()
	t.Log(tally)
	must(t, err)
	for _, wrong := range tally.Wrong {
		t.Error(wrong)
	}
	if tally.Acks < uint64(tally.Rounds) {
		t.Errorf("only %d calls were acknowledged: the cuts hit nothing", tally.Acks)
	}
}

// No promise is lost, whenever the power goes, and nothing half there.
func TestPowerCuts(t *testing.T) {
	prepare(t)
	tally, err := cutJournal(t.Context(), *cuts, *seed, journal.Options{})
	kept(t, tally, err)
}

// The same with the whole lictord, whose kernel maps the power takes as well.
func TestPowerCutsOfAHost(t *testing.T) {
	prepare(t)
	tally, err := cutHost(t.Context(), *hostCuts, *seed)
	kept(t, tally, err)
}

// Without a sync the test above must fail, or it proves nothing.
func TestPowerCutsNeedSync(t *testing.T) {
	prepare(t)
	tally, err := cutJournal(t.Context(), 10, *seed, journal.Options{NoSync: true})
	t.Log(tally, err)
	if err == nil && len(tally.Wrong) == 0 {
		t.Errorf("%d cuts of a journal that is never synced lost nothing", tally.Rounds)
	}
}

// What Open reads may be in the page cache only: its writer was killed before
// the sync. Once Open has answered, callers are told of it, so it must be on the
// disk.
func TestWhatOpenAnswersIsOnTheDisk(t *testing.T) {
	prepare(t)
	d, err := disk.New(disk.Options{})
	must(t, err)
	t.Cleanup(func() { must(t, d.Close()) })
	dir := filepath.Join(d.Path, "lictor", "state") // not there yet: their names have to be synced, too
	j, _, err := journal.Open(context.Background(), dir, journal.Options{NoSync: true})
	must(t, err)
	for i, id := range []string{"a", "b", "c"} {
		_, err := j.Append(registration(id, uint32(i)+1)...)
		must(t, err)
	}
	must(t, j.Close())
	j, told, err := journal.Open(context.Background(), dir, journal.Options{})
	must(t, err)
	must(t, j.Close())
	if len(told.Proxies) != 3 {
		t.Fatalf("%d proxies before the cut", len(told.Proxies))
	}
	must(t, d.Cut())
	must(t, d.Unmount())
	must(t, d.Mount())
	j, s, err := journal.Open(context.Background(), dir, journal.Options{})
	must(t, err)
	must(t, j.Close())
	if !s.Equal(told) {
		t.Errorf("event %d was answered, after the cut the journal ends at %d", told.Seq, s.Seq)
	}
}
