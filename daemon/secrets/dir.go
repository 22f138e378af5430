package secrets

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Dir is the directory of one proxy's secrets: mode 0700, its files 0600, all
// of them the proxy's own. Everything is done with the proxy's rights, so that
// nothing its user does there can make the daemon do more. It is safe for
// concurrent use; its owner calls Close.
type Dir struct {
	path string // as the proxy sees it
	view *View
	own  bool     // the view is the directory's own, and closed with it
	file *os.File // O_PATH; the directory itself, whatever becomes of its path

	mu sync.Mutex // one write at a time
}

// maxSecret bounds what is read back to see whether it differs.
const maxSecret = 4 << 20

// tempPrefix begins the names of files that are being written.
const tempPrefix = ".lictor-new-"

// Dir opens a directory as the view's process sees it, and makes it where it is
// not there; its parent must be. One that others may write to, or that is
// another's, is refused: whoever may write there could hand the proxy another
// token or take the place of its CA.
func (v *View) Dir(name string) (*Dir, error) {
	d := &Dir{path: name, view: v}
	err := v.act(func() (err error) {
		d.file, err = v.open(name, unix.O_PATH|unix.O_DIRECTORY)
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		parent, err := v.open(path.Dir(path.Clean(name)), unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return fmt.Errorf("the directory above it: %w", err)
		}
		defer func() { _ = parent.Close() }() // a path, nothing was written
		if err := unix.Mkdirat(int(parent.Fd()), path.Base(path.Clean(name)), 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		d.file, err = v.open(name, unix.O_PATH|unix.O_DIRECTORY)
		return err
	})
	if err == nil {
		if err = d.check(); err != nil {
			err = errors.Join(err, d.file.Close())
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open the directory of secrets %s as uid %d: %w", name, v.id.UID, err)
	}
	return d, nil
}

func (d *Dir) check() error {
	var st unix.Stat_t
	if err := unix.Fstat(int(d.file.Fd()), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if st.Uid != d.view.id.UID {
		return fmt.Errorf("it belongs to uid %d: name a directory that is not there yet", st.Uid)
	}
	if st.Mode&0o022 != 0 {
		return fmt.Errorf("others may write to it (mode %04o): chmod 700 it, or name a directory that is not there yet", st.Mode&0o7777)
	}
	return nil
}

// Path is where the proxy finds it.
func (d *Dir) Path() string { return d.path }

// Close releases the directory, and leaves what is in it.
func (d *Dir) Close() error {
	err := d.file.Close()
	if d.own {
		err = errors.Join(err, d.view.Close())
	}
	return err
}

// Write makes a file have a content: beside its place, then renamed, so that
// who watches the directory sees one whole file after the other. What has the
// content already is left alone.
func (d *Dir) Write(name string, content []byte) (changed bool, err error) {
	if name != path.Base(name) || strings.HasPrefix(name, ".") {
		return false, fmt.Errorf("write secret %q: it is no file's own name", name)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var wrote bool // not the result, for a call that is given up may go on
	err = d.view.act(func() (err error) {
		if d.holds(name, content) {
			return nil
		}
		wrote = true
		return d.replace(name, content)
	})
	if err != nil {
		return false, fmt.Errorf("write secret %s: %w", path.Join(d.path, name), err)
	}
	return wrote, nil
}

// Has says whether there is a file of that name.
func (d *Dir) Has(name string) bool {
	var st unix.Stat_t
	err := d.view.act(func() error { return unix.Fstatat(int(d.file.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	return err == nil
}

func (d *Dir) replace(name string, content []byte) error {
	dir := int(d.file.Fd())
	temp := tempPrefix + rand.Text()
	fd, err := unix.Openat(dir, temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), temp)
	_, err = f.Write(content)
	if err == nil {
		err = f.Chmod(0o600) // whatever the umask
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = unix.Renameat(dir, temp, dir, name)
	}
	if err != nil {
		return errors.Join(err, unlink(dir, temp))
	}
	return nil
}

// holds says whether a file has the content already, and is as Write makes it.
func (d *Dir) holds(name string, content []byte) bool {
	fd, err := unix.Openat(int(d.file.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	f := os.NewFile(uintptr(fd), name)
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	if err != nil || info.Mode() != 0o600 || info.Size() != int64(len(content)) {
		return false
	}
	is, err := io.ReadAll(io.LimitReader(f, maxSecret))
	return err == nil && bytes.Equal(is, content)
}

// Forget removes files, and what a write left half done. What is not there is
// success.
func (d *Dir) Forget(names ...string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.view.act(func() error {
		// Another description: an O_PATH one cannot be read.
		fd, err := unix.Openat(int(d.file.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		list := os.NewFile(uintptr(fd), d.path)
		defer func() { _ = list.Close() }() // only read
		// The first are enough, unless the user has filled it with files of its own.
		there, err := list.Readdirnames(maxNames)
		if errors.Is(err, io.EOF) { // it is empty
			err = nil
		}
		there = slices.DeleteFunc(there, func(n string) bool { return !strings.HasPrefix(n, tempPrefix) })
		for _, n := range append(there, names...) {
			err = errors.Join(err, unlink(int(d.file.Fd()), n))
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("remove secrets in %s: %w", d.path, err)
	}
	return nil
}

// Remove removes files as Forget does, and the directory, unless something else
// is in it. A directory that is gone is success.
func (d *Dir) Remove(names ...string) error {
	if err := d.Forget(names...); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err := d.view.act(func() error {
		parent, err := d.view.open(path.Dir(path.Clean(d.path)), unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer func() { _ = parent.Close() }() // a path, nothing was written
		return unix.Unlinkat(int(parent.Fd()), path.Base(path.Clean(d.path)), unix.AT_REMOVEDIR)
	})
	for _, fine := range []error{fs.ErrNotExist, unix.ENOTEMPTY, unix.EACCES, unix.EPERM, unix.EBUSY, unix.EROFS} {
		if errors.Is(err, fine) {
			return nil // it is another's, or somebody uses it
		}
	}
	if err != nil {
		return fmt.Errorf("remove the directory of secrets %s: %w", d.path, err)
	}
	return nil
}

func unlink(dir int, name string) error {
	if err := unix.Unlinkat(dir, name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

// Base is the daemon's own directory, with one directory for each proxy that
// names none.
type Base struct {
	path string
	root *os.Root
}

// OpenBase opens the directory, and makes it. Others may pass through it to
// what is theirs, and list nothing.
func OpenBase(name string) (*Base, error) {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return nil, fmt.Errorf("make the directory above that of secrets: %w", err)
	}
	if err := os.Mkdir(name, 0o711); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make the directory of secrets: %w", err)
	}
	info, err := os.Lstat(name)
	if err == nil && !info.IsDir() {
		err = errors.New("it is no directory")
	}
	if err == nil {
		err = os.Lchown(name, os.Geteuid(), os.Getegid())
	}
	if err == nil {
		err = os.Chmod(name, 0o711)
	}
	if err != nil {
		return nil, fmt.Errorf("open the directory of secrets %s: %w", name, err)
	}
	root, err := os.OpenRoot(name)
	if err != nil {
		return nil, fmt.Errorf("open the directory of secrets: %w", err)
	}
	return &Base{path: name, root: root}, nil
}

// Close releases it.
func (b *Base) Close() error { return b.root.Close() }

// Path is where the proxy of an id finds its directory, whether it is there or
// not.
func (b *Base) Path(id string) string { return filepath.Join(b.path, Name(id)) }

// Volatile says whether the files are in memory, and so gone after a reboot.
func (b *Base) Volatile() bool {
	var st unix.Statfs_t
	return unix.Statfs(b.path, &st) == nil && (st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC)
}

// Dir opens the directory of a proxy, makes it where it is not there, and hands
// it to the proxy's user. A directory of another user is emptied first: it was
// that of another process.
func (b *Base) Dir(id string, owner Identity) (*Dir, error) {
	name := Name(id)
	d, err := b.dir(name, owner)
	if err != nil {
		return nil, fmt.Errorf("open the directory of secrets of proxy %s: %w", id, err)
	}
	d.path = b.Path(id)
	return d, nil
}

func (b *Base) dir(name string, owner Identity) (*Dir, error) {
	// Nobody but root can put anything into the base, so that nothing there is a
	// link that somebody else made.
	if info, err := b.root.Lstat(name); err == nil && !ownedDir(info, owner) {
		if err := b.root.RemoveAll(name); err != nil {
			return nil, err
		}
	}
	if err := b.root.Mkdir(name, 0o700); err == nil {
		if err := b.root.Lchown(name, int(owner.UID), int(owner.GID)); err != nil {
			if errors.Is(err, fs.ErrPermission) {
				err = fmt.Errorf("%w; lictord needs CAP_CHOWN", err)
			}
			return nil, errors.Join(err, b.root.Remove(name))
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	file, err := os.OpenFile(filepath.Join(b.path, name), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	view, err := host(owner, "the directory "+name)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &Dir{view: view, own: true, file: file}, nil
}

func ownedDir(info fs.FileInfo, owner Identity) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.IsDir() && st.Uid == owner.UID && info.Mode().Perm() == 0o700
}

// Has says whether a proxy has a directory.
func (b *Base) Has(id string) bool {
	info, err := b.root.Lstat(Name(id))
	return err == nil && info.IsDir()
}

// Remove removes a proxy's directory with all that is in it. None is success.
func (b *Base) Remove(id string) error {
	if err := b.root.RemoveAll(Name(id)); err != nil {
		return fmt.Errorf("remove the directory of secrets of proxy %s: %w", id, err)
	}
	return nil
}

// Sweep removes the directories of all proxies but those kept, and says how
// many.
func (b *Base) Sweep(keep map[string]bool) (removed int, err error) {
	names := map[string]bool{}
	for id := range keep {
		names[Name(id)] = true
	}
	entries, err := os.ReadDir(b.path)
	if err != nil {
		return 0, fmt.Errorf("list the directory of secrets: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if names[e.Name()] {
			continue
		}
		if err := b.root.RemoveAll(e.Name()); err != nil {
			errs = append(errs, fmt.Errorf("remove left-over secrets: %w", err))
			continue
		}
		removed++
	}
	return removed, errors.Join(errs...)
}

// Name is a proxy's id as the name of a file: the id itself where that can be
// one, else a digest of it, which no id can be taken for.
func Name(id string) string {
	usable := id != "" && len(id) <= 100 && id[0] != '.' && !strings.ContainsFunc(id, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-_.", r)
	})
	if usable {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return "~" + hex.EncodeToString(sum[:16])
}
