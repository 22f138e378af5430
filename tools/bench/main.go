// Command bench measures each path of Lictor against its limit: baselines
// first, variants in turn within one run, so that all see the same machine. It
// writes raw samples as `go test -bench` does, for benchstat, and a table with
// the wanted figure, the measured one with its interval, and whether it is met.
// Compare figures of one run with each other only.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

func main() {
	raw := flag.String("raw", "", "file for the raw samples; default: none is kept")
	only := flag.String("only", "", "suites to run, separated by commas; default: all")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *raw, *only, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

// suites are all benchmarks, in the order of their running.
var suites = []struct {
	name string
	run  func(context.Context, *bed.Bed, *report) error
}{
	{"connect", benchConnect},
	{"durable", benchDurable},
	{"ring", benchRing},
	{"reassign", benchReassign},
	{"host", benchHost},
}

func run(ctx context.Context, raw, only string, out io.Writer) (err error) {
	r := &report{raw: io.Discard}
	if raw != "" {
		f, err := os.Create(raw)
		if err != nil {
			return err
		}
		defer f.Close()
		r.raw = f
	}
	b, err := bed.Open(bed.Options{Progress: out})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	for _, s := range suites {
		if only != "" && !strings.Contains(","+only+",", ","+s.name+",") {
			continue
		}
		started := time.Now()
		if err := s.run(ctx, b, r); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		fmt.Fprintf(out, "%s: %v\n", s.name, time.Since(started).Round(time.Second))
	}
	fmt.Fprintln(out)
	return r.table(out)
}
