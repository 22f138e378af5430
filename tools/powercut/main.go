// Command powercut cuts the power of a disk under lictord's journal, again and
// again, and compares what is left with what callers were told. The disk is an
// ext4 on a loop device, the cut ext4's own shutdown, after which nothing more
// reaches it: unlike kill -9, it takes all that was written and not synced.
// `make powercut N=1000` runs it; it needs root, and mkfs.ext4.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/lictor-mesh/lictor/state/journal"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "powercut:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, stdout io.Writer, args []string) error {
	flags := flag.NewFlagSet("powercut", flag.ContinueOnError)
	n := flags.Int("n", 1000, "how many cuts of a journal's power")
	whole := flags.Int("lictord", 20, "how many cuts of the power of a whole host with a lictord")
	seed := flags.Uint64("seed", 0, "of the moments of the cuts; 0 takes one from the clock")
	noSync := flags.Bool("no-sync", false, "leave out every sync: it must lose something")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	fmt.Fprintf(stdout, "seed %d\n", *seed)
	tally, err := cutJournal(ctx, *n, *seed, journal.Options{NoSync: *noSync})
	if err := report(stdout, "journal", tally, err); err != nil {
		return err
	}
	tally, err = cutHost(ctx, *whole, *seed)
	return report(stdout, "lictord", tally, err)
}

// report prints figures and what is wrong, which is an error.
func report(stdout io.Writer, what string, t Tally, err error) error {
	fmt.Fprintf(stdout, "%s: %s\n", what, t)
	for _, wrong := range t.Wrong {
		fmt.Fprintf(stdout, "  %s\n", wrong)
	}
	if err == nil && len(t.Wrong) > 0 {
		err = fmt.Errorf("%d promises of %d were not kept", len(t.Wrong), t.Acks)
	}
	return err
}
