package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
	"github.com/lictor-mesh/lictor/tools/testbed/binaries"
)

// reassigns is how often all VIPs are placed anew.
const reassigns = 10

// benchReassign runs the registry's own benchmark: it needs what only the daemon
// may use.
func benchReassign(ctx context.Context, _ *bed.Bed, r *report) error {
	root, err := binaries.Root()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^BenchmarkServerLeavesKernel$",
		"-benchtime", "1x", "-count", strconv.Itoa(reassigns), "./daemon/registry")
	cmd.Dir, cmd.Stderr = root, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("run the registry's benchmark: %w: %s", err, out)
	}
	took := map[string][]float64{}
	for in := bufio.NewScanner(bytes.NewReader(out)); in.Scan(); {
		f := strings.Fields(in.Text())
		if len(f) < 4 || !strings.HasPrefix(f[0], "Benchmark") || f[3] != "ns/op" {
			continue
		}
		fmt.Fprintln(r.raw, in.Text())
		ns, err := strconv.ParseFloat(f[2], 64)
		if err != nil {
			return err
		}
		name, _, _ := strings.Cut(f[0][strings.LastIndexByte(f[0], '=')+1:], "-")
		took[name] = append(took[name], ns/1e6)
	}
	for _, c := range []struct {
		proxies string
		wanted  float64
	}{{"10000", 100}, {"50000", 0}} {
		if len(took[c.proxies]) < reassigns {
			return fmt.Errorf("the registry's benchmark has %d results of %s proxies, and not %d: %s", len(took[c.proxies]), c.proxies, reassigns, out)
		}
		r.add(row{what: "a server leaves, " + c.proxies + " proxies placed anew", unit: "ms", wanted: c.wanted, got: bootstrap(took[c.proxies])})
	}
	return nil
}
