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
	return parseStart(pid, string(text))
}

// parseStart reads a stat line. Its second field is the command's name in
// parentheses, which may hold anything, spaces and parentheses as well.
func parseStart(pid int, stat string) (uint64, error) {
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

// Gone says whether a process has ended. One that cannot be looked for is taken
// to be there; one of another boot has ended.
func Gone(p state.Process, bootID string) bool {
	if p.BootID != bootID {
		return true
	}
	start, err := Start(p.PID)
	return errors.Is(err, fs.ErrNotExist) || err == nil && start != p.Start
}
