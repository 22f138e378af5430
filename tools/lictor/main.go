// Command lictor is the command line of Lictor: it asks the daemon on this
// host, and looks at its journal and at the kernel without it.
package main

import (
	"io"
	"os"
	"time"

	"github.com/lictor-mesh/lictor/kernel"
)

// environment is all that the commands have of the world outside.
type environment struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	now            func() time.Time
	zone           *time.Location // in which times are shown to people
	terminal       bool           // stderr is one: progress may be drawn over
	asRoot         bool           // whom lictord tells everything
	probe          func() []kernel.Feature
	unload         func(bpffs string) error
	become         func(program) error // ends this program, unless it fails
}

func main() {
	ctx, settle := interruptible()
	status := run(ctx, environment{
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv,
		now: time.Now, zone: time.Local, terminal: isTerminal(os.Stderr), asRoot: os.Geteuid() == 0,
		probe: kernel.Probe, unload: kernel.Unload,
		become: func(p program) error { return become(settle, p) },
	}, os.Args[1:])
	os.Exit(status)
}
