// Package secrets writes the files that a proxy reads its secrets from, and
// reads the files that a caller names, as the caller sees them and with no more
// rights than the caller has.
package secrets

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/daemon/process"
	"github.com/lictor-mesh/lictor/state"
)

// Identity is with whose rights files are opened. The zero value is root
// without capabilities.
type Identity struct {
	UID, GID uint32
	Groups   []uint32 // supplementary
	// caps are the capabilities over files that a process of our own user
	// namespace has, to read and to write what it may.
	caps uint64
}

// fileCaps are those that open files: never those that trace processes, enter
// namespaces or do anything else that the daemon may.
const fileCaps = 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH | 1<<unix.CAP_FOWNER

// self is the daemon's own identity.
func self() Identity {
	return Identity{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), caps: fileCaps}
}

// do calls a function with the rights of an identity. Whoever is not root has
// its own rights only and can take on no other identity.
func (i Identity) do(call func() error) error {
	if os.Geteuid() != 0 {
		if i.UID != uint32(os.Geteuid()) {
			return fmt.Errorf("open files as uid %d: lictord does not run as root", i.UID)
		}
		return call()
	}
	result := make(chan error, 1)
	go func() {
		// What follows is of this thread alone. A thread that cannot be made what
		// it was ends with the goroutine, for it stays locked.
		runtime.LockOSThread()
		restore, err := i.assume()
		if err == nil {
			err = call()
		}
		if restore() {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

// assume makes the thread act on files as the identity does; capabilities go
// last, as the steps before need them.
func (i Identity) assume() (restore func() bool, err error) {
	var was [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3} // pid 0: this thread
	groups, err := unix.Getgroups()
	if err != nil {
		return func() bool { return false }, os.NewSyscallError("getgroups", err)
	}
	if err := unix.Capget(&header, &was[0]); err != nil {
		return func() bool { return false }, os.NewSyscallError("capget", err)
	}
	restore = func() bool {
		own := make([]uint32, len(groups))
		for n, g := range groups {
			own[n] = uint32(g)
		}
		failed := unix.Capset(&header, &was[0]) != nil
		failed = setFS(unix.SetfsuidRetUid, 0) != nil || failed
		failed = setFS(unix.SetfsgidRetGid, uint32(os.Getegid())) != nil || failed
		failed = setGroups(own) != nil || failed
		// setfsuid raises capabilities over files: those that we had, no others.
		return unix.Capset(&header, &was[0]) == nil && !failed
	}
	if err := setGroups(i.Groups); err != nil {
		return restore, err
	}
	if err := setFS(unix.SetfsgidRetGid, i.GID); err != nil {
		return restore, err
	}
	if err := setFS(unix.SetfsuidRetUid, i.UID); err != nil {
		return restore, err
	}
	now := was
	now[0].Effective = was[0].Permitted & uint32(i.caps&fileCaps)
	now[1].Effective = was[1].Permitted & uint32(i.caps&fileCaps>>32)
	return restore, os.NewSyscallError("capset", unix.Capset(&header, &now[0]))
}

// setFS sets a file system id and makes sure of it: the call does not say
// whether it did.
func setFS(set func(int) (int, error), id uint32) error {
	_, _ = set(int(id)) // the former id
	if now, _ := set(-1); uint32(now) != id {
		return fmt.Errorf("open files as id %d: the kernel refuses; lictord needs CAP_SETUID and CAP_SETGID", id)
	}
	return nil
}

// setGroups is of the thread, unlike that of package syscall.
func setGroups(groups []uint32) error {
	var first unsafe.Pointer
	if len(groups) > 0 {
		first = unsafe.Pointer(&groups[0])
	}
	_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(first), 0)
	switch errno {
	case 0:
		return nil
	case unix.EPERM:
		return fmt.Errorf("setgroups: %w; lictord needs CAP_SETGID", errno)
	}
	return os.NewSyscallError("setgroups", errno)
}

// ErrNoFile is when a path names a directory, a device or what /proc makes up,
// and no regular file.
var ErrNoFile = errors.New("is no regular file")

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
	users, err := process.Users(status)
	if err != nil {
		return id, err
	}
	for _, uid := range users {
		if uid != p.UID {
			return id, fmt.Errorf("uid %d registered it, and it runs as uid %d by now; register it anew", p.UID, uid)
		}
	}
	for line := range strings.Lines(status) {
		key, value, _ := strings.Cut(line, ":")
		switch value = strings.TrimSpace(value); key {
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
	theirs, err := namespaceAt(proc, "user")
	return err == nil && theirs == ours
}

// namespaceAt names a namespace of a process, as its link below /proc/PID/ns does.
func namespaceAt(proc *os.File, kind string) (string, error) {
	buf := make([]byte, 64)
	n, err := unix.Readlinkat(int(proc.Fd()), "ns/"+kind, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}
