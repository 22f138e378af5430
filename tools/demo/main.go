// Command demo shows the whole of Lictor at work on this machine: three real
// Consul servers, one lictord, real Envoys, requests that flow through the mesh,
// and failures. It checks what it shows and exits with 1 when something did not
// hold. `make demo` runs it; it needs root, and leaves nothing behind.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// environment is all that the demo has of the world outside, the testbed left
// aside.
type environment struct {
	stdout io.Writer
	getenv func(string) string
	// size of the terminal that stdout is, in columns and rows; 0, 0 when it is
	// none, and lines are printed.
	size func() (columns, rows int)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // a second signal ends it at once; the testbed's lifeline cleans up
	os.Exit(run(ctx, environment{stdout: os.Stdout, getenv: os.Getenv, size: terminalSize}))
}

func terminalSize() (columns, rows int) {
	size, err := unix.IoctlGetWinsize(int(os.Stdout.Fd()), unix.TIOCGWINSZ)
	if err != nil || os.Getenv("TERM") == "dumb" {
		return 0, 0
	}
	if size.Col == 0 || size.Row == 0 { // a serial line does not know
		return 80, 24
	}
	return int(size.Col), int(size.Row)
}
