package journal

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"strings"
	"time"

	"github.com/lictor-mesh/lictor/state"
)

// Format is the version of the layout of records, snapshots and meta.
const Format = 1

// Sizes of the parts of a sealed value and of a record, in bytes.
const (
	sealSize   = 4 + 1         // checksum, format
	recordSize = 8 + 8 + 8 + 1 // time, previous, proxy, length of kind
	maxBody    = 1 << 20       // of one event's JSON
	keySize    = 8             // a sequence number
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errShort is what is wrong with a value that ends before its fixed part does.
var errShort = errors.New("too short")

// key returns the key of a sequence number: big-endian, so that keys sort.
func key(seq uint64) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, 0, keySize), seq)
}

// parseKey is the inverse of key.
func parseKey(k []byte) (uint64, error) {
	if len(k) != keySize {
		return 0, fmt.Errorf("a key of %d bytes", len(k))
	}
	return binary.BigEndian.Uint64(k), nil
}

// seal puts the checksum and the format before a payload. b holds sealSize
// spare bytes before it.
func seal(k, b []byte) []byte {
	b[4] = Format
	binary.BigEndian.PutUint32(b, checksum(k, b))
	return b
}

// checksum is that of a key and of a sealed value without its own four bytes.
func checksum(k, b []byte) uint32 {
	return crc32.Update(crc32.Checksum(k, castagnoli), castagnoli, b[4:])
}

// unseal returns the payload of a sealed value. The checksum's place and range
// are the same in every format, so that an unknown format can be told from
// damage: the error is ErrFormat for one, and something else for the other.
func unseal(k, b []byte) ([]byte, error) {
	if len(b) < sealSize {
		return nil, errShort
	}
	sum := checksum(k, b)
	if stored := binary.BigEndian.Uint32(b); stored != sum {
		return nil, fmt.Errorf("checksum is %08x, of what is there %08x", stored, sum)
	}
	if b[4] != Format {
		return nil, fmt.Errorf("format %d, this version knows %d: %w", b[4], Format, ErrFormat)
	}
	return b[sealSize:], nil
}

// record is one value of the events bucket.
//
//	bytes  what
//	4      checksum (CRC-32C) over the key and the rest of the value
//	1      format
//	8      time, nanoseconds since 1970 UTC
//	8      previous sequence number of the same proxy, 0 for none retained
//	8      hash of the proxy's id, 0 for none
//	1      length of the kind
//	…      kind
//	…      body, JSON
//
// All numbers are big-endian. Two ids may have the same hash: their chains of
// previous numbers are one then, and the reader drops what is not asked for.
type record struct {
	seq   uint64
	time  time.Time
	prev  uint64
	proxy uint64
	kind  state.Kind
	body  []byte // shares memory with what it was parsed from
}

// encode returns the record's value.
func (r record) encode() []byte {
	b := make([]byte, sealSize, sealSize+recordSize+len(r.kind)+len(r.body))
	b = binary.BigEndian.AppendUint64(b, uint64(r.time.UnixNano()))
	b = binary.BigEndian.AppendUint64(b, r.prev)
	b = binary.BigEndian.AppendUint64(b, r.proxy)
	b = append(b, byte(len(r.kind)))
	b = append(b, r.kind...)
	b = append(b, r.body...)
	return seal(key(r.seq), b)
}

// parseRecord is the inverse of encode. It does not look into the body. The
// error is ErrFormat or ErrDamaged, and names the event where it can.
func parseRecord(k, v []byte) (record, error) {
	seq, err := parseKey(k)
	if err != nil {
		return record{}, Damage{What: "the events hold " + err.Error()}
	}
	b, err := unseal(k, v)
	switch {
	case errors.Is(err, ErrFormat):
		return record{}, fmt.Errorf("event %d: %w", seq, err)
	case err != nil:
		return record{}, Damage{First: seq, Last: seq, What: err.Error()}
	}
	if len(b) < recordSize || len(b) < recordSize+int(b[recordSize-1]) {
		return record{}, Damage{First: seq, Last: seq, What: errShort.Error()}
	}
	n := recordSize + int(b[recordSize-1])
	return record{
		seq:   seq,
		time:  time.Unix(0, int64(binary.BigEndian.Uint64(b))).UTC(),
		prev:  binary.BigEndian.Uint64(b[8:]),
		proxy: binary.BigEndian.Uint64(b[16:]),
		kind:  kindOf(b[recordSize:n]),
		body:  b[n:],
	}, nil
}

// kinds makes one string of each kind, not one of each record.
var kinds = func() map[string]state.Kind {
	m := map[string]state.Kind{}
	for _, k := range state.Kinds {
		m[string(k)] = k
	}
	return m
}()

func kindOf(b []byte) state.Kind {
	if k, ok := kinds[string(b)]; ok {
		return k
	}
	return state.Kind(b)
}

// event decodes the record's body. The error is ErrFormat for a kind or field
// of a later version, else ErrDamaged.
func (r record) event() (state.Event, error) {
	body, err := state.DecodeBody(r.kind, r.body)
	switch {
	case errors.Is(err, state.ErrUnknownKind) || errors.Is(err, state.ErrUnknownField):
		return state.Event{}, fmt.Errorf("event %d: %w: %w", r.seq, ErrFormat, err)
	case err != nil:
		return state.Event{}, Damage{First: r.seq, Last: r.seq, What: err.Error()}
	}
	return state.Event{Seq: r.seq, Time: r.time, Body: body}, nil
}

// hashID returns the hash of a proxy's id, 0 for no proxy. It is on disk: FNV-1a
// of 64 bits.
func hashID(id string) uint64 {
	if id == "" {
		return 0
	}
	h := fnv.New64a()
	h.Write([]byte(id))
	return max(h.Sum64(), 1) // 0 means none
}

// Meta is what a journal says of itself.
type Meta struct {
	UUID      string    `json:"uuid"`       // of this journal, the same for life and in copies
	Epoch     uint64    `json:"epoch"`      // 1, and one more after each recovery: events of the one before may be missing
	MachineID string    `json:"machine_id"` // of the machine that writes it, as Options gave it
	Created   time.Time `json:"created"`    // when the journal was
	// Base is set by a recovery that saved a snapshot and no event at all: the
	// events up to it are lost, the snapshot stands for them.
	Base uint64 `json:"base,omitempty"`
}

// metaKey is the only key of the meta bucket.
var metaKey = []byte("journal")

func (m Meta) encode() ([]byte, error) {
	data, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	return seal(metaKey, append(make([]byte, sealSize), data...)), nil
}

func parseMeta(v []byte) (Meta, error) {
	b, err := unseal(metaKey, v)
	if errors.Is(err, ErrFormat) {
		return Meta{}, fmt.Errorf("meta: %w", err)
	}
	var m Meta
	if err == nil {
		dec := json.NewDecoder(bytes.NewReader(b))
		dec.DisallowUnknownFields()
		err = dec.Decode(&m)
	}
	if err != nil && strings.HasPrefix(err.Error(), "json: unknown field ") { // it has no type
		return Meta{}, fmt.Errorf("meta: %w: %w", ErrFormat, err)
	}
	if err != nil {
		return Meta{}, Damage{What: "meta: " + err.Error()}
	}
	return m, nil
}
