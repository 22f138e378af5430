package journal

import (
	"context"
	"errors"
	"os"
)

// eachLoosePair calls fn with every key and value of every page of a file that
// looks like a leaf, in use or not. It trusts nothing it reads; whether a pair
// is what it seems is for the caller to say, by its checksum.
func eachLoosePair(ctx context.Context, path string, fn func(k, v []byte)) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	pages := uint64(info.Size() / pageSize)
	head := make([]byte, pageSize)
	for id := uint64(2); id < pages; id++ {
		if id%1024 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if _, err := f.ReadAt(head, int64(id)*pageSize); err != nil {
			continue // a page that cannot be read is lost, the others are not
		}
		pg := page{id: id, data: head}
		n := uint64(native.Uint32(head[12:])) + 1
		if native.Uint64(head) != id || pg.flags() != flagLeaf || n > pages-id {
			continue
		}
		if n > 1 {
			pg.data = make([]byte, n*pageSize)
			if _, err := f.ReadAt(pg.data, int64(id)*pageSize); err != nil {
				continue
			}
		}
		pg.loosePairs(fn)
	}
	return nil
}

// loosePairs passes over elements that do not fit, and looks into buckets that
// are inline.
func (p page) loosePairs(fn func(k, v []byte)) {
	for i := range p.count() {
		at := pageHeaderSize + i*elementSize
		if at+elementSize > len(p.data) {
			return
		}
		e := p.data[at:]
		from := uint64(at) + uint64(native.Uint32(e[4:]))
		ksize, vsize := uint64(native.Uint32(e[8:])), uint64(native.Uint32(e[12:]))
		if from+ksize+vsize > uint64(len(p.data)) {
			continue
		}
		k, v := p.data[from:from+ksize], p.data[from+ksize:from+ksize+vsize]
		if native.Uint32(e) != flagBucket {
			fn(k, v)
			continue
		}
		inline := page{data: v[min(bucketSize, len(v)):]}
		if len(inline.data) >= pageHeaderSize && inline.flags() == flagLeaf {
			inline.loosePairs(fn)
		}
	}
}
