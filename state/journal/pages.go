package journal

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
)

// bbolt reads its file through a memory map and trusts it: a page number out of
// range is a fault, and Tx.Check runs in a goroutine of its own, where neither
// SetPanicOnFault nor recover of ours reaches. So the pages are walked here
// first, by ordinary reads that believe nothing. What passes this walk is safe
// for bbolt. The layout is that of go.etcd.io/bbolt v1.5.0, internal/common.
const (
	pageSize       = 4096 // of every journal, whatever the machine's is
	pageHeaderSize = 16   // id u64, flags u16, count u16, overflow u32
	elementSize    = 16   // of a branch and of a leaf
	bucketSize     = 16   // root page u64, sequence u64
	metaSumAt      = 56   // offset of the checksum within a meta

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagMeta     = 0x04
	flagFreelist = 0x10
	flagBucket   = 0x01 // of a leaf's element

	boltMagic   = 0xED0CDAED
	boltVersion = 2
	noFreelist  = ^uint64(0)
	maxDepth    = 32 // of a tree; 4096-byte pages and 8-byte keys need 6 for 2^64 events
)

var native = binary.NativeEndian // bbolt writes its pages in the machine's order

// boltMeta is one of the two roots of a bbolt file.
type boltMeta struct {
	root, freelist, high, txid uint64 // high: the first page number never used
}

// pager reads the pages of a bbolt file. It is not safe for concurrent use.
type pager struct {
	r     io.ReaderAt
	size  int64
	meta  boltMeta
	spare [][]byte                               // pages to be used again
	seen  []bool                                 // by page: it is part of the tree or the freelist
	read  func(n int64)                          // told how many bytes were read; never nil
	bad   func(d Damage)                         // told of each damaged part; never nil
	hurt  bool                                   // bad was told something
	pair  func(bucket string, k, v []byte) error // told of each pair, in order; never nil
}

func (p *pager) report(d Damage) {
	p.hurt = true
	p.bad(d)
}

// open reads both meta pages and chooses the later. One that is invalid is
// damage even when the other is not: it may be the one that the last
// transaction wrote, and then that transaction would vanish without a word.
func (p *pager) open() error {
	if p.size < 4*pageSize {
		return Damage{What: fmt.Sprintf("the file has %d bytes, a journal at least %d", p.size, 4*pageSize)}
	}
	var valid []boltMeta
	for id := range uint64(2) {
		m, err := p.readMeta(id)
		if err != nil {
			p.report(Damage{What: fmt.Sprintf("meta page %d: %s; the last transaction may be missing", id, err)})
			continue
		}
		valid = append(valid, m)
	}
	if len(valid) == 0 {
		return Damage{What: "both meta pages are invalid"}
	}
	p.meta = valid[0]
	if len(valid) == 2 && valid[1].txid > valid[0].txid {
		p.meta = valid[1]
	}
	if int64(p.meta.high) > p.size/pageSize {
		p.report(Damage{What: fmt.Sprintf("the file ends at page %d of %d: it was cut off", p.size/pageSize, p.meta.high)})
	}
	p.seen = make([]bool, min(int64(p.meta.high), p.size/pageSize))
	return nil
}

func (p *pager) readMeta(id uint64) (boltMeta, error) {
	var page [pageSize]byte
	if _, err := p.r.ReadAt(page[:], int64(id)*pageSize); err != nil {
		return boltMeta{}, err
	}
	p.read(pageSize)
	m := page[pageHeaderSize:]
	h := fnv.New64a()
	h.Write(m[:metaSumAt])
	switch {
	case native.Uint64(page[:]) != id || native.Uint16(page[8:])&flagMeta == 0:
		return boltMeta{}, fmt.Errorf("is another page")
	case native.Uint32(m) != boltMagic:
		return boltMeta{}, fmt.Errorf("magic is %08x", native.Uint32(m))
	case native.Uint32(m[4:]) != boltVersion:
		return boltMeta{}, fmt.Errorf("bbolt version %d", native.Uint32(m[4:]))
	case native.Uint64(m[metaSumAt:]) != h.Sum64():
		return boltMeta{}, fmt.Errorf("checksum is wrong")
	case native.Uint32(m[8:]) != pageSize:
		return boltMeta{}, fmt.Errorf("page size is %d", native.Uint32(m[8:]))
	}
	return boltMeta{
		root:     native.Uint64(m[16:]),
		freelist: native.Uint64(m[32:]),
		high:     native.Uint64(m[40:]),
		txid:     native.Uint64(m[48:]),
	}, nil
}

// page is a page's content, header included.
type page struct {
	id   uint64
	data []byte
}

func (p page) flags() uint16 { return native.Uint16(p.data[8:]) }
func (p page) count() int    { return int(native.Uint16(p.data[10:])) }

// buffer returns a page that nobody uses any more, or a new one.
func (p *pager) buffer() []byte {
	n := len(p.spare)
	if n == 0 {
		return make([]byte, pageSize)
	}
	b := p.spare[n-1]
	p.spare = p.spare[:n-1]
	return b
}

// done gives a page back. Nothing that shares its memory may be used after.
func (p *pager) done(pg page) {
	if len(pg.data) == pageSize {
		p.spare = append(p.spare, pg.data)
	}
}

// load reads a page with its overflow, and marks it as seen.
func (p *pager) load(id uint64) (page, error) {
	if id < 2 || id >= uint64(len(p.seen)) {
		return page{}, fmt.Errorf("page %d is not within the file", id)
	}
	if p.seen[id] {
		return page{}, fmt.Errorf("page %d is there twice", id)
	}
	data := p.buffer()
	if _, err := p.r.ReadAt(data, int64(id)*pageSize); err != nil {
		return page{}, fmt.Errorf("page %d: %w", id, err)
	}
	p.seen[id] = true
	n := uint64(native.Uint32(data[12:])) + 1
	switch {
	case native.Uint64(data) != id:
		return page{}, fmt.Errorf("page %d says it is page %d", id, native.Uint64(data))
	case n > uint64(len(p.seen))-id:
		return page{}, fmt.Errorf("page %d is %d pages long, which is beyond the end", id, n)
	}
	for i := id + 1; i < id+n; i++ {
		if p.seen[i] {
			return page{}, fmt.Errorf("page %d is there twice", i)
		}
		p.seen[i] = true
	}
	if n > 1 {
		data = append(make([]byte, 0, n*pageSize), data...)[:n*pageSize]
		if _, err := p.r.ReadAt(data[pageSize:], int64(id+1)*pageSize); err != nil {
			return page{}, fmt.Errorf("page %d: %w", id, err)
		}
	}
	p.read(int64(n) * pageSize)
	return page{id: id, data: data}, nil
}

// element is one of a branch or a leaf.
type element struct {
	flags    uint32
	key, val []byte // val of a leaf
	child    uint64 // of a branch
}

// elements returns what a branch or a leaf holds; keys and values share its
// memory. Keys are in order, and within what its parent says: least ≤ key, and
// key < most unless most is nil.
func (p page) elements(least, most []byte) ([]element, error) {
	n := p.count()
	if pageHeaderSize+n*elementSize > len(p.data) {
		return nil, fmt.Errorf("page %d: %d elements do not fit", p.id, n)
	}
	all := make([]element, n)
	for i := range all {
		at := pageHeaderSize + i*elementSize
		e := p.data[at:]
		var pos, ksize, vsize uint64
		if p.flags() == flagBranch {
			pos, ksize = uint64(native.Uint32(e)), uint64(native.Uint32(e[4:]))
			all[i].child = native.Uint64(e[8:])
		} else {
			all[i].flags = native.Uint32(e)
			pos, ksize, vsize = uint64(native.Uint32(e[4:])), uint64(native.Uint32(e[8:])), uint64(native.Uint32(e[12:]))
		}
		from := uint64(at) + pos
		if from+ksize+vsize > uint64(len(p.data)) || pos < uint64((n-i)*elementSize) {
			return nil, fmt.Errorf("page %d: element %d is beyond the end", p.id, i)
		}
		all[i].key = p.data[from : from+ksize : from+ksize]
		all[i].val = p.data[from+ksize : from+ksize+vsize : from+ksize+vsize]
		if ksize == 0 || bytes.Compare(all[i].key, least) < 0 || i > 0 && bytes.Equal(all[i].key, least) ||
			most != nil && bytes.Compare(all[i].key, most) >= 0 {
			return nil, fmt.Errorf("page %d: element %d is out of order", p.id, i)
		}
		least = all[i].key
	}
	return all, nil
}

// walk visits every pair of every bucket, then checks the freelist. A damaged
// page is reported and passed over. The error is that of pair.
func (p *pager) walk() error {
	if err := p.tree("", p.meta.root, nil, nil, 0); err != nil {
		return err
	}
	p.freelist()
	return nil
}

// tree visits the pairs below a page of a bucket; the root's name is "".
func (p *pager) tree(bucket string, id uint64, least, most []byte, depth int) error {
	pg, err := p.load(id)
	if err == nil && depth > maxDepth {
		err = fmt.Errorf("page %d is too deep", id)
	}
	if err != nil {
		p.report(lost(bucket, least, most, err))
		return nil
	}
	err = p.node(bucket, pg, least, most, depth)
	p.done(pg)
	return err
}

func (p *pager) node(bucket string, pg page, least, most []byte, depth int) error {
	if f := pg.flags(); f != flagBranch && f != flagLeaf {
		p.report(lost(bucket, least, most, fmt.Errorf("page %d has flags %#x", pg.id, f)))
		return nil
	}
	all, err := pg.elements(least, most)
	if err != nil {
		p.report(lost(bucket, least, most, err))
		return nil
	}
	if len(all) == 0 && depth > 0 {
		p.report(lost(bucket, least, most, fmt.Errorf("page %d is empty", pg.id)))
	}
	for i, e := range all {
		switch {
		case pg.flags() == flagBranch:
			next := most
			if i+1 < len(all) {
				next = all[i+1].key
			}
			err = p.tree(bucket, e.child, e.key, next, depth+1)
		case e.flags == flagBucket && bucket == "":
			err = p.bucket(string(e.key), e.val)
		case e.flags != 0 || bucket == "":
			p.report(lost(bucket, e.key, most, fmt.Errorf("page %d: element %d has flags %#x", pg.id, i, e.flags)))
		default:
			err = p.pair(bucket, e.key, e.val)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// bucket visits a bucket's pairs. A small one is inline, in the value itself.
func (p *pager) bucket(name string, v []byte) error {
	if len(v) < bucketSize {
		p.report(Damage{What: fmt.Sprintf("bucket %q is cut off", name)})
		return nil
	}
	if root := native.Uint64(v); root != 0 {
		return p.tree(name, root, nil, nil, 0)
	}
	inline := page{data: v[bucketSize:]}
	if len(inline.data) < pageHeaderSize || inline.flags() != flagLeaf {
		p.report(Damage{What: fmt.Sprintf("bucket %q is no leaf", name)})
		return nil
	}
	return p.node(name, inline, nil, nil, 0)
}

// freelist checks that every page is either in use or free, and never both:
// bbolt would write over a page that is wrongly said to be free.
func (p *pager) freelist() {
	if p.meta.freelist == noFreelist {
		return
	}
	pg, err := p.load(p.meta.freelist)
	if err != nil {
		p.report(Damage{What: "the list of free pages: " + err.Error()})
		return
	}
	n, ids := uint64(pg.count()), pg.data[pageHeaderSize:]
	if n == 0xFFFF { // the count did not fit and is the first number
		n, ids = native.Uint64(ids), ids[8:]
	}
	if pg.flags() != flagFreelist || n > uint64(len(ids)/8) {
		p.report(Damage{What: fmt.Sprintf("the list of free pages: page %d has flags %#x and %d numbers", pg.id, pg.flags(), n)})
		return
	}
	for i := range n {
		id := native.Uint64(ids[8*i:])
		if id < 2 || id >= uint64(len(p.seen)) || p.seen[id] {
			p.report(Damage{What: fmt.Sprintf("the list of free pages: page %d is in use or not there", id)})
			continue
		}
		p.seen[id] = true
	}
	for id := 2; id < len(p.seen) && !p.hurt; id++ { // what hangs below a damaged page is not accounted for
		if !p.seen[id] {
			p.report(Damage{What: fmt.Sprintf("page %d is neither in use nor free", id)})
		}
	}
}

// lost describes a part of a bucket that cannot be read: the events between two
// keys, where it is the events'.
func lost(bucket string, least, most []byte, err error) Damage {
	d := Damage{What: err.Error()}
	if bucket != bucketEvents {
		if bucket != "" {
			d.What = bucket + ": " + d.What
		}
		return d
	}
	if from, err := parseKey(least); err == nil {
		d.First = from
	} else {
		d.First = 1
	}
	if to, err := parseKey(most); err == nil && to > d.First {
		d.Last = to - 1
	}
	return d
}
