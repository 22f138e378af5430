package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"go.etcd.io/bbolt"

	"github.com/lictor-mesh/lictor/state"
)

// A snapshot is kept in chunks. As one value, 10,000 proxies would need a
// thousand free pages in a row, which a file in use does not have, and bbolt
// would write all snapshots anew with each, as they share a leaf.
//
//	key    8 bytes sequence number, 4 bytes number of the chunk from 0
//	value  4 bytes checksum (CRC-32C) over the key and the rest, 1 byte format,
//	       in chunk 0 the length of all JSON in 8 bytes, then JSON
//
// All numbers are big-endian.
const (
	chunkSize    = 32 << 10 // of JSON in a chunk
	chunkKeySize = keySize + 4
)

func chunkKey(seq uint64, n uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(make([]byte, 0, chunkKeySize), seq), n)
}

func parseChunkKey(k []byte) (seq uint64, n uint32, err error) {
	if len(k) != chunkKeySize {
		return 0, 0, Damage{What: fmt.Sprintf("the snapshots hold a key of %d bytes", len(k))}
	}
	return binary.BigEndian.Uint64(k), binary.BigEndian.Uint32(k[keySize:]), nil
}

// putSnapshot writes a snapshot's JSON.
func putSnapshot(b *bbolt.Bucket, seq uint64, data []byte) error {
	left := data
	for n := uint32(0); n == 0 || len(left) > 0; n++ {
		v := make([]byte, sealSize, sealSize+8+chunkSize)
		if n == 0 {
			v = binary.BigEndian.AppendUint64(v, uint64(len(data)))
		}
		part := left[:min(chunkSize, len(left))]
		left = left[len(part):]
		k := chunkKey(seq, n)
		if err := b.Put(k, seal(k, append(v, part...))); err != nil {
			return err
		}
	}
	return nil
}

func deleteSnapshot(b *bbolt.Bucket, seq uint64) error {
	for n := uint32(0); ; n++ {
		k := chunkKey(seq, n)
		if b.Get(k) == nil {
			return nil
		}
		if err := b.Delete(k); err != nil {
			return err
		}
	}
}

// loadSnapshot returns the state that a snapshot holds. It decodes chunk by
// chunk, on the memory map.
func loadSnapshot(b *bbolt.Bucket, seq uint64) (state.State, error) {
	return readSnapshot(seq, &chunkReader{bucket: b, seq: seq})
}

// chunkReader reads the JSON of a snapshot.
type chunkReader struct {
	bucket *bbolt.Bucket
	seq    uint64
	chunks assembly
	part   []byte // what is left of the chunk
	done   bool   // it is the last one
}

func (r *chunkReader) Read(p []byte) (int, error) {
	for len(r.part) == 0 {
		if r.done {
			return 0, io.EOF
		}
		k := chunkKey(r.seq, r.chunks.next)
		v := r.bucket.Get(k)
		if v == nil {
			return 0, damagedSnapshot(r.seq, errors.New("its end is not there"))
		}
		done, err := r.chunks.add(k, v)
		if err != nil {
			return 0, err
		}
		r.part, r.done = r.chunks.part, done
	}
	n := copy(p, r.part)
	r.part = r.part[n:]
	return n, nil
}

// assembly puts chunks together, in the order of their keys.
type assembly struct {
	keep bool // keep the data, not only count it
	seq  uint64
	next uint32 // number of the next chunk
	left uint64 // bytes to come
	data []byte // if kept
	part []byte // of the chunk added last, sharing its memory
}

// add takes the next chunk, and reports whether the snapshot is whole. A chunk 0
// begins a new one. The error is ErrFormat or ErrDamaged.
func (a *assembly) add(k, v []byte) (done bool, err error) {
	seq, n, err := parseChunkKey(k)
	if err != nil {
		return false, err
	}
	b, err := unseal(k, v)
	switch {
	case errors.Is(err, ErrFormat):
		return false, fmt.Errorf("snapshot at event %d: %w", seq, err)
	case err == nil && n == 0 && len(b) < 8:
		err = errShort
	case err == nil && n > 0 && (seq != a.seq || n != a.next):
		err = fmt.Errorf("chunk %d is out of place", n)
	}
	if err != nil {
		return false, damagedSnapshot(seq, err)
	}
	if n == 0 {
		*a = assembly{keep: a.keep, seq: seq, left: binary.BigEndian.Uint64(b)}
		b = b[8:]
	}
	if uint64(len(b)) > a.left {
		return false, damagedSnapshot(seq, errors.New("it is longer than it says"))
	}
	a.next, a.left, a.part = n+1, a.left-uint64(len(b)), b
	if a.keep {
		a.data = append(a.data, b...)
	}
	return a.left == 0, nil
}

func damagedSnapshot(seq uint64, err error) error {
	return Damage{What: fmt.Sprintf("snapshot at event %d: %s", seq, err)}
}

// parseSnapshot returns the state of a snapshot's JSON.
func parseSnapshot(seq uint64, data []byte) (state.State, error) {
	return readSnapshot(seq, bytes.NewReader(data))
}

// readSnapshot decodes a snapshot's JSON. The error is ErrFormat or ErrDamaged.
func readSnapshot(seq uint64, r io.Reader) (state.State, error) {
	s, err := state.ReadState(r)
	switch {
	case errors.Is(err, ErrFormat):
		return s, err
	case errors.Is(err, state.ErrUnknownField):
		return s, fmt.Errorf("snapshot at event %d: %w: %w", seq, ErrFormat, err)
	case err == nil && s.Seq != seq:
		err = fmt.Errorf("it is one of event %d", s.Seq)
	}
	if err != nil {
		return s, damagedSnapshot(seq, err)
	}
	return s, nil
}
