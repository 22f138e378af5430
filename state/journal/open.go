package journal

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/state"
)

// FileName is the journal's name within the state directory.
const FileName = "journal.db"

const (
	// allocSize is by how much the file grows: each time costs an ftruncate and
	// an fsync, once in about ten thousand events.
	allocSize = 4 << 20
	// initialMap is address space, not memory: bbolt need not map the file
	// again, which would wait for every reader, until it is that large.
	initialMap = 256 << 20
	// lockTimeout is how long Open waits for an offline reader of the file.
	lockTimeout = 5 * time.Second
)

// Options of Open. The zero value is usable.
type Options struct {
	// Now is the clock; time.Now when nil. It may go back: an event is never
	// stamped before the one before it.
	Now func() time.Time
	// Retain is how much history is kept; DefaultRetain when zero.
	Retain Retain
	// MachineID of this machine, as in /etc/machine-id. When it is not empty
	// and the journal was written under another one, Open returns ErrForeign.
	MachineID string
	// Progress is told how many bytes of how many are verified; nil for nobody.
	Progress func(done, total int64)
	// NoSync leaves out every sync. For tests that must fail.
	NoSync bool
	// Fault is called before each commit, and what it returns is taken for the
	// commit's error. For tests; nil for none. It may sleep: a slow disk.
	Fault func() error
}

// Retain is how much history is kept at least. An event is dropped only once it
// is beyond either bound, and only by Snapshot; up to twice Events are kept.
type Retain struct {
	Events uint64        // a number of events; 0 is that of DefaultRetain
	Age    time.Duration // younger than this; 0 for any age
}

// DefaultRetain keeps a hundred thousand events, about 30 MB, of any age.
var DefaultRetain = Retain{Events: 100_000}

// Journal is an open journal. Its methods are safe for concurrent use; those
// that write wait for each other, and for nobody who reads.
type Journal struct {
	opts Options
	path string
	db   *bbolt.DB
	lock *os.File // of the state directory, or of the file when read-only
	ro   bool

	write    sync.Mutex // held while a transaction writes
	poisoned bool       // under write: a panic left bbolt's locks held, so that it cannot be closed
	lacked   int64      // under write: bytes of the largest Append that found no room since one succeeded

	mu        sync.Mutex // guards what follows; never held during I/O
	meta      Meta
	first     uint64 // oldest event retained; 1 before the first event
	last      uint64 // newest event; first-1 when there is none
	lastTime  time.Time
	firstTime time.Time
	snapshots []uint64          // in order
	heads     map[uint64]uint64 // by hashID: the last event retained
	snapTime  time.Time         // when the newest snapshot was made, or the journal opened
	broken    error             // ErrBroken and why, or nil
	closed    bool
	appended  chan struct{} // closed and replaced at each append, and closed for good by Close
}

// Open opens the journal in a state directory, making both if need be, and
// returns it with the state it holds, all of which is on the disk then. The
// order is: lock the directory, sync, verify every page and checksum as the disk
// has them, replay. The error is ErrLocked, ErrDamaged, ErrFormat or ErrForeign,
// or that of the file system; the journal is as it was then. The context ends
// the verification. Call Close.
func Open(ctx context.Context, dir string, opts Options) (*Journal, state.State, error) {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Retain.Events == 0 {
		opts.Retain.Events = DefaultRetain.Events
	}
	j := &Journal{opts: opts, path: filepath.Join(dir, FileName), appended: make(chan struct{})}
	s, err := j.open(ctx, dir)
	if err != nil {
		return nil, state.State{}, errors.Join(fmt.Errorf("open journal %s: %w", j.path, err), j.release())
	}
	return j, s, nil
}

func (j *Journal) open(ctx context.Context, dir string) (state.State, error) {
	if err := makeDir(dir); err != nil {
		return state.State{}, err
	}
	var err error
	if j.lock, err = lockPath(dir, unix.LOCK_EX); err != nil {
		return state.State{}, err
	}
	if _, err := os.Lstat(j.path); errors.Is(err, fs.ErrNotExist) {
		if err := create(j.path, j.newMeta()); err != nil {
			return state.State{}, fmt.Errorf("create: %w", err)
		}
	}
	if !j.opts.NoSync {
		if err := forget(j.path); err != nil {
			return state.State{}, err
		}
	}
	found, err := verifyFile(ctx, j.path, visitor{progress: j.opts.Progress})
	if err != nil {
		return state.State{}, err
	}
	if err := found.err(); err != nil {
		return state.State{}, recoverHint(err, j.path)
	}
	if was := found.meta.MachineID; j.opts.MachineID != "" && was != "" && was != j.opts.MachineID {
		return state.State{}, fmt.Errorf("%w, whose machine id is %s: its VIPs may be in force there; "+
			"if this machine takes that one's place, put what `lictor journal recover %s` writes in its place, else move it away and register anew", ErrForeign, was, j.path)
	}
	if !j.opts.NoSync {
		if err := settle(j.path); err != nil {
			return state.State{}, err
		}
	}
	j.adoptScan(found)
	s, err := j.replay(ctx)
	if err != nil {
		return state.State{}, err
	}
	if err := j.openBolt(false); err != nil {
		return state.State{}, err
	}
	if found.meta.MachineID == "" && j.opts.MachineID != "" {
		if err := j.adoptMachine(); err != nil {
			return state.State{}, err
		}
	}
	return s, nil
}

// recoverHint says what can be done about damage.
func recoverHint(err error, path string) error {
	if errors.Is(err, ErrDamaged) {
		return fmt.Errorf("%w; `lictor journal recover %s` saves what is whole to a new file", err, path)
	}
	return err
}

func (j *Journal) newMeta() Meta {
	return Meta{UUID: newUUID(), Epoch: 1, MachineID: j.opts.MachineID, Created: j.opts.Now().UTC().Round(0)}
}

// newUUID returns a random UUID (RFC 9562, version 4).
func newUUID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// adoptScan takes over what the verification found.
func (j *Journal) adoptScan(s *scan) {
	j.meta, j.heads, j.snapshots = s.meta, s.heads, s.snapshots
	j.first, j.last, j.firstTime, j.lastTime = s.first, s.last, s.firstTime, s.lastTime
	j.snapTime = s.lastTime
}

func (j *Journal) openBolt(readOnly bool) error {
	db, err := openBolt(j.path, &bbolt.Options{NoSync: j.opts.NoSync, ReadOnly: readOnly, InitialMmapSize: initialMap})
	j.db = db
	return err
}

// openBolt opens a file that was verified. The freelist is kept as a map,
// because a snapshot needs many pages in a row and an array searches for them
// one by one; and it is synced, because without that bbolt walks the whole file
// at each start and after each failed write.
func openBolt(path string, opts *bbolt.Options) (db *bbolt.DB, err error) {
	defer guard(&err)()
	opts.Timeout, opts.PageSize, opts.FreelistType = lockTimeout, pageSize, bbolt.FreelistMapType
	db, err = bbolt.Open(path, 0o600, opts)
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, ErrLocked
	}
	if err == nil {
		db.AllocSize = allocSize
	}
	return db, err
}

// create makes a journal without events: whole, under another name, and then
// renamed, so that a journal file is never half made.
func create(path string, m Meta) (err error) {
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	db, err := openBolt(tmp, &bbolt.Options{})
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error { return initBuckets(tx, m) })
	if err := errors.Join(err, db.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := os.Rename(tmp, path); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return syncDir(filepath.Dir(path))
}

func initBuckets(tx *bbolt.Tx, m Meta) error {
	for _, name := range []string{bucketEvents, bucketMeta, bucketSnapshots} {
		if _, err := tx.CreateBucket([]byte(name)); err != nil {
			return err
		}
	}
	value, err := m.encode()
	if err != nil {
		return err
	}
	return tx.Bucket([]byte(bucketMeta)).Put(metaKey, value)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// adoptMachine makes a journal that is nobody's this machine's.
func (j *Journal) adoptMachine() error {
	m := j.meta
	m.MachineID = j.opts.MachineID
	value, err := m.encode()
	if err != nil {
		return err
	}
	err = j.update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte(bucketMeta)).Put(metaKey, value) })
	if err == nil {
		j.meta = m
	}
	return err
}

// lockPath takes an advisory lock on a file or directory without waiting.
// Closing the result gives it up; so does the end of the process.
func lockPath(path string, how int) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	switch err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		return nil, errors.Join(fmt.Errorf("%s is %w", path, ErrLocked), f.Close())
	case err != nil:
		return nil, errors.Join(&fs.PathError{Op: "flock", Path: path, Err: err}, f.Close())
	}
	return f, nil
}

// verifyFile scans the file at path.
func verifyFile(ctx context.Context, path string, v visitor) (found *scan, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	return scanFile(ctx, f, info.Size(), v)
}

// Close ends every Follow, waits for those who read or write, and closes the
// file. The second call does nothing.
func (j *Journal) Close() error {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return nil
	}
	j.closed = true
	close(j.appended)
	j.mu.Unlock()
	return j.release()
}

func (j *Journal) release() error {
	j.write.Lock()
	defer j.write.Unlock()
	var errs []error
	if j.db != nil && !j.poisoned {
		errs = append(errs, j.db.Close())
	}
	if j.lock != nil {
		errs = append(errs, j.lock.Close())
	}
	return errors.Join(errs...)
}
