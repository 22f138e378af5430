package journal_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/state/journal"
	"github.com/lictor-mesh/lictor/state/journal/journaltest"
)

var killRounds = flag.Int("kills", 12, "how many times TestKill kills the writer")

const page = 4096

// TestPowerCutImages builds what the disk may hold after a power cut at any
// point of a commit: before the first sync any part of the new pages, between
// the two all of them, after that the meta page too. Each opens, as the state
// before the commit or after it, and verifies.
func TestPowerCutImages(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	dir := t.TempDir()
	j, s := mustOpen(t, dir, journal.Options{Retain: journal.Retain{Events: 40}})
	path := filepath.Join(dir, journal.FileName)
	n := uint32(0)
	for round := range 20 {
		before, was := readFile(t, path), s.Clone()
		if round%5 == 4 {
			if err := j.Snapshot(s); err != nil {
				t.Fatal(err)
			}
		} else {
			var bodies []state.Body
			for range 1 + rng.IntN(20) {
				n++
				bodies = append(bodies, registered(n), placed(n, state.PlaceInitial))
			}
			for _, e := range mustAppend(t, j, bodies...) {
				s = state.Fold(s, e)
			}
		}
		after := readFile(t, path)
		for range 4 {
			checkImage(t, cutBeforeSync(rng, before, after), was, was)
		}
		checkImage(t, cutBeforeMeta(before, after), was, was)
		checkImage(t, after, s, s)
	}
}

// cutBeforeSync returns before with some of the changed pages of after, without
// the meta pages. The file may have its old or its new length.
func cutBeforeSync(rng *rand.Rand, before, after []byte) []byte {
	image := bytes.Clone(before)
	if rng.IntN(2) == 0 {
		image = append(image, make([]byte, len(after)-len(before))...)
	}
	for at := 2 * page; at+page <= len(image); at += page {
		if rng.IntN(2) == 0 {
			copy(image[at:at+page], after[at:])
		}
	}
	return image
}

func cutBeforeMeta(before, after []byte) []byte {
	image := bytes.Clone(after)
	copy(image[:2*page], before)
	return image
}

func checkImage(t *testing.T, image []byte, either, or state.State) {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, journal.FileName), image)
	j, s, err := journal.Open(context.Background(), dir, journal.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	if !s.Equal(either) && !s.Equal(or) {
		t.Errorf("opens at event %d, want %d or %d, or as another state", s.Seq, either.Seq, or.Seq)
	}
	// It must take the next events, whatever the cut has left on free pages.
	mustAppend(t, j, registered(60_000), placed(60_000, state.PlaceInitial))
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	journaltest.Verify(t, dir)
}

// TestPowerCutNeedsSync is the proof that the test above can fail: when nothing
// is synced the meta page can be on the disk without the pages it refers to, and
// then something is lost. It must be noticed.
func TestPowerCutNeedsSync(t *testing.T) {
	dir := t.TempDir()
	j, s := mustOpen(t, dir, journal.Options{NoSync: true})
	path := filepath.Join(dir, journal.FileName)
	for n := uint32(1); n <= 50; n++ {
		s = state.Fold(s, mustAppend(t, j, registered(n))[0])
	}
	before := readFile(t, path)
	mustAppend(t, j, registered(51))
	image := bytes.Clone(before)
	copy(image[:2*page], readFile(t, path)) // only the meta page
	other := t.TempDir()
	writeFile(t, filepath.Join(other, journal.FileName), image)
	if _, _, err := journal.Open(context.Background(), other, journal.Options{}); !errors.Is(err, journal.ErrDamaged) {
		t.Errorf("open: %v", err)
	}
	dst := filepath.Join(other, "saved.db")
	rec, err := journal.Recover(context.Background(), other, dst, nil)
	if err != nil || rec.Last != s.Seq {
		t.Errorf("recovered up to event %d, want %d: %v", rec.Last, s.Seq, err)
	}
}

// TestKill kills a process that appends and takes snapshots, at random moments,
// again and again on one journal. What it said was journaled must be there.
func TestKill(t *testing.T) {
	if os.Getenv("JOURNAL_KILL_DIR") != "" {
		return
	}
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(3, 4))
	for round := range *killRounds {
		acked := killOne(t, dir, time.Duration(rng.IntN(120))*time.Millisecond)
		j, s, err := journal.Open(context.Background(), dir, journal.Options{})
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if s.Seq < acked {
			t.Fatalf("round %d: event %d was acknowledged, the journal ends at %d", round, acked, s.Seq)
		}
		if s.Seq%3 != 0 {
			t.Errorf("round %d: the journal ends at %d, within a batch", round, s.Seq)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		journaltest.Verify(t, dir)
	}
}

// killOne runs TestKillChild for a while, kills it, and returns the last event
// that it said was journaled.
func killOne(t *testing.T, dir string, after time.Duration) (acked uint64) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKillChild$")
	cmd.Env = append(os.Environ(), "JOURNAL_KILL_DIR="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	started := false
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), "acked "); ok {
			if _, err := fmt.Sscan(text, &acked); err != nil {
				t.Fatal(err)
			}
		}
		if !started {
			started = true
			time.AfterFunc(after, func() { cmd.Process.Kill() })
		}
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("the child ended by itself")
	}
	return acked
}

// TestKillChild is the process that TestKill kills.
func TestKillChild(t *testing.T) {
	dir := os.Getenv("JOURNAL_KILL_DIR")
	if dir == "" {
		t.Skip("run by TestKill")
	}
	fmt.Println("started")
	j, s, err := journal.Open(context.Background(), dir, journal.Options{Retain: journal.Retain{Events: 60}})
	if err != nil {
		t.Fatal(err)
	}
	for n := uint32(s.Seq) + 1; ; n++ {
		events := mustAppend(t, j, registered(n%50_000), placed(n%50_000, state.PlaceInitial),
			state.ProxyDeregistered{ID: registered((n - 5) % 50_000).Proxy.ID, Reason: state.LeaveOperator})
		for _, e := range events {
			s = state.Fold(s, e)
		}
		fmt.Println("acked", s.Seq)
		if n%7 == 0 {
			if err := j.Snapshot(s); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func writeFile(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
