package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/state/journal"
)

// shortLived says what it costs that a state directory is where it does not
// last, "" when it does or when nobody can tell.
func shortLived(dir string) string {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return ""
	}
	switch st.Type {
	case unix.TMPFS_MAGIC, unix.RAMFS_MAGIC:
		return fmt.Sprintf("The state directory %s is in memory: after a reboot every proxy has to be registered again and may get another VIP. Give --state-dir a directory on a disk.", dir)
	case unix.OVERLAYFS_SUPER_MAGIC:
		return fmt.Sprintf("The state directory %s is in a container's own layer and is lost with it: every proxy has to be registered again then and may get another VIP. Mount a volume there, or give --state-dir another directory.", dir)
	}
	return ""
}

// openHint says what can be done about a disk that the journal cannot be opened
// on. The hook, if it is there, stays in effect.
func openHint(err error) error {
	switch {
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%w; mount it writable, or give --state-dir another directory", err)
	case errors.Is(err, syscall.ENOSPC):
		return fmt.Errorf("%w; make room, or give --state-dir another directory", err)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%w; run lictord as root", err)
	case errors.Is(err, fs.ErrExist), errors.Is(err, syscall.ENOTDIR), errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w; give --state-dir a directory, or a path where one can be made", err)
	}
	return err
}

// diskProblem says what a journal that cannot be written means, and what to do.
func diskProblem(dir string, err error) string {
	const meanwhile = "Registrations, deregistrations and drains are refused; redirects, failover and placements go on."
	switch {
	case errors.Is(err, journal.ErrFull):
		return fmt.Sprintf("The disk of %s is full. %s Make room there: lictord goes on by itself.", dir, meanwhile)
	case errors.Is(err, syscall.EROFS):
		return fmt.Sprintf("The file system of %s has become read-only. %s See to the disk, mount it writable and restart lictord: it reads then what the disk has. (%v)", dir, meanwhile, err)
	}
	return fmt.Sprintf("A write to the journal in %s failed, and what the disk has of it is not known. %s See to the disk and restart lictord: it reads then what is there. (%v)", dir, meanwhile, err)
}

// diskStatus tells how the journal's disk is.
func (b backend) diskStatus(st *v1.Status) {
	dir := b.cfg.StateDir
	if err := b.registry.JournalProblem(); err != nil {
		st.Journal.Writable, st.Journal.Problem = false, err.Error()
		st.Problems = append(st.Problems, diskProblem(dir, err))
	}
	if delay := b.registry.DiskDelay(); delay > 0 {
		st.Problems = append(st.Problems, fmt.Sprintf(
			"The disk of %s is slow, a write to the journal takes %s: registrations wait for it, redirects and failover do not.",
			dir, delay.Round(100*time.Millisecond)))
	}
	if warning := shortLived(dir); warning != "" {
		st.Problems = append(st.Problems, warning)
	}
}
