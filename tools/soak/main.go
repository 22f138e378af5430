// Command soak runs a host for hours: pods come and go, Consul servers are
// killed, frozen, cut off, drained and added, lictord is killed and restarted,
// and all the while every promise is judged, every connection counted, and
// what the daemon uses is measured. It prints a line a minute and a table at
// the end, and exits with 1 if anything did not hold.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// mostFill leaves the journal's first event in place: lictord keeps 100,000.
const mostFill = 100_000

func main() {
	hours := flag.Float64("hours", 1, "how long")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "of what happens when")
	fill := flag.Uint64("fill", 100_000, "events to journal before the clock starts, so that compaction is seen")
	flag.Parse()
	if *fill > mostFill {
		fmt.Fprintf(os.Stderr, "soak: -fill %d: the judge reads the journal from its first event, which is dropped by then; give at most %d\n", *fill, mostFill)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o := options{length: time.Duration(*hours * float64(time.Hour)), seed: *seed, fill: *fill}
	if err := run(ctx, o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		stop()
		os.Exit(1)
	}
}
