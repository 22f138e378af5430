// Package sandbox makes what tests and demos need from the kernel (network
// namespaces, cgroups, a bpffs, directories) under one run, and takes all of it
// away again, also when the process that made it was killed.
//
// Everything that a run makes carries the run's name, so nothing has to be
// written down while it is made: [Sweep] finds it by that name. A run is alive
// for as long as its process holds a lock on the run's file under [Registry];
// the kernel drops that lock with the process, whatever ended it.
package sandbox

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Registry holds one directory per run.
const Registry = "/run/lictor-testbed"

// prefix begins the name of everything that a run makes.
const prefix = "lictor-"

// Info is what a run says about itself to others.
type Info struct {
	ID      string    `json:"id"`
	PID     int       `json:"pid"`
	Command string    `json:"command"`
	Started time.Time `json:"started"`
}

// errClosed is returned for what is asked of a run after Close.
var errClosed = errors.New("the run is closed")

// Run owns everything that was made through it. Its methods may be called
// concurrently. The zero value is of no use; see [Open].
type Run struct {
	info Info
	lock *os.File

	mu       sync.Mutex
	closed   bool
	netns    []*Netns
	lifeline *lifeline
}

// Open removes what dead runs left and registers a new run. The caller closes it.
func Open() (*Run, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("open sandbox: namespaces and cgroups need root: run as root")
	}
	unlock, err := lockRegistry()
	if err != nil {
		return nil, err
	}
	defer unlock()
	// What could not be swept is left for the next run; it must not keep this one from starting.
	_, _ = sweepLocked()

	info := Info{
		ID:      fmt.Sprintf("%d-%s", os.Getpid(), suffix()),
		PID:     os.Getpid(),
		Command: strings.Join(os.Args, " "),
		Started: time.Now(),
	}
	dir := filepath.Join(Registry, info.ID)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("register sandbox: %w", err)
	}
	lock, err := writeInfo(dir, info)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("register sandbox: %w", err), os.RemoveAll(dir))
	}
	return &Run{info: info, lock: lock}, nil
}

// ID names the run: the pid of its process and a few random letters.
func (r *Run) ID() string { return r.info.ID }

// Name is that of the run's cgroup and of its directories.
func (r *Run) Name() string { return prefix + r.info.ID }

// Dir makes and returns a directory below the run's own, on the machine's
// temporary file system.
func (r *Run) Dir(elem ...string) (string, error) {
	if r.isClosed() {
		return "", fmt.Errorf("make directory: %w", errClosed)
	}
	dir := filepath.Join(append([]string{tempDir(r.info.ID)}, elem...)...)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make directory of run: %w", err)
	}
	return dir, nil
}

func (r *Run) isClosed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closed
}

// Close kills every process in the run's cgroup and removes all that the run
// made. Closing twice is success.
func (r *Run) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	var errs []error
	for _, n := range r.netns {
		errs = append(errs, n.file.Close())
	}
	unlock, err := lockRegistry()
	if err != nil {
		return err
	}
	defer unlock()
	errs = append(errs, remove(r.info.ID))
	if r.lifeline != nil {
		errs = append(errs, r.lifeline.close())
	}
	errs = append(errs, r.lock.Close())
	return errors.Join(errs...)
}

// tempDir is outside Registry, which may be a small tmpfs.
func tempDir(id string) string { return filepath.Join(os.TempDir(), prefix+id) }

func suffix() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails, by its documentation
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b[:]))[:4]
}

func writeInfo(dir string, info Info) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "info.json"), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if err := json.NewEncoder(f).Encode(info); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// lockRegistry keeps a run from being swept between its making and its locking.
func lockRegistry() (unlock func(), err error) {
	if err := os.MkdirAll(Registry, 0o700); err != nil {
		return nil, fmt.Errorf("make registry of runs: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(Registry, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock registry of runs: %w", err)
	}
	if err := flock(f, unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock registry of runs: %w", err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// flock waits through signals, which Go's runtime sends to its own threads.
func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
