// Package journaltest opens journals for tests, and verifies them afterwards:
// a test that leaves a journal which does not verify has failed, whatever else
// it checked.
package journaltest

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"testing"

	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/state/journal"
)

// Open opens the journal of a directory, which must outlive the test's own
// cleanups. When the test ends it is closed and verified; the test may close it
// before.
func Open(t testing.TB, dir string, opts journal.Options) (*journal.Journal, state.State) {
	t.Helper()
	j, s, err := journal.Open(context.Background(), dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Errorf("close journal: %v", err)
		}
		Verify(t, dir)
	})
	return j, s
}

// Verify fails the test if the journal of a directory, which nobody may have
// open for writing, does not verify. A directory without a journal is none.
func Verify(t testing.TB, dir string) {
	t.Helper()
	_, err := journal.Verify(context.Background(), dir, nil)
	if errors.Is(err, fs.ErrNotExist) && !exists(dir) {
		return
	}
	if err != nil {
		t.Error(err)
	}
}

func exists(dir string) bool {
	files, _ := filepath.Glob(filepath.Join(dir, journal.FileName))
	return len(files) > 0
}
