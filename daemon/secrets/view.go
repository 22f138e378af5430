package secrets

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/daemon/process"
	"github.com/lictor-mesh/lictor/state"
)

// ErrGone is when the process whose files they are has ended.
var ErrGone = errors.New("the process has ended")

// View opens files as one process sees them, with that process's rights. It is
// safe for concurrent use; its owner calls Close.
type View struct {
	id     Identity
	root   *os.File // O_PATH; what is "/" to the process
	calls  *calls
	shares []share
}

// Host is how the daemon itself sees files: its own, or, for a proxy that is
// named, what root has registered without a process.
func Host(proxy string) (*View, error) {
	of := "lictord"
	if proxy != "" {
		of = "proxy " + proxy
	}
	return host(self(), of)
}

// host is the view of a user of the host; its calls are counted as of's.
func host(id Identity, of string) (*View, error) {
	root, err := os.OpenFile("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the root directory: %w", err)
	}
	return &View{id: id, root: root, calls: &underWay, shares: sharesOfHost(of)}, nil
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
	stat, err := readAt(proc, "stat")
	if err != nil {
		return nil, gone(p, err)
	}
	start, err := process.ParseStart(p.PID, stat)
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
	netns, err := namespaceAt(proc, "net")
	if err != nil {
		return nil, gone(p, err)
	}
	root, err := openAt(proc, "root", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, gone(p, err)
	}
	return &View{id: id, root: root, calls: &underWay, shares: sharesOf(p, netns)}, nil
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
	err := v.act(func() (err error) {
		content, err = v.read(name, limit)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read %s as uid %d: %w", name, v.id.UID, err)
	}
	return content, nil
}

func (v *View) read(name string, limit int) ([]byte, error) {
	// O_NONBLOCK: a pipe must not hold the daemon up.
	f, err := v.open(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	if err := plain(f); err != nil {
		return nil, err
	}
	content, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err == nil && len(content) > limit {
		err = fmt.Errorf("is larger than %d bytes", limit)
	}
	return content, err
}

// maxNames bounds how much of a directory is looked at: whoever names one may
// have put millions of files into it. A system's CAs are some 300.
const maxNames = 1000

// ReadDir reads the regular files of a directory, in the order of their names,
// together at most so many bytes, one after the other. One of more than 1000
// names is refused. It ends early with ctx.
func (v *View) ReadDir(ctx context.Context, name string, limit int) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // what was given up must not go on behind us
	var all []byte
	err := v.act(func() (err error) {
		all, err = v.readAll(ctx, name, limit)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read directory %s as uid %d: %w", name, v.id.UID, err)
	}
	return all, nil
}

func (v *View) readAll(ctx context.Context, dir string, limit int) ([]byte, error) {
	names, err := v.files(dir)
	if err != nil {
		return nil, err
	}
	var all bytes.Buffer
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		content, err := v.read(path.Join(dir, name), limit)
		if errors.Is(err, ErrNoFile) {
			continue // a link to something else
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all.Write(content)
		all.WriteByte('\n')
		if all.Len() > limit {
			return nil, fmt.Errorf("its files are together larger than %d bytes", limit)
		}
	}
	return all.Bytes(), nil
}

// files are the names of what may be a regular file, in their order. Nothing but
// that is opened: opening a pipe or a device may do something.
func (v *View) files(dir string) ([]string, error) {
	d, err := v.open(dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer func() { _ = d.Close() }() // only read
	names, err := d.Readdirnames(maxNames + 1)
	if err != nil && !errors.Is(err, io.EOF) { // which is that of an empty one
		return nil, err
	}
	if len(names) > maxNames {
		return nil, fmt.Errorf("it holds more than %d names", maxNames)
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		var st unix.Stat_t
		err := unix.Fstatat(int(d.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
		return err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG && st.Mode&unix.S_IFMT != unix.S_IFLNK
	})
	slices.Sort(names)
	return names, nil
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

// readAt reads a file that the kernel makes up of a process, all of it: half a
// number would be another group. 65536 groups, as many as there may be, take 720 kB.
func readAt(dir *os.File, name string) (string, error) {
	f, err := openAt(dir, name, unix.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // only read
	content, err := io.ReadAll(f)
	return string(content), err
}
