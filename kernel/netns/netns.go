// Package netns finds the numbers by which the kernel's programs know network
// namespaces, and whether a namespace is still there.
package netns

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrNotNetns is returned for a path that is not a network namespace.
var ErrNotNetns = errors.New("not a network namespace")

// ID is a network namespace as the kernel knows it.
type ID struct {
	Cookie uint64 // never used again in this boot
	Inode  uint64 // of its nsfs file; may be used again once the namespace is gone
}

// Cookie returns the cookie of the namespace that a socket belongs to. It needs
// no privilege, and Linux 5.14.
func Cookie(conn syscall.Conn) (uint64, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("read namespace cookie: %w", err)
	}
	var cookie uint64
	var optErr error
	if err := raw.Control(func(fd uintptr) { cookie, optErr = cookieOf(int(fd)) }); err != nil {
		return 0, fmt.Errorf("read namespace cookie: %w", err)
	}
	return cookie, optErr
}

func cookieOf(fd int) (uint64, error) {
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("read namespace cookie (SO_NETNS_COOKIE, Linux 5.14): %w", err)
	}
	return cookie, nil
}

// Self returns the namespace of the calling thread.
func Self() (ID, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return ID{}, fmt.Errorf("open own network namespace: %w", err)
	}
	defer f.Close()
	inode, err := inodeOf(f)
	if err != nil {
		return ID{}, err
	}
	cookie, err := cookieHere()
	return ID{Cookie: cookie, Inode: inode}, err
}

// Stat returns the namespace behind a path such as /run/netns/NAME or
// /proc/PID/ns/net. It needs CAP_SYS_ADMIN for namespaces other than the
// caller's own.
func Stat(path string) (ID, error) {
	f, err := os.Open(path)
	if err != nil {
		return ID{}, fmt.Errorf("open network namespace: %w", err)
	}
	defer f.Close()
	inode, err := inodeOf(f)
	if err != nil {
		return ID{}, err
	}
	cookie, err := cookieIn(f)
	if err != nil {
		return ID{}, fmt.Errorf("network namespace %s: %w", path, err)
	}
	return ID{Cookie: cookie, Inode: inode}, nil
}

func inodeOf(f *os.File) (uint64, error) {
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		return 0, fmt.Errorf("%s: %w", f.Name(), ErrNotNetns)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, fmt.Errorf("stat %s: %w", f.Name(), err)
	}
	return st.Ino, nil
}

// cookieIn enters the namespace on a thread of its own and leaves it again.
func cookieIn(f *os.File) (uint64, error) {
	type result struct {
		cookie uint64
		err    error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread()
		cookie, back, err := visit(f)
		if back {
			runtime.UnlockOSThread()
		}
		// Else the thread ends with this goroutine, so that no other ever runs
		// in the wrong namespace.
		done <- result{cookie, err}
	}()
	r := <-done
	return r.cookie, r.err
}

// visit reads the cookie of another namespace on the calling thread, and says
// whether the thread is back in its own. Coming back matters also where the
// thread would be thrown away: the runtime keeps a process's first thread for
// ever, and that would keep the namespace.
func visit(f *os.File) (cookie uint64, back bool, err error) {
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return 0, true, fmt.Errorf("open own network namespace: %w", err)
	}
	defer own.Close()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		return 0, true, fmt.Errorf("enter it (needs CAP_SYS_ADMIN): %w", err)
	}
	cookie, err = cookieHere()
	if berr := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); berr != nil {
		return cookie, false, errors.Join(err, fmt.Errorf("come back: %w", berr))
	}
	return cookie, true, err
}

// cookieHere asks a socket of the calling thread's namespace.
func cookieHere() (uint64, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("make a socket: %w", err)
	}
	defer unix.Close(fd)
	return cookieOf(fd)
}

// Alive tells which namespaces still exist, by one scan of the host: those that
// a thread lives in, and those that are mounted somewhere in this mount
// namespace. A namespace that only an open socket or file of some process keeps
// is not found. An inode that belongs to another namespace by now is told by
// its cookie, where it may be read.
func Alive(ids []ID) (map[ID]bool, error) {
	alive := make(map[ID]bool, len(ids))
	want := make(map[uint64][]ID, len(ids))
	for _, id := range ids {
		alive[id] = false
		want[id.Inode] = append(want[id.Inode], id)
	}
	found := func(inode uint64, path string) {
		same := want[inode]
		delete(want, inode) // look at each once
		for _, id := range same {
			now, err := Stat(path)
			alive[id] = err != nil || now.Cookie == id.Cookie
		}
	}
	if err := scanMounts(want, found); err != nil {
		return nil, err
	}
	return alive, scanThreads(want, found)
}

func scanMounts(want map[uint64][]ID, found func(uint64, string)) error {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("look for network namespaces: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// id parent major:minor root mountpoint …, where root is net:[inode]
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 {
			continue
		}
		if inode, ok := parseLink(fields[3]); ok && want[inode] != nil {
			found(inode, unescape(fields[4]))
		}
	}
	return lines.Err()
}

// scanThreads looks at every thread of the host: one may have left the
// namespace of its process.
func scanThreads(want map[uint64][]ID, found func(uint64, string)) error {
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Errorf("look for network namespaces: %w", err)
	}
	for _, proc := range procs {
		if len(want) == 0 {
			break
		}
		if _, err := strconv.Atoi(proc.Name()); err != nil {
			continue
		}
		tasks, err := os.ReadDir(filepath.Join("/proc", proc.Name(), "task"))
		if err != nil {
			continue // it ended meanwhile
		}
		for _, task := range tasks {
			path := filepath.Join("/proc", proc.Name(), "task", task.Name(), "ns/net")
			link, err := os.Readlink(path)
			if err != nil {
				continue
			}
			if inode, ok := parseLink(link); ok && want[inode] != nil {
				found(inode, path)
			}
		}
	}
	return nil
}

// parseLink reads "net:[4026531840]".
func parseLink(s string) (uint64, bool) {
	s, ok := strings.CutPrefix(s, "net:[")
	if !ok {
		return 0, false
	}
	inode, err := strconv.ParseUint(strings.TrimSuffix(s, "]"), 10, 64)
	return inode, err == nil
}

// unescape undoes mountinfo's octal escapes of space, tab, newline and backslash.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
