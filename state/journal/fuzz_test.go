package journal

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/state"
)

func TestRecordRoundTrip(t *testing.T) {
	for _, r := range []record{
		{seq: 1, time: time.Unix(0, 1).UTC(), kind: state.KindPlaced, body: []byte("{}")},
		{seq: 1<<64 - 1, time: time.Unix(1<<33, 999).UTC(), prev: 1<<64 - 2, proxy: 3, kind: "X", body: nil},
	} {
		got, err := parseRecord(key(r.seq), r.encode())
		if err != nil || got.seq != r.seq || !got.time.Equal(r.time) || got.prev != r.prev || got.proxy != r.proxy ||
			got.kind != r.kind || !bytes.Equal(got.body, r.body) {
			t.Errorf("%+v became %+v: %v", r, got, err)
		}
		if _, err := parseRecord(key(r.seq+1), r.encode()); !errors.Is(err, ErrDamaged) {
			t.Errorf("under another key: %v", err)
		}
	}
}

// TestLaterFormat: what a later version writes is refused as such, not as damage.
func TestLaterFormat(t *testing.T) {
	k := key(7)
	later := seal(k, make([]byte, 40))
	later[4] = Format + 1
	copy(later, reseal(k, later))
	if _, err := parseRecord(k, later); !errors.Is(err, ErrFormat) || errors.Is(err, ErrDamaged) {
		t.Errorf("format: %v", err)
	}
	for name, r := range map[string]record{
		"kind":  {seq: 7, kind: "ServerMoved", body: []byte("{}")},
		"field": {seq: 7, kind: state.KindServerGone, body: []byte(`{"id":"a","why":"b"}`)},
	} {
		parsed, err := parseRecord(k, r.encode())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parsed.event(); !errors.Is(err, ErrFormat) || errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// reseal makes the checksum right whatever the format says.
func reseal(k, b []byte) []byte {
	b = bytes.Clone(b)
	binary.BigEndian.PutUint32(b, checksum(k, b))
	return b
}

func FuzzRecord(f *testing.F) {
	r := record{seq: 7, time: time.Unix(0, 1).UTC(), prev: 3, proxy: 9, kind: state.KindServerGone, body: []byte(`{"id":"a"}`)}
	f.Add(uint64(7), r.encode()[sealSize:])
	f.Fuzz(func(t *testing.T, seq uint64, payload []byte) {
		k := key(seq)
		v := seal(k, append(make([]byte, sealSize), payload...))
		r, err := parseRecord(k, v)
		if err != nil {
			named(t, err)
			return
		}
		if again := r.encode(); !bytes.Equal(again, v) {
			t.Fatalf("%x became %x", v, again)
		}
		if e, err := r.event(); err == nil && (e.Seq != seq || e.Body.Kind() != r.kind) {
			t.Fatalf("%+v of %+v", e, r)
		}
	})
}

func FuzzMeta(f *testing.F) {
	v, err := Meta{UUID: "u", Epoch: 2, MachineID: "m", Created: time.Unix(1, 2).UTC(), Base: 3}.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(v[sealSize:])
	f.Fuzz(func(t *testing.T, payload []byte) {
		m, err := parseMeta(seal(metaKey, append(make([]byte, sealSize), payload...)))
		if err != nil {
			named(t, err)
			return
		}
		v, err := m.encode()
		if err != nil {
			t.Skip(err) // a year that time.Time parses and does not print
		}
		again, err := parseMeta(v)
		same := again.Created.Equal(m.Created)
		again.Created = m.Created
		if err != nil || !same || again != m {
			t.Fatalf("%+v became %+v: %v", m, again, err)
		}
	})
}

// FuzzSnapshot cuts data into chunks, one for each byte of cuts, whose upper half
// is added to the chunk's number, so that some are out of place.
func FuzzSnapshot(f *testing.F) {
	data := []byte(`{"seq":9,"time":"2026-01-02T03:04:05Z","servers":[{"id":"s1","slot":1,"port":1,"since":"2026-01-02T03:04:05Z"}],"drained":{},"proxies":[],"resting":{"2":"2026-01-02T03:04:05Z"},"last_index":2}`)
	f.Add(uint64(9), uint64(len(data)), data, []byte{15, 15, 15, 15})
	f.Add(uint64(9), uint64(20), data, []byte{1, 0, 2, 0x11})
	f.Fuzz(func(t *testing.T, seq, size uint64, data, cuts []byte) {
		a, left := assembly{keep: true}, data
		for i, c := range cuts {
			part := left[:min(int(c&15)*16, len(left))]
			left = left[len(part):]
			v := make([]byte, sealSize)
			if i == 0 {
				v = binary.BigEndian.AppendUint64(v, size)
			}
			k := chunkKey(seq, uint32(i)+uint32(c>>4))
			done, err := a.add(k, seal(k, append(v, part...)))
			if err != nil {
				named(t, err)
				break
			}
			if c>>4 != 0 {
				t.Fatalf("chunk %d is taken for chunk %d", i+int(c>>4), i)
			}
			if done != (uint64(len(a.data)) == size) || !bytes.HasPrefix(data, a.data) {
				t.Fatalf("done is %v with %q, of %d bytes of %q", done, a.data, size, data)
			}
			if done {
				break
			}
		}
		s, err := parseSnapshot(seq, data)
		if err != nil {
			named(t, err)
			return
		}
		text, err := json.Marshal(s)
		if err != nil {
			t.Skip(err) // as above
		}
		if again, err := parseSnapshot(seq, text); err != nil || !again.Equal(s) {
			t.Fatalf("%s is another state when decoded again: %v", text, err)
		}
	})
}

// named fails the test unless err says what it is to a caller.
func named(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrFormat) {
		t.Fatalf("neither damage nor a later format: %v", err)
	}
}

// FuzzPages overwrites a part of a small journal. Whatever that makes of it, no
// reader panics, and bbolt may open what the walk has found sound.
func FuzzPages(f *testing.F) {
	file := small(f)
	f.Add(uint32(0), []byte{1})
	f.Add(uint32(2*pageSize), []byte{9, 0, 0, 0, 0, 0, 0, 0})
	f.Add(uint32(len(file)-1), []byte{1})
	f.Fuzz(func(t *testing.T, at uint32, with []byte) {
		image := bytes.Clone(file)
		copy(image[int(at)%len(image):], with)
		found, err := scanFile(context.Background(), bytes.NewReader(image), int64(len(image)), visitor{})
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		path := filepath.Join(dir, FileName)
		if err := os.WriteFile(path, image, 0o600); err != nil {
			t.Fatal(err)
		}
		if found.err() == nil {
			if _, err := Verify(context.Background(), path, nil); err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrFormat) {
				t.Fatal(err)
			}
		}
		if _, err := Recover(context.Background(), path, path+".saved", nil); err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrFormat) {
			t.Fatal(err)
		}
	})
}

// small returns the file of a journal with two snapshots, without what is
// allocated ahead.
func small(f testing.TB) []byte {
	f.Helper()
	dir := f.TempDir()
	j, s, err := Open(context.Background(), dir, Options{NoSync: true})
	if err != nil {
		f.Fatal(err)
	}
	for i := range 60 {
		events, err := j.Append(state.ServerDrained{ID: string(rune('a' + i%20)), By: "uid 0"}, state.ProxyRegistered{Proxy: state.Registration{ID: string(rune('a' + i)), Index: uint32(i) + 1}})
		if err != nil {
			f.Fatal(err)
		}
		for _, e := range events {
			s = state.Fold(s, e)
		}
		if i%25 == 24 {
			if err := j.Snapshot(s); err != nil {
				f.Fatal(err)
			}
		}
	}
	if err := j.Close(); err != nil {
		f.Fatal(err)
	}
	file, err := os.ReadFile(filepath.Join(dir, FileName))
	if err != nil {
		f.Fatal(err)
	}
	return file[:40*pageSize]
}
