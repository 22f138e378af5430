// Command lictord is Lictor's daemon, one on each host. It is started by
// systemd or by hand; "lictord --help" tells all there is to set.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/lictor-mesh/lictor/daemon"
	"github.com/lictor-mesh/lictor/daemon/config"
)

// environment is what run has of the world outside the process.
type environment struct {
	vars           []string // as os.Environ gives them
	stdout, stderr io.Writer
}

func main() {
	// A log collector that goes away must not take the daemon with it.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	context.AfterFunc(ctx, stop) // a second signal ends it at once
	env := environment{os.Environ(), os.Stdout, os.Stderr}
	err := run(ctx, env, os.Args[1:])
	if err != nil {
		fmt.Fprintln(env.stderr, complaint(err))
	}
	os.Exit(status(err))
}

// run is lictord. It returns nil once ctx has ended and everything has stopped;
// the data path stays in place.
func run(ctx context.Context, env environment, args []string) error {
	cfg, err := config.Load(args, env.vars)
	if err != nil {
		return answer(env.stdout, err)
	}
	logger, flush := newLogger(env.stderr, cfg)
	defer flush()
	for _, w := range cfg.Warnings {
		logger.WarnContext(ctx, "setting costs something", "warning", w)
	}
	return daemon.Run(ctx, cfg, logger)
}
