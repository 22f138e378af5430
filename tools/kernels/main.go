package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

const (
	// cache is below the repository's root, and outlives make clean.
	cache = ".cache/kernels"
	// testTimeout is for one package's tests, which take seconds on a real processor.
	testTimeout = 30 * time.Minute
)

func main() {
	only := flag.String("only", "", "kernels to run, such as \"6.1 6.12\"; default: all")
	accel := flag.String("accel", "tcg,thread=multi", "QEMU's accelerator: kvm, where it works, takes seconds for minutes")
	within := flag.Duration("within", 45*time.Minute, "for one kernel, which is then given up")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := matrix(ctx, *only, options{*accel, *within}, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "kernels:", err)
		stop()
		os.Exit(1)
	}
}

// options of every boot.
type options struct {
	accel  string
	within time.Duration
}

// matrix runs every kernel's checks, one kernel after the other: an emulated
// processor leaves none of this machine's over.
func matrix(ctx context.Context, only string, o options, out io.Writer) error {
	picked, err := pick(only)
	if err != nil {
		return err
	}
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "==> building the tests")
	if err := build(ctx, root); err != nil {
		return err
	}
	var columns []column
	for _, r := range picked {
		columns = append(columns, try(ctx, root, r, o, out))
	}
	fmt.Fprintln(out)
	if bad := show(out, columns); bad > 0 {
		return fmt.Errorf("%d of %d kernels are not as they must be; what they said is in %s", bad, len(columns), filepath.Join(root, cache, "run"))
	}
	return nil
}

// try fetches a kernel, boots it, and listens.
func try(ctx context.Context, root string, r release, o options, out io.Writer) (c column) {
	c.kernel = r.kernel
	fmt.Fprintf(out, "==> Linux %s: fetching it, if it is not in %s\n", r.kernel, cache)
	i, err := fetch(ctx, filepath.Join(root, cache), r)
	if err != nil {
		c.err = err
		return c
	}
	c.kernel = i.version
	checks := suite(root, r.old)
	dir := filepath.Join(root, cache, "run", r.kernel)
	if c.err = os.MkdirAll(dir, 0o755); c.err != nil {
		return c
	}
	log, err := os.Create(filepath.Join(dir, "output.log"))
	if err != nil {
		c.err = err
		return c
	}
	fmt.Fprintf(out, "==> %s: booting\n", i.version)
	start := time.Now()
	listen := newListener(checks)
	ctx, cancel := context.WithTimeout(ctx, o.within)
	defer cancel()
	c.err = boot(ctx, machine{image: i, accel: o.accel, dir: dir, init: filepath.Join(root, cache, "bin", "init")}, plan(checks), func(line string) {
		fmt.Fprintln(log, line)
		if ended := listen.hear(line); ended != nil {
			fmt.Fprintf(out, "    %s: %s\n", ended.Name, ended.short())
		}
	})
	c.err = errors.Join(c.err, log.Close())
	c.results, c.took = listen.results, time.Since(start)
	return c
}
