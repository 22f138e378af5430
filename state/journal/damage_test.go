package journal_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/state/journal"
)

var (
	mutations = flag.Int("mutations", 500, "how many damaged journals TestMutations makes")
	seed      = flag.Uint64("seed", 1, "the first of their seeds")
)

// specimen is a journal's file with every state that it has been through.
type specimen struct {
	file   []byte
	states []state.State // by sequence number
}

// newSpecimen makes a journal with three snapshots and dropped events, whose
// newest pages are not all at the end of the file.
func newSpecimen(t *testing.T) specimen {
	t.Helper()
	dir := t.TempDir()
	j, s := mustOpen(t, dir, journal.Options{Retain: journal.Retain{Events: 150}, NoSync: true})
	states := []state.State{s.Clone()}
	for n := uint32(1); n <= 200; n++ {
		for _, e := range mustAppend(t, j, registered(n), placed(n, state.PlaceInitial)) {
			s = state.Fold(s, e)
			states = append(states, s.Clone())
		}
		if n%60 == 0 {
			if err := j.Snapshot(s); err != nil {
				t.Fatal(err)
			}
		}
	}
	if st := j.Stats(); st.First == 1 || len(st.Snapshots) != 3 {
		t.Fatalf("the specimen begins at event %d and has snapshots %v", st.First, st.Snapshots)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	file := readFile(t, filepath.Join(dir, journal.FileName))
	for len(file) > page && len(bytes.TrimLeft(file[len(file)-page:], "\x00")) == 0 { // what was allocated ahead
		file = file[:len(file)-page]
	}
	return specimen{file: file, states: states}
}

// check opens a damaged journal: it is refused by name, or is what it was. Then
// it recovers it: what is saved is a state that there was.
func (s specimen) check(t *testing.T, image []byte) (opened, recovered bool) {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, journal.FileName), image)
	j, got, err := journal.Open(context.Background(), dir, journal.Options{NoSync: true})
	last := s.states[len(s.states)-1]
	switch {
	case err == nil:
		opened = true
		if !got.Equal(last) {
			t.Errorf("opens as another state, at event %d of %d", got.Seq, last.Seq)
		}
		if _, err := j.Append(registered(60_000)); err != nil {
			t.Errorf("opened, but takes no event: %v", err)
		}
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	case !errors.Is(err, journal.ErrDamaged) && !errors.Is(err, journal.ErrFormat):
		t.Errorf("open: %v", err)
	case errors.Is(err, journal.ErrDamaged) && !strings.Contains(err.Error(), "lictor journal recover"):
		t.Errorf("the error does not say what to do: %v", err)
	}
	writeFile(t, filepath.Join(dir, journal.FileName), image)
	return opened, s.recover(t, dir, opened)
}

func (s specimen) recover(t *testing.T, dir string, opened bool) bool {
	t.Helper()
	saved := t.TempDir()
	rec, err := journal.Recover(context.Background(), dir, filepath.Join(saved, journal.FileName), nil)
	if err != nil {
		if opened || !errors.Is(err, journal.ErrDamaged) && !errors.Is(err, journal.ErrFormat) {
			t.Errorf("recover: %v", err)
		}
		if left, _ := os.ReadDir(saved); len(left) > 0 {
			t.Errorf("recover left %v", left)
		}
		return false
	}
	j, got := mustOpen(t, saved, journal.Options{NoSync: true})
	if got.Seq != rec.Last || !got.Equal(s.states[got.Seq]) {
		t.Errorf("recovered up to event %d, opens at %d, or as another state", rec.Last, got.Seq)
	}
	if whole := got.Seq == uint64(len(s.states)-1); !whole && len(rec.Lost) == 0 && len(rec.Damage) == 0 {
		t.Error("something was lost without a word")
	}
	mustAppend(t, j, registered(60_000))
	return true
}

// TestMutations damages journals in seeded ways: bits, bytes, zeroed and swapped
// pages, anywhere.
func TestMutations(t *testing.T) {
	s := newSpecimen(t)
	var opened, recovered int
	for i := range *mutations {
		rng := rand.New(rand.NewPCG(*seed+uint64(i), 7))
		o, r := s.check(t, mutate(rng, bytes.Clone(s.file)))
		if t.Failed() {
			t.Fatalf("seed %d", *seed+uint64(i))
		}
		if o {
			opened++
		}
		if r {
			recovered++
		}
	}
	t.Logf("%d mutations: %d opened as they were, %d recovered", *mutations, opened, recovered)
	if opened == *mutations || recovered < *mutations/2 {
		t.Errorf("%d of %d opened, %d recovered", opened, *mutations, recovered)
	}
}

func mutate(rng *rand.Rand, image []byte) []byte {
	pages := len(image) / page
	at := func() []byte { n := rng.IntN(pages); return image[n*page : (n+1)*page] }
	switch rng.IntN(6) {
	case 0: // a bit
		p := at()
		p[rng.IntN(page)] ^= 1 << rng.IntN(8)
	case 1: // a bit in a header, or in what follows it
		p := at()
		p[rng.IntN(128)] ^= 1 << rng.IntN(8)
	case 2: // a sector of zeros
		clear(at()[512*rng.IntN(8):][:512])
	case 3: // a whole page of something
		p := at()
		for i := range p {
			p[i] = byte(rng.Uint32())
		}
	case 4: // a page in another's place
		copy(at(), at())
	case 5: // some bytes anywhere
		for range 1 + rng.IntN(8) {
			image[rng.IntN(len(image))] = byte(rng.Uint32())
		}
	}
	return image
}

// TestTruncations cuts the file off at every page, and beside it.
func TestTruncations(t *testing.T) {
	s := newSpecimen(t)
	step := max(1, len(s.file)/page/24)
	for n := 0; n < len(s.file)/page; n += step {
		for _, at := range []int{n * page, n*page + 1, n*page + page/2} {
			if o, _ := s.check(t, s.file[:at]); o {
				t.Errorf("cut at byte %d of %d: opened", at, len(s.file))
			}
		}
	}
}

// TestDamageIsNamed changes one byte of a known event.
func TestDamageIsNamed(t *testing.T) {
	s := newSpecimen(t)
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, journal.FileName), s.spoil(registered(199).Proxy.ID))
	_, _, err := journal.Open(context.Background(), dir, journal.Options{})
	if !errors.Is(err, journal.ErrDamaged) || !strings.Contains(err.Error(), "event 397:") {
		t.Errorf("open: %v", err)
	}
	r, err := journal.Verify(context.Background(), dir, nil)
	if !errors.Is(err, journal.ErrDamaged) || len(r.Damage) != 2 || r.Damage[0].First != 397 || r.Damage[1].First != 398 {
		t.Errorf("verify: %v, %+v", err, r.Damage)
	}
}

// spoil returns the file with every copy of a text changed, those on pages that
// are no longer in use too.
func (s specimen) spoil(text string) []byte {
	image := bytes.Clone(s.file)
	for i := 0; ; {
		n := bytes.Index(image[i:], []byte(text))
		if n < 0 {
			return image
		}
		image[i+n] ^= 1
		i += n + 1
	}
}

// TestRecoverySaysWhatIsLost, by sequence number: history before a snapshot, the
// effect of which is saved, and what came after the damage, which is not.
func TestRecoverySaysWhatIsLost(t *testing.T) {
	s := newSpecimen(t)
	last := uint64(len(s.states) - 1)
	for name, test := range map[string]struct {
		spoiled     string
		first, last uint64
		lost        journal.Damage
	}{
		"history": {
			`ProxyRegistered{"proxy":{"id":"` + registered(70).Proxy.ID, 140, last,
			journal.Damage{First: 121, Last: 139, What: "history lost; its effect is in the snapshot"},
		},
		"the newest": {
			registered(199).Proxy.ID, 121, 396,
			journal.Damage{First: 397, Last: last, What: "lost with its effect"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			writeFile(t, filepath.Join(dir, journal.FileName), s.spoil(test.spoiled))
			rec, err := journal.Recover(context.Background(), dir, filepath.Join(dir, "saved"), nil)
			if err != nil {
				t.Fatal(err)
			}
			if rec.First != test.first || rec.Last != test.last || !slices.Equal(rec.Lost, []journal.Damage{test.lost}) {
				t.Errorf("saved events %d to %d and lost %+v; want %d to %d and %+v", rec.First, rec.Last, rec.Lost, test.first, test.last, test.lost)
			}
			if _, err := journal.Recover(context.Background(), dir, filepath.Join(dir, "saved"), nil); !errors.Is(err, journal.ErrExists) {
				t.Errorf("over what is there: %v", err)
			}
			if got := readFile(t, filepath.Join(dir, journal.FileName)); !bytes.Equal(got, s.spoil(test.spoiled)) {
				t.Error("the source was changed")
			}
		})
	}
}

// TestNotAJournal opens what never was one.
func TestNotAJournal(t *testing.T) {
	for name, content := range map[string][]byte{
		"empty": nil, "text": []byte(strings.Repeat("hello ", 10_000)), "zeros": make([]byte, 1<<20),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			writeFile(t, filepath.Join(dir, journal.FileName), content)
			if _, _, err := journal.Open(context.Background(), dir, journal.Options{}); !errors.Is(err, journal.ErrDamaged) {
				t.Errorf("open: %v", err)
			}
			if got := readFile(t, filepath.Join(dir, journal.FileName)); !bytes.Equal(got, content) {
				t.Error("the file was changed")
			}
		})
	}
}
