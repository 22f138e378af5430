// Package reexec lets a program start itself again as something else. BPF
// programs on a cgroup look at the process that calls connect, and a process
// cannot lend a thread to another cgroup: what is to be seen as a pod's program
// must be a process in the pod.
//
// It works in test binaries as in any other, without help from their main.
package reexec

import (
	"fmt"
	"os"
)

// Path is the running program, to be started with [Argv0] as its name.
const Path = "/proc/self/exe"

// Argv0 is the program name that selects what was given to [Handle].
func Argv0(name string) string { return "lictor-testbed:" + name }

// Handle runs main and exits if this process was started under that name, and
// otherwise does nothing. It is called by init functions: a test binary whose
// TestMain forgot the call would run its tests in the child.
func Handle(name string, main func() error) {
	if len(os.Args) == 0 || os.Args[0] != Argv0(name) {
		return
	}
	if err := main(); err != nil {
		fmt.Fprintln(os.Stderr, name+":", err)
		os.Exit(1)
	}
	os.Exit(0)
}
