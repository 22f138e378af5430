package journal

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What bbolt itself relies on is checked, too: a meta page that is wrong would
// take it back by a transaction without a word, and a page that is wrongly said
// to be free would be written over.
func TestPagesThatBoltTrusts(t *testing.T) {
	file := small(t)
	var found boltMeta
	p := pager{r: bytes.NewReader(file), size: int64(len(file)), read: func(int64) {}, bad: func(d Damage) { t.Error(d) }}
	for id := range uint64(2) {
		m, err := p.readMeta(id)
		if err != nil {
			t.Fatal(err)
		}
		if m.txid > found.txid {
			found = m
		}
	}
	free := found.freelist*pageSize + pageHeaderSize
	for name, test := range map[string]struct {
		spoil func(image []byte)
		want  string
	}{
		"meta page 0":         {func(b []byte) { b[pageHeaderSize+40] ^= 1 }, "meta page 0: checksum is wrong"},
		"meta page 1":         {func(b []byte) { b[pageSize+pageHeaderSize+40] ^= 1 }, "meta page 1: checksum is wrong"},
		"a used page is free": {func(b []byte) { native.PutUint64(b[free:], found.root) }, "the list of free pages: page"},
		"a page is neither":   {func(b []byte) { native.PutUint16(b[found.freelist*pageSize+10:], 0) }, "is neither in use nor free"},
	} {
		t.Run(name, func(t *testing.T) {
			image := bytes.Clone(file)
			test.spoil(image)
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, FileName), image, 0o600); err != nil {
				t.Fatal(err)
			}
			_, _, err := Open(context.Background(), dir, Options{NoSync: true})
			if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("open: %v; want %q", err, test.want)
			}
		})
	}
}
