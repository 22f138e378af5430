package secrets

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/state"
)

// Errors of a View.
var (
	// ErrGone: the process whose files they are has ended.
	ErrGone = errors.New("the process has ended")
	// ErrStuck: the file system does not answer.
	ErrStuck = errors.New("the file system does not answer")
)

// patience is how long a file system may take. It may be the caller's own, as
// with FUSE, and never answer.
const patience = 5 * time.Second

// View opens files as one process sees them, with that process's rights. It is
// safe for concurrent use; its owner calls Close.
type View struct {
	id   Identity
	root *os.File // O_PATH; what is "/" to the process

	mu    sync.Mutex
	stuck int // calls that were given up and have not returned
}

// Host is how the daemon itself sees files, for what root has registered
// without naming a process.
func Host() (*View, error) {
	root, err := os.OpenFile("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the root directory: %w", err)
	}
	return &View{id: self(), root: root}, nil
}

// OfProcess is how a process sees files. It is ErrGone when that has ended, or
// its pid is another's by now.
func OfProcess(p state.Process, bootID string) (*View, error) {
	if p.BootID != bootID {
		return nil, fmt.Errorf("open files of process %d: %w: it was before the last boot", p.PID, ErrGone)
	}
	// What is opened below this descriptor is of one and the same process.
	proc, err := os.OpenFile("/proc/"+strconv.Itoa(p.PID), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, gone(p, err)
	}
	defer func() { _ = proc.Close() }() // a path, nothing was written
	start, err := startOf(proc)
	if err != nil {
		return nil, gone(p, err)
	}
	if start != p.Start {
		return nil, fmt.Errorf("open files of process %d: %w", p.PID, ErrGone)
	}
	id, err := identityOf(proc, p)
	if err != nil {
		return nil, gone(p, err)
	}
	root, err := openAt(proc, "root", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, gone(p, err)
	}
	return &View{id: id, root: root}, nil
}

func gone(p state.Process, err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		err = ErrGone
	}
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("open files of process %d: %w; lictord needs CAP_SYS_PTRACE", p.PID, err)
	}
	return fmt.Errorf("open files of process %d: %w", p.PID, err)
}

// Close releases the view.
func (v *View) Close() error { return v.root.Close() }

// Owner is whose rights are used.
func (v *View) Owner() Identity { return v.id }

// Read reads a regular file of at most so many bytes. Symbolic links are
// followed as the process would follow them.
func (v *View) Read(name string, limit int) ([]byte, error) {
	var content []byte
	err := v.act(func() error {
		// O_NONBLOCK: a pipe must not hold the daemon up.
		f, err := v.open(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }() // only read
		if err := plain(f); err != nil {
			return err
		}
		content, err = io.ReadAll(io.LimitReader(f, int64(limit)+1))
		if err == nil && len(content) > limit {
			err = fmt.Errorf("is larger than %d bytes", limit)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read %s as uid %d: %w", name, v.id.UID, err)
	}
	return content, nil
}

// ReadDir reads the regular files of a directory, in the order of their names,
// together at most so many bytes, one after the other.
func (v *View) ReadDir(name string, limit int) ([]byte, error) {
	var names []string
	err := v.act(func() error {
		d, err := v.open(name, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer func() { _ = d.Close() }() // only read
		entries, err := d.ReadDir(-1)
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read directory %s as uid %d: %w", name, v.id.UID, err)
	}
	var all bytes.Buffer
	for _, n := range sorted(names) {
		content, err := v.Read(path.Join(name, n), limit-all.Len())
		if errors.Is(err, ErrNoFile) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all.Write(content)
		all.WriteByte('\n')
	}
	return all.Bytes(), nil
}

// open resolves a path below the process's root, whatever links are on the way.
// Magic links (/proc/PID/fd and the like) would leave it.
func (v *View) open(name string, flags int) (*os.File, error) {
	if !path.IsAbs(name) {
		return nil, errors.New("is no absolute path")
	}
	how := &unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC),
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	for range 20 { // EAGAIN: something was renamed on the way
		fd, err := unix.Openat2(int(v.root.Fd()), name, how)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), name), nil
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		default:
			return nil, err
		}
	}
	return nil, unix.EAGAIN
}

// act calls with the view's rights, and gives up when the file system does not
// answer. What was given up is waited for by nobody; one such call stands for
// all that would follow.
func (v *View) act(call func() error) error {
	v.mu.Lock()
	stuck := v.stuck
	v.mu.Unlock()
	if stuck > 0 {
		return ErrStuck
	}
	done := make(chan error, 1)
	var mu sync.Mutex
	var left, ended bool
	go func() {
		err := v.id.do(call)
		mu.Lock()
		defer mu.Unlock()
		if ended = true; left {
			v.mu.Lock()
			v.stuck--
			v.mu.Unlock()
		}
		done <- err
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
	}
	mu.Lock()
	defer mu.Unlock()
	if ended {
		return <-done
	}
	left = true
	v.mu.Lock()
	v.stuck++
	v.mu.Unlock()
	return ErrStuck
}

// plain refuses what is no file on a disk or in memory: devices, pipes, and
// what /proc and /sys make up.
func plain(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return ErrNoFile
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return os.NewSyscallError("fstatfs", err)
	}
	if st.Type == unix.PROC_SUPER_MAGIC || st.Type == unix.SYSFS_MAGIC {
		return ErrNoFile
	}
	return nil
}

func openAt(dir *os.File, name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), dir.Name()+"/"+name), nil
}

func readAt(dir *os.File, name string) (string, error) {
	f, err := openAt(dir, name, unix.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // only read
	content, err := io.ReadAll(io.LimitReader(f, 1<<16))
	return string(content), err
}

// startOf is field 22 of the process's stat line.
func startOf(proc *os.File) (uint64, error) {
	stat, err := readAt(proc, "stat")
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 {
		return 0, errors.New("its stat line is short")
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// identityOf is the user who registered the process, with the groups that the
// process has and, if that user is root, its capabilities over files: anybody's
// process may become one with more rights, by a set-user-ID file or one that
// brings capabilities, and stays the same process.
func identityOf(proc *os.File, p state.Process) (Identity, error) {
	id := Identity{UID: p.UID, GID: p.GID}
	status, err := readAt(proc, "status")
	if err != nil {
		return id, err
	}
	for line := range strings.Lines(status) {
		key, value, _ := strings.Cut(line, ":")
		switch value = strings.TrimSpace(value); key {
		case "Uid": // real, effective, saved, of files
			for _, word := range strings.Fields(value) {
				if word != strconv.FormatUint(uint64(p.UID), 10) {
					return id, fmt.Errorf("uid %d registered it, and it runs as uid %s by now; register it anew", p.UID, word)
				}
			}
		case "Groups":
			for _, word := range strings.Fields(value) {
				group, err := strconv.ParseUint(word, 10, 32)
				if err != nil {
					return id, fmt.Errorf("read its groups: %w", err)
				}
				id.Groups = append(id.Groups, uint32(group))
			}
		case "CapEff":
			caps, err := strconv.ParseUint(value, 16, 64)
			if err != nil {
				return id, fmt.Errorf("read its capabilities: %w", err)
			}
			if p.UID == 0 && sameUserNamespace(proc) { // else they mean nothing here
				id.caps = caps & fileCaps
			}
		}
	}
	return id, nil
}

func sameUserNamespace(proc *os.File) bool {
	ours, err := os.Readlink("/proc/self/ns/user")
	if err != nil {
		return false
	}
	buf := make([]byte, 64)
	n, err := unix.Readlinkat(int(proc.Fd()), "ns/user", buf)
	return err == nil && string(buf[:n]) == ours
}
