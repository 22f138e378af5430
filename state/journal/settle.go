package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// makeDir makes a directory and those above it so that a power cut does not
// take them away again, and neither what is put into them.
func makeDir(dir string) error {
	err := os.Mkdir(dir, 0o700)
	parent := filepath.Dir(dir)
	if errors.Is(err, fs.ErrNotExist) && parent != dir {
		if err := makeDir(parent); err != nil {
			return err
		}
		err = os.Mkdir(dir, 0o700)
	}
	if err == nil {
		return syncDir(parent)
	}
	if info, statErr := os.Stat(dir); statErr != nil || !info.IsDir() {
		return err
	}
	// Who made it may have been killed before this. A parent that is on a file
	// system without syncs, or that is not ours to read, was made by others.
	err = syncDir(parent)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EROFS) {
		return nil
	}
	return err
}

// forget syncs the file and drops what the page cache has of it, so that what
// is verified next is what the disk has. After a failed write the cache is not
// to be believed: it holds pages that the disk does not have, and on ext4 a
// page that is written again stays marked as never written on the disk
// (measured: it is zeros after the next power cut), unless it was dropped.
func forget(path string) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("%w; see to the disk: it has lost what was written to it", err)
	}
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

// settle puts on the disk what was verified. A process that was killed between
// a write and its sync leaves pages that only the page cache holds, and one
// whose sync failed leaves such pages marked as written. Who opens the journal
// acts on what they say and overwrites what they no longer refer to, so a power
// cut would lose answers, or tear the file.
//
// The pages to fear for are the two meta pages: all others were synced before a
// meta page referred to them. They are written again as they are, because a
// page that is marked as written is left out of a sync.
func settle(path string) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	meta := make([]byte, 2*pageSize)
	if _, err := io.ReadFull(f, meta); err != nil {
		return err
	}
	if _, err := f.WriteAt(meta, 0); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("%w; see to the disk: it has lost what was written to it", err)
	}
	return syncDir(filepath.Dir(path)) // it may have been renamed a moment ago
}
