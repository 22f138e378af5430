package netns

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

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
	err := scan(func(inode uint64, path string) (more bool) {
		for _, id := range want[inode] {
			now, err := Stat(path)
			alive[id] = err != nil || now.Cookie == id.Cookie
		}
		delete(want, inode) // look at each once
		return len(want) > 0
	})
	return alive, err
}

// ErrNotFound says that no thread lives in the namespace and it is mounted nowhere, as
// far as this process sees the host.
var ErrNotFound = errors.New("network namespace not found on the host (lictord must see the host's /proc)")

// Wanted is a namespace to be visited.
type Wanted struct {
	Cookie uint64
	// PIDs are processes that have been in it, as this process's /proc numbers
	// them. They spare a scan of the host; any may be gone, or elsewhere.
	PIDs []int
}

// maxTries bounds the paths by which one namespace is tried: a mount may be
// covered by another and a thread may end, but where three fail all will.
const maxTries = 3

// Visit calls fn in each of the namespaces, one after another, on a thread that
// is inside; sockets that fn makes belong to the namespace and keep it alive
// until they are closed. It returns, by cookie, why a namespace was not visited:
// ErrNotFound, or what entering it met; what fn meets is fn's own to keep. It
// needs CAP_SYS_ADMIN.
func Visit(all []Wanted, fn func(cookie uint64)) map[uint64]error {
	left := make(map[uint64]error, len(all))
	for _, w := range all {
		left[w.Cookie] = ErrNotFound
	}
	enter := func(path string) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return Do(f, func() error {
			cookie, err := cookieHere()
			if _, wanted := left[cookie]; err == nil && wanted {
				fn(cookie)
				delete(left, cookie)
			}
			return err
		})
	}
	for _, w := range all {
		for _, pid := range w.PIDs {
			if left[w.Cookie] == nil {
				break
			}
			// What goes wrong here the scan meets again, if it lasts.
			_ = enter(filepath.Join("/proc", strconv.Itoa(pid), "ns/net"))
		}
	}
	if len(left) == 0 {
		return left
	}
	var met error // why a namespace could not be looked at: one of those left, perhaps
	tries := map[uint64]int{}
	err := scan(func(inode uint64, path string) (more bool) {
		if tries[inode] == maxTries {
			return true
		}
		tries[inode]++
		switch err := enter(path); {
		case err == nil:
			tries[inode] = maxTries
		case !errors.Is(err, os.ErrNotExist):
			met = err
		}
		return len(left) > 0
	})
	for cookie := range left {
		left[cookie] = errors.Join(ErrNotFound, met, err)
	}
	return left
}

// scan calls found for each path that leads to a network namespace, mounts first,
// then threads, until found wants no more. Many lead to the same one.
func scan(found func(inode uint64, path string) (more bool)) error {
	more, err := scanMounts(found)
	if err != nil || !more {
		return err
	}
	return scanThreads(found)
}

func scanMounts(found func(uint64, string) bool) (more bool, err error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return false, fmt.Errorf("look for network namespaces: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// id parent major:minor root mountpoint …, where root is net:[inode]
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 {
			continue
		}
		if inode, ok := parseLink(fields[3]); ok && !found(inode, unescape(fields[4])) {
			return false, nil
		}
	}
	return true, lines.Err()
}

// scanThreads looks at every thread of the host: one may have left the
// namespace of its process.
func scanThreads(found func(uint64, string) bool) error {
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Errorf("look for network namespaces: %w", err)
	}
	for _, proc := range procs {
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
			if inode, ok := parseLink(link); ok && !found(inode, path) {
				return nil
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
