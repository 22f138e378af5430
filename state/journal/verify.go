package journal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/state"
)

// OpenReadOnly opens a journal that no process writes to: a state directory
// whose daemon is stopped, or a copied file. path is the directory or the file.
// It verifies as Open does, changes nothing, and takes a lock that others who
// read can share. Options.Progress alone matters.
func OpenReadOnly(ctx context.Context, path string, opts Options) (*Journal, error) {
	j := &Journal{opts: Options{Now: time.Now, Progress: opts.Progress}, path: filePath(path), ro: true, appended: make(chan struct{})}
	if err := j.openReadOnly(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open journal %s: %w", j.path, err), j.release())
	}
	return j, nil
}

func (j *Journal) openReadOnly(ctx context.Context) error {
	var err error
	if j.lock, err = lockPath(j.path, unix.LOCK_SH); err != nil {
		return err
	}
	found, err := verifyFile(ctx, j.path, visitor{progress: j.opts.Progress})
	if err != nil {
		return err
	}
	if err := found.err(); err != nil {
		return recoverHint(err, j.path)
	}
	j.adoptScan(found)
	return j.openBolt(true)
}

// filePath returns the journal's file, given it or the directory that it is in.
func filePath(path string) string {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return filepath.Join(path, FileName)
	}
	return path
}

// Report is what Verify found.
type Report struct {
	Path        string
	Bytes       int64
	Meta        Meta // zero when it is damaged
	First, Last uint64
	FirstTime   time.Time
	LastTime    time.Time
	Snapshots   []uint64 // sequence numbers, in order
	Damage      []Damage // at most a hundred
	More        int      // damaged parts beyond these
}

// Events returns how many events are there.
func (r Report) Events() uint64 { return r.Last + 1 - r.First }

// Verify checks everything there is to check in a journal that no process
// writes to: its pages, checksums, the numbers and times of its events, that
// every event can be decoded, that every snapshot is what the events before it
// give, and the invariants of the state at the end. path is the file or its
// directory. The report is filled as far as it goes, also when there is an
// error: ErrDamaged, ErrFormat or ErrLocked, or that of the file system or the
// context.
func Verify(ctx context.Context, path string, progress func(done, total int64)) (Report, error) {
	path = filePath(path)
	r := Report{Path: path, Bytes: fileBytes(path)}
	err := r.verify(ctx, progress)
	if err != nil {
		return r, fmt.Errorf("verify journal %s: %w", path, err)
	}
	return r, nil
}

func (r *Report) verify(ctx context.Context, progress func(done, total int64)) (err error) {
	lock, err := lockPath(r.Path, unix.LOCK_SH)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	found, err := verifyFile(ctx, r.Path, visitor{progress: progress})
	if err != nil {
		return err
	}
	r.Meta, r.First, r.Last, r.FirstTime, r.LastTime = found.meta, found.first, found.last, found.firstTime, found.lastTime
	r.Snapshots, r.Damage, r.More = found.snapshots, found.damage, found.more
	if err := found.err(); err != nil {
		return err
	}
	if err := r.deep(ctx); err != nil {
		if d := (Damage{}); errors.As(err, &d) {
			r.Damage = append(r.Damage, d)
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		return err
	}
	return nil
}

// deep is the part that decodes. The pages are known to be sound, so bbolt may
// check them in its own way too.
func (r *Report) deep(ctx context.Context) (err error) {
	j := &Journal{path: r.Path, ro: true, appended: make(chan struct{}), first: r.First, last: r.Last, firstTime: r.FirstTime}
	defer func() { err = errors.Join(err, j.release()) }()
	if err := j.openBolt(true); err != nil {
		return err
	}
	err = j.view(func(tx *bbolt.Tx) error {
		var first error
		for err := range tx.Check() { // to its end: its goroutine waits for us
			if first == nil {
				first = Damage{What: err.Error()}
			}
		}
		return first
	})
	if err != nil {
		return err
	}
	return j.compareSnapshots(ctx, r.Snapshots)
}

// compareSnapshots replays every event, and holds each snapshot against it.
func (j *Journal) compareSnapshots(ctx context.Context, snapshots []uint64) error {
	s := state.New()
	if j.first > 1 {
		var err error
		if s, err = j.snapshotBefore(snapshots[0]); err != nil {
			return err
		}
	}
	check := func() error {
		for len(snapshots) > 0 && snapshots[0] == s.Seq {
			kept, err := j.snapshotBefore(s.Seq)
			if err != nil {
				return err
			}
			if !kept.Equal(s) {
				return Damage{What: fmt.Sprintf("the snapshot at event %d is not what the events up to it give", s.Seq)}
			}
			snapshots = snapshots[1:]
		}
		return nil
	}
	if err := check(); err != nil {
		return err
	}
	err := j.readTo(j.first-1, j.last, func(e state.Event) error {
		if e.Seq%1024 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if e.Seq <= s.Seq { // left over before the first snapshot: it can be decoded, that is all
			return nil
		}
		s = state.Fold(s, e)
		return check()
	})
	if err != nil {
		return err
	}
	if err := s.Check(); err != nil {
		return Damage{What: "the state at the end does not hold: " + err.Error()}
	}
	return nil
}
