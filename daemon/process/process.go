// Package process tells processes apart, also when one gets the pid of another.
package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/state"
)

// Start is when a process began, in clock ticks since the boot of the host:
// field 22 of /proc/PID/stat. With the pid and the boot id it names the process
// for ever. The error is fs.ErrNotExist when there is none of that pid; a
// zombie, which has ended and is only not waited for, is none.
func Start(pid int) (uint64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, unix.ESRCH) { // it went while it was read
		err = fs.ErrNotExist
	}
	if err != nil {
		return 0, fmt.Errorf("read when process %d began: %w", pid, err)
	}
	return ParseStart(pid, string(text))
}

// ParseStart is Start for who has read the stat line of a process already. Its
// second field is the command's name in parentheses, which may hold anything,
// spaces and parentheses as well.
func ParseStart(pid int, stat string) (uint64, error) {
	end := strings.LastIndexByte(stat, ')')
	fields := strings.Fields(stat[end+1:]) // the first is field 3
	if end < 0 || len(fields) < 20 {
		return 0, fmt.Errorf("read when process %d began: its stat line is %q", pid, stat)
	}
	if fields[0] == "Z" || fields[0] == "X" {
		return 0, fmt.Errorf("process %d has ended: %w", pid, fs.ErrNotExist)
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read when process %d began: %w", pid, err)
	}
	return start, nil
}

// Users are whose rights a process may use, from the text of its status file: its
// real, effective, saved and file user ids. All four are the same unless it became
// another's, as by a set-user-ID program, which changes neither pid nor start.
func Users(status string) (uids [4]uint32, err error) {
	_, rest, found := strings.Cut("\n"+status, "\nUid:")
	line, _, _ := strings.Cut(rest, "\n")
	words := strings.Fields(line)
	if !found || len(words) != len(uids) {
		return uids, fmt.Errorf("read whose a process is: its status says %q", line)
	}
	for i, word := range words {
		uid, err := strconv.ParseUint(word, 10, 32)
		if err != nil {
			return uids, fmt.Errorf("read whose a process is: %w", err)
		}
		uids[i] = uint32(uid)
	}
	return uids, nil
}

// Gone says whether a process has ended. One that cannot be looked for is taken
// to be there; one of another boot has ended.
func Gone(p state.Process, bootID string) bool {
	if p.BootID != bootID {
		return true
	}
	start, err := Start(p.PID)
	return errors.Is(err, fs.ErrNotExist) || err == nil && start != p.Start
}
