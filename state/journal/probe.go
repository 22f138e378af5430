package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// Probe writes nothing new, by the same steps as Append: it says whether an
// Append could succeed now. After ErrFull that means one as large as what found
// no room, and room for it is then the journal's: who fills the disk next does
// not get it. Its errors are those of Append.
func (j *Journal) Probe() error {
	j.write.Lock()
	defer j.write.Unlock()
	j.mu.Lock()
	meta := j.meta
	j.mu.Unlock()
	value, err := meta.encode()
	if err == nil {
		err = j.update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte(bucketMeta)).Put(metaKey, value) })
	}
	if err == nil {
		err = j.reserve()
	}
	if err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	return nil
}

// noteRoom remembers how much room an Append wanted in vain. tx is its
// transaction, nil when it did not get that far.
func (j *Journal) noteRoom(tx *bbolt.Tx, err error) {
	switch {
	case err == nil:
		j.lacked = 0
	case errors.Is(err, ErrFull) && tx != nil:
		stats := tx.Stats()
		j.lacked = max(j.lacked, stats.GetPageAlloc())
	}
}

// reserve has the file system set room aside where the next pages of the file
// go. A small write proves little on a full disk: it fits into pages that the
// file has already.
func (j *Journal) reserve() (err error) {
	if j.lacked == 0 {
		return nil
	}
	var end int64 // of the pages in use or free to be used again; the file goes on as a hole
	if err := j.db.View(func(tx *bbolt.Tx) error { end = tx.Size(); return nil }); err != nil {
		return err
	}
	f, err := os.OpenFile(j.path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for {
		err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, end, j.lacked)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
		return nil // such a file system has nothing better than the small write
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		err = fmt.Errorf("%w: %w", ErrFull, &fs.PathError{Op: "fallocate", Path: j.path, Err: err})
	case err != nil:
		err = &fs.PathError{Op: "fallocate", Path: j.path, Err: err}
	}
	return err
}
