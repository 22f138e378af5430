package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/lictor-mesh/lictor/tools/kernels/guest"
)

// memory is where the guest keeps files, instead of the layer over the host's /tmp.
const memory = "/dev/shm"

// check is a step and what it must come to.
type check struct {
	guest.Step
	tests bool   // it is a test binary: at least one test, and none that fails
	code  int    // of its exit
	says  string // among what it prints
}

// hook has tests of what the programs do, without what 5.10 lacks: owners, errors
// of the hook's own choice.
const hook = "VerifierHasLittleToDo|ConnectReachesTheServerFromEveryLanguage|OtherAddressesAreUntouched|" +
	"TimeoutsAreSetOnVIPs|DeniedByAnOldKernel|WithoutTheHookAVIPLeadsNowhere|AKilledProcessIsNoBounce|" +
	"BounceWhoseErrorIsTakenAway|LocalFailure|Failover"

// suite is what runs on a kernel: all, or where lictord must refuse, that it does
// and says why. The hook is tested even there: no other kernel before 6.1 is to be
// had, and what 5.10 and 6.1 can do, those between them can.
func suite(root string, old bool) []check {
	lictord := []string{
		filepath.Join(root, "bin/lictord"), "--consul-addresses=127.0.0.1", "--server-watch-disabled",
		"--consul-grpc-port=8502", "--tls-disabled", "--state-dir=" + memory + "/lictor", "--socket=/run/lictor.sock",
	}
	doctor := []string{filepath.Join(root, "bin/lictor"), "doctor"}
	if old {
		return []check{
			command("doctor", doctor, 1, "namespace cookie of sockets: run a newer kernel (5.14)"),
			command("lictord", lictord, 1, "this kernel is too old, run Linux 5.15 or later"),
			tests(root, "kernel", "^Test("+hook+")$"),
		}
	}
	return []check{
		command("doctor", doctor, 0, "This host has all that Lictor requires."),
		tests(root, "kernel/cgroup", "."),
		tests(root, "kernel/netns", "."),
		tests(root, "tools/kernels", "^TestHostOnThisKernel$"),
		tests(root, "kernel", "."),
	}
}

func command(name string, args []string, code int, says string) check {
	return check{Step: guest.Step{Name: name, Args: args, Dir: "/"}, code: code, says: says}
}

func tests(root, pkg, run string) check {
	return check{tests: true, Step: guest.Step{
		Name: pkg, Dir: filepath.Join(root, pkg),
		Args: []string{testBinary(root, pkg), "-test.v", "-test.short", "-test.run", run, "-test.timeout", testTimeout.String()},
	}}
}

func testBinary(root, pkg string) string {
	return filepath.Join(root, cache, "bin", strings.ReplaceAll(pkg, "/", "-")+".test")
}

// build makes the guest's first process, static, and the tests.
func build(ctx context.Context, root string) error {
	if _, err := run(ctx, root, "env", "CGO_ENABLED=0", "go", "build", "-trimpath", "-o", filepath.Join(root, cache, "bin", "init"), "./tools/kernels/init"); err != nil {
		return err
	}
	for _, c := range suite(root, false) {
		if !c.tests {
			continue
		}
		if _, err := run(ctx, root, "env", "CGO_ENABLED=0", "go", "test", "-c", "-o", c.Args[0], "./"+c.Name); err != nil {
			return fmt.Errorf("build tests of %s: %w", c.Name, err)
		}
	}
	return nil
}

// plan is what a guest is told: the checks' steps, with an environment.
func plan(checks []check) (p guest.Plan) {
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=/root", "TMPDIR=" + memory, "REQUIRE_PRIVILEGED=1"}
	for _, c := range checks {
		c.Env = env
		p.Steps = append(p.Steps, c.Step)
	}
	return p
}
