package journal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/state"
)

// recoverBatch is how many events one transaction of Recover writes.
const recoverBatch = 10_000

// Recovery is what Recover saved and what it could not.
type Recovery struct {
	Meta        Meta   // of the new journal: the same UUID in the next epoch, or a new one
	MetaLost    bool   // the old one's meta could not be read: the UUID is new
	First, Last uint64 // events saved; Last is First-1 when there is none
	Snapshots   []uint64
	Salvaged    int      // events of these found only on pages that are no longer in use
	Lost        []Damage // by sequence number, of what is known to have been there
	Damage      []Damage // of the source
}

// Recover writes the longest valid part of a journal to a new file: the events
// up to the newest that can be reached from a snapshot, or from the first event,
// without a gap, and as much history before them as is whole. path is the file
// or its directory; dst must not exist. The new journal is in the next epoch, as
// events that were promised may be missing. The source is not changed.
//
// The error is ErrLocked, ErrExists, ErrFormat, ErrDamaged when there is nothing
// to be saved, or that of the file system or the context.
func Recover(ctx context.Context, path, dst string, progress func(done, total int64)) (Recovery, error) {
	path = filePath(path)
	rec, err := recoverTo(ctx, path, dst, progress)
	if err != nil {
		return Recovery{}, fmt.Errorf("recover journal %s: %w", path, err)
	}
	return rec, nil
}

func recoverTo(ctx context.Context, path, dst string, progress func(done, total int64)) (_ Recovery, err error) {
	if _, err := os.Lstat(dst); err == nil {
		return Recovery{}, fmt.Errorf("%s %w", dst, ErrExists)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return Recovery{}, err
	}
	lock, err := lockPath(path, unix.LOCK_SH)
	if err != nil {
		return Recovery{}, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	found, err := gather(ctx, path, progress)
	if err != nil {
		return Recovery{}, err
	}
	rec, err := found.choose()
	if err != nil {
		return Recovery{}, err
	}
	return rec, found.writeTo(ctx, dst, rec)
}

// wreck is all that could be read of a journal.
type wreck struct {
	scan      *scan
	records   map[uint64][]byte // by sequence number, the value
	snapshots map[uint64][]byte // likewise, the JSON
	unused    map[uint64]bool   // records found on unused pages only
	decoded   map[uint64]bool   // records that are known to be sound
}

// gather reads a journal from its tree and, if that is damaged, from every page
// of the file: pages that are no longer in use hold copies of what is on those
// that are.
func gather(ctx context.Context, path string, progress func(done, total int64)) (*wreck, error) {
	w := &wreck{records: map[uint64][]byte{}, snapshots: map[uint64][]byte{}, unused: map[uint64]bool{}, decoded: map[uint64]bool{}}
	found, err := verifyFile(ctx, path, visitor{
		progress: progress,
		record:   func(r record) error { w.records[r.seq] = r.encode(); return nil },
		snapshot: func(seq uint64, data []byte) { w.snapshots[seq] = data },
	})
	if err != nil {
		return nil, err
	}
	w.scan = found
	if found.format != nil {
		return nil, found.format
	}
	if len(found.damage) > 0 {
		err = w.salvage(ctx, path)
	}
	return w, err
}

// salvage adds what any page of the file holds. Of two events with the same
// number the later is kept: one that was never committed is older than the one
// that took its number.
func (w *wreck) salvage(ctx context.Context, path string) error {
	inTree := maps.Clone(w.records)
	chunks := map[string][]byte{}
	defer func() { w.assemble(chunks) }()
	return eachLoosePair(ctx, path, func(k, v []byte) {
		if string(k) == string(metaKey) {
			if m, err := parseMeta(v); err == nil && !w.scan.hasMeta {
				w.scan.meta, w.scan.hasMeta = m, true
			}
			return
		}
		if _, _, err := parseChunkKey(k); err == nil {
			if _, err := unseal(k, v); err == nil {
				chunks[string(k)] = slices.Clone(v)
			}
			return
		}
		r, err := parseRecord(k, v)
		if err != nil || inTree[r.seq] != nil {
			return
		}
		if old := w.records[r.seq]; old != nil {
			if o, err := parseRecord(k, old); err == nil && !r.time.After(o.time) {
				return
			}
		}
		w.records[r.seq], w.unused[r.seq] = slices.Clone(v), true
	})
}

// assemble adds the snapshots of which every chunk was found.
func (w *wreck) assemble(chunks map[string][]byte) {
	a := assembly{keep: true}
	for _, k := range slices.Sorted(maps.Keys(chunks)) {
		done, err := a.add([]byte(k), chunks[k])
		if err != nil || !done || w.snapshots[a.seq] != nil {
			continue
		}
		if _, err := parseSnapshot(a.seq, a.data); err == nil {
			w.snapshots[a.seq] = a.data
		}
	}
}

// run is a part of a journal that can stand alone.
type run struct{ first, base, last uint64 }

// choose finds the part to keep.
func (w *wreck) choose() (Recovery, error) {
	w.dropSnapshots()
	bases := slices.Sorted(maps.Keys(w.snapshots))
	if w.records[1] != nil || len(w.scan.damage) == 0 && w.scan.last == 0 { // or it is new
		bases = slices.Insert(bases, 0, 0)
	}
	var best *run
	for _, base := range bases {
		if r := w.runFrom(base); best == nil || r.last > best.last {
			best = &r
		}
	}
	if w.scan.format != nil {
		return Recovery{}, w.scan.format
	}
	if best == nil {
		return Recovery{}, fmt.Errorf("%w: there is no snapshot and no first event, so nothing to begin with", ErrDamaged)
	}
	rec := Recovery{
		Meta: w.scan.meta, MetaLost: !w.scan.hasMeta,
		First: best.first, Last: best.last, Damage: w.scan.damage,
	}
	if rec.MetaLost {
		rec.Meta.UUID = newUUID()
	}
	rec.Meta.Epoch++
	rec.Meta.MachineID = "" // it becomes the machine's that opens it first: so a copied disk is taken over
	rec.Meta.Base = 0
	if rec.First > rec.Last {
		rec.Meta.Base = rec.Last
	}
	if err := w.checkSnapshots(best, &rec); err != nil {
		return Recovery{}, err
	}
	for seq := range w.unused {
		if seq >= rec.First && seq <= rec.Last {
			rec.Salvaged++
		}
	}
	rec.Lost = w.lost(rec)
	return rec, nil
}

// dropSnapshots forgets those that cannot be decoded.
func (w *wreck) dropSnapshots() {
	for seq, data := range w.snapshots {
		if _, err := parseSnapshot(seq, data); err != nil {
			delete(w.snapshots, seq)
			w.scan.fail(err)
		}
	}
}

// runFrom returns the run of events that the state at base can be folded with.
func (w *wreck) runFrom(base uint64) run {
	r := run{first: base + 1, base: base, last: base}
	for w.sound(r.last + 1) {
		r.last++
	}
	for r.first > 1 && w.sound(r.first-1) { // history before it
		r.first--
	}
	return r
}

// sound reports whether an event is there and can be decoded.
func (w *wreck) sound(seq uint64) bool {
	v, ok := w.records[seq]
	if !ok || w.decoded[seq] {
		return ok
	}
	r, err := parseRecord(key(seq), v)
	if err == nil {
		_, err = r.event()
	}
	if errors.Is(err, ErrFormat) {
		w.scan.format = err
	}
	w.decoded[seq] = err == nil
	return err == nil
}

// checkSnapshots keeps the snapshots of a run that are what its events give, and
// lists the others as damage.
func (w *wreck) checkSnapshots(r *run, rec *Recovery) error {
	s := state.New()
	if r.base > 0 {
		var err error
		if s, err = parseSnapshot(r.base, w.snapshots[r.base]); err != nil {
			return err
		}
		rec.Snapshots = append(rec.Snapshots, r.base)
	}
	for seq := r.base + 1; seq <= r.last; seq++ {
		rd, err := parseRecord(key(seq), w.records[seq])
		if err != nil {
			return err
		}
		e, err := rd.event()
		if err != nil {
			return err
		}
		s = state.Fold(s, e)
		v, ok := w.snapshots[seq]
		if !ok {
			continue
		}
		if kept, err := parseSnapshot(seq, v); err != nil || !kept.Equal(s) {
			rec.Damage = append(rec.Damage, Damage{What: fmt.Sprintf("the snapshot at event %d is not what the events up to it give", seq)})
			continue
		}
		rec.Snapshots = append(rec.Snapshots, seq)
	}
	return nil
}

// lost lists the events that are known to have been there and are not saved.
func (w *wreck) lost(rec Recovery) []Damage {
	newest := w.scan.last
	for _, seqs := range []map[uint64][]byte{w.records, w.snapshots} {
		for seq := range seqs {
			newest = max(newest, seq)
		}
	}
	for _, d := range w.scan.damage {
		newest = max(newest, d.Last)
	}
	var lost []Damage
	if oldest := max(w.scan.first, 1); oldest < rec.First {
		lost = append(lost, Damage{First: oldest, Last: rec.First - 1, What: "history lost; its effect is in the snapshot"})
	}
	if newest > rec.Last {
		lost = append(lost, Damage{First: rec.Last + 1, Last: newest, What: "lost with its effect"})
	}
	return lost
}

// writeTo writes the chosen part: under another name, and renamed when whole.
func (w *wreck) writeTo(ctx context.Context, dst string, rec Recovery) (err error) {
	tmp := dst + ".recovering"
	if err := create(tmp, rec.Meta); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp))
		}
	}()
	db, err := openBolt(tmp, &bbolt.Options{InitialMmapSize: initialMap})
	if err != nil {
		return err
	}
	err = errors.Join(w.fill(ctx, db, rec), db.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, dst); err != nil {
		return err
	}
	return syncDir(filepath.Dir(dst))
}

func (w *wreck) fill(ctx context.Context, db *bbolt.DB, rec Recovery) error {
	for seq := rec.First; seq <= rec.Last; seq += recoverBatch {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err := db.Update(func(tx *bbolt.Tx) error {
			b := tx.Bucket([]byte(bucketEvents))
			b.FillPercent = 1
			for s := seq; s <= min(rec.Last, seq+recoverBatch-1); s++ {
				if err := b.Put(key(s), w.records[s]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return db.Update(func(tx *bbolt.Tx) error {
		for _, seq := range rec.Snapshots {
			if err := putSnapshot(tx.Bucket([]byte(bucketSnapshots)), seq, w.snapshots[seq]); err != nil {
				return err
			}
		}
		return nil
	})
}
