// Command failover measures how long a configuration change takes to reach an
// Envoy whose Consul server was killed or cut off a moment before: through a
// VIP, with lictord alive and dead; through the same bootstrap with all servers
// listed in it and nothing redirected; and through a consul-dataplane, where
// one is given (DATAPLANE). It prints a table, and exits with 1 when a figure
// that is wanted was missed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/lictor-mesh/lictor/tools/testbed/binaries"
)

func main() {
	rounds := flag.Int("rounds", 20, "of each setup, fault and room; lictord is dead in half of those that have one")
	only := flag.String("only", "", "words that a scenario must have, such as lictor,kill,room; default all")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *rounds, *only); err != nil {
		fmt.Fprintln(os.Stderr, "failover:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, rounds int, only string) error {
	_, err := binaries.Dataplane()
	compared := err == nil
	if errors.Is(err, binaries.ErrNoDataplane) {
		fmt.Println(err)
	} else if err != nil {
		return err
	}
	var chosen []scenario
	for _, s := range scenarios(compared) {
		words := strings.Fields(s.String())
		if only == "" || !slices.ContainsFunc(strings.Split(only, ","), func(w string) bool { return !slices.Contains(words, w) }) {
			chosen = append(chosen, s)
		}
	}
	if len(chosen) == 0 {
		return fmt.Errorf("no scenario has all of the words %q", only)
	}
	results, err := measure(ctx, measurement{
		rounds: rounds, scenarios: chosen,
		say: func(format string, args ...any) { fmt.Printf(format+"\n", args...) },
	})
	missed := table(os.Stdout, results)
	if err == nil && missed > 0 {
		err = fmt.Errorf("%d wanted figures were missed", missed)
	}
	return err
}
