// Package beside runs the tests of a package beside each other, each in a
// process of its own. Tests with real servers wait most of the time, for
// elections, timeouts and hold-downs that are not theirs to shorten, and they
// cannot share a process by t.Parallel: each looks after itself for leaked
// descriptors, children and namespaces. Those that measure time or take all of
// the machine run afterwards, one by one.
//
//	func TestMain(m *testing.M) { beside.Main(m, beside.Options{Alone: []string{"TestFast"}}) }
//
// Selected by -run, and as another user than root, tests run in this process,
// one after the other, as they would without this package.
package beside

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// Options of [Main]. The zero value runs all tests beside each other.
type Options struct {
	// Workers is how many tests run at a time; default two for each CPU.
	Workers int
	// First are begun before the others, in this order: those that take longest.
	First []string
	// Alone are run one by one, when nothing else of the package runs.
	Alone []string
}

// marker is in the environment of the processes that run one test.
const marker = "TEST_BESIDE"

// whole are flags with which the package's tests run in one process.
var whole = []string{"test.run", "test.list", "test.bench", "test.fuzz", "test.coverprofile", "test.cpuprofile", "test.memprofile", "test.trace", "test.blockprofile", "test.mutexprofile"}

// Main is the package's TestMain. It does not return.
func Main(m *testing.M, o Options) {
	flag.Parse()
	one := os.Getenv(marker) != "" || os.Geteuid() != 0
	flag.Visit(func(f *flag.Flag) { one = one || slices.Contains(whole, f.Name) })
	if one {
		testenv.Main(m)
	}
	r := runner{out: os.Stdout, flags: flagsForOne(), verbose: testing.Verbose(), until: deadline()}
	names, err := list()
	if err == nil {
		err = r.run(names, o)
	}
	if err != nil {
		fmt.Println(err)
		fmt.Println("FAIL")
		os.Exit(1)
	}
	fmt.Println("PASS")
	os.Exit(0)
}

// flagsForOne are those of this process that its children are to have as well.
func flagsForOne() (flags []string) {
	flag.Visit(func(f *flag.Flag) {
		switch f.Name {
		case "test.testlogfile", "test.timeout", "test.outputdir": // of the whole run
		default:
			flags = append(flags, fmt.Sprintf("-%s=%s", f.Name, f.Value))
		}
	})
	return flags
}

// deadline is when -timeout ends the run; the zero time for never.
func deadline() time.Time {
	f := flag.Lookup("test.timeout")
	d, err := time.ParseDuration(f.Value.String())
	if err != nil || d <= 0 {
		return time.Time{}
	}
	return time.Now().Add(d)
}

// self is the binary that runs.
const self = "/proc/self/exe"

// runner runs tests of the binary and writes what they say.
type runner struct {
	out     io.Writer
	flags   []string
	verbose bool
	until   time.Time

	mu     sync.Mutex // of what follows, and of out
	failed []string
	took   []string
}

// run runs tests, and returns an error that names those that failed.
func (r *runner) run(names []string, o Options) error {
	for _, name := range slices.Concat(o.First, o.Alone) {
		if !slices.Contains(names, name) {
			return fmt.Errorf("there is no %s, which the package's TestMain names", name)
		}
	}
	var together, alone []string
	for _, name := range o.First {
		if !slices.Contains(o.Alone, name) {
			together = append(together, name)
		}
	}
	for _, name := range names {
		switch {
		case slices.Contains(o.Alone, name):
			alone = append(alone, name)
		case !slices.Contains(together, name):
			together = append(together, name)
		}
	}
	workers := o.Workers
	if workers == 0 {
		workers = 2 * runtime.NumCPU()
	}
	began := time.Now()
	r.all(together, workers)
	half := time.Now()
	r.all(alone, 1)
	if r.verbose {
		fmt.Fprintf(r.out, "=== %d tests beside each other: %v; %d alone: %v\n%s", len(together), half.Sub(began).Round(time.Second),
			len(alone), time.Since(half).Round(time.Second), strings.Join(r.took, ""))
	}
	if len(r.failed) > 0 {
		slices.Sort(r.failed)
		return fmt.Errorf("failed: %s", strings.Join(r.failed, " "))
	}
	return nil
}

// list names the tests, fuzz targets and examples in the order of the files.
func list() ([]string, error) {
	cmd := exec.Command(self, "-test.list=^(Test|Fuzz|Example)")
	cmd.Env = append(os.Environ(), marker+"=list")
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list tests: %w", err)
	}
	return strings.Fields(string(out)), nil
}

// all runs tests, so many at a time, and returns when the last has ended.
func (r *runner) all(names []string, workers int) {
	queue := make(chan string, len(names)) // in their order
	for _, name := range names {
		queue <- name
	}
	close(queue)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			// A child is killed with the thread that made it, if this process is.
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			for name := range queue {
				r.one(name)
			}
		})
	}
	wg.Wait()
}

// one runs a test and writes all that it said at once.
func (r *runner) one(name string) {
	args := append(slices.Clone(r.flags), "-test.run=^"+name+"$")
	if !r.until.IsZero() {
		args = append(args, fmt.Sprintf("-test.timeout=%v", max(time.Until(r.until), time.Millisecond)))
	}
	var said bytes.Buffer
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), marker+"="+name)
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	began := time.Now()
	err := cmd.Run()
	took := time.Since(began)

	r.mu.Lock()
	defer r.mu.Unlock()
	r.took = append(r.took, fmt.Sprintf("    %7.1fs %s\n", took.Seconds(), name))
	text := said.Bytes()
	if err != nil {
		r.failed = append(r.failed, name)
		if exit := new(exec.ExitError); !errors.As(err, &exit) || exit.ExitCode() != 1 { // 1 has been explained
			text = fmt.Appendf(text, "%s: %v\n", name, err)
		}
	}
	_, _ = r.out.Write(withoutVerdict(text))
}

// withoutVerdict takes the last line away, which is about the process.
func withoutVerdict(text []byte) []byte {
	for _, verdict := range []string{"PASS\n", "FAIL\n"} {
		rest, ok := bytes.CutSuffix(text, []byte(verdict))
		if ok && (len(rest) == 0 || rest[len(rest)-1] == '\n') {
			return rest
		}
	}
	return text
}
