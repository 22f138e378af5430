package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"time"
)

// Errors of this package. They are wrapped; test with errors.Is.
var (
	// ErrLocked is returned by Open while another process has the state
	// directory open, and by what reads a journal offline while a daemon writes
	// it.
	ErrLocked = errors.New("in use by another process; stop it, or give this one another state directory")

	// ErrDamaged is returned when the file does not hold what was written. It
	// is wrapped in an error that names the first damaged sequence number.
	ErrDamaged = errors.New("damaged")

	// ErrFormat is returned for a journal, record or snapshot that a later
	// version wrote.
	ErrFormat = errors.New("written by a later version; install that version, it reads this journal")

	// ErrForeign is returned by Open for a journal that another machine wrote:
	// a copied disk. Its VIPs may be in force on that machine as well. What
	// Recover writes is taken over by the machine that opens it first.
	ErrForeign = errors.New("written on another machine")

	// ErrFull is returned by Append, Snapshot and Probe when the disk or a quota is
	// full. Nothing was written; the call can be repeated when there is room.
	ErrFull = errors.New("no space left for the journal")

	// ErrBroken is returned by Append and Snapshot after an error that leaves
	// open what is on the disk, such as that of a sync. No later call of the
	// same Journal writes anything: restart the process, which reads what is
	// there.
	ErrBroken = errors.New("the journal takes no more writes until a restart")

	// ErrReadOnly is returned by what writes to a journal of OpenReadOnly.
	ErrReadOnly = errors.New("the journal is open for reading only")

	// ErrClosed is returned after Close.
	ErrClosed = errors.New("the journal is closed")

	// ErrNotRetained is returned for a sequence number or time before what is
	// kept. It comes as a *RetentionError.
	ErrNotRetained = errors.New("no longer retained")

	// ErrExists is returned by Recover for a destination that exists.
	ErrExists = errors.New("exists already; name another file")
)

// RetentionError is an ErrNotRetained that names the oldest that is retained.
type RetentionError struct {
	What string    // "event 5", "the state at event 5"
	Seq  uint64    // the oldest sequence number retained
	Time time.Time // of it
}

// Error names the oldest that is retained.
func (e *RetentionError) Error() string {
	return fmt.Sprintf("%s is %s; the oldest kept is %d, of %s", e.What, ErrNotRetained, e.Seq, e.Time.Format(time.RFC3339Nano))
}

// Is reports whether target is ErrNotRetained.
func (e *RetentionError) Is(target error) bool { return target == ErrNotRetained }

// Damage is a part of a journal that does not hold what was written.
type Damage struct {
	First, Last uint64 // sequence numbers of the events that are lost or in doubt, both 0 when it is none or unknown
	What        string // which part, and what is wrong with it
}

// Error names the events and the part.
func (d Damage) Error() string {
	switch {
	case d.First == 0:
		return d.What
	case d.First == d.Last:
		return fmt.Sprintf("event %d: %s", d.First, d.What)
	case d.Last == 0:
		return fmt.Sprintf("event %d and later: %s", d.First, d.What)
	}
	return fmt.Sprintf("events %d to %d: %s", d.First, d.Last, d.What)
}

// Is reports whether target is ErrDamaged.
func (d Damage) Is(target error) bool { return target == ErrDamaged }

// numbered is an error whose text has lost its error number.
type numbered struct {
	error
	number syscall.Errno
}

// Unwrap gives both.
func (e numbered) Unwrap() []error { return []error{e.error, e.number} }

// renumber gives an error of bbolt the error number that its text ends with:
// bbolt formats what keeps the file from growing with %s.
func renumber(err error) error {
	for _, number := range []syscall.Errno{syscall.EROFS, syscall.EIO, syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		if !errors.Is(err, number) && strings.HasSuffix(err.Error(), ": "+number.Error()) {
			return numbered{err, number}
		}
	}
	return err
}

// retryable reports whether a commit failed before anything was written that
// counts, because the disk is full. A failed write leaves garbage on free pages
// only. A failed sync is never retryable, whatever its error number: the kernel
// has dropped the dirty pages and the next sync would lie. bbolt returns the
// error of its fdatasync bare and that of a write as a *fs.PathError, which is
// what tells them apart.
func retryable(err error) bool {
	var path *fs.PathError
	if !errors.As(err, &path) || path.Op != "write" {
		return false
	}
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
