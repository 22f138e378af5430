package fleet

import (
	"testing"
	"unicode"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/daemon/catalog"
)

// Whoever may write to Consul's KV store writes what this reads: what comes of it
// is fit for the journal and for a terminal, or is passed over.
func FuzzKeys(f *testing.F) {
	f.Add(DrainPrefix+"consul-2", []byte(`{"by":"uid 0 on host-1","since":"2026-03-01T12:00:00Z"}`))
	f.Add(DrainPrefix, []byte(nil))
	f.Add(DrainPrefix+"../x", []byte(`{"by":"\u001b[31m\u202e"}`))
	f.Add(HostPrefix+"host-1", []byte(`{"node":"other","reported_at":"2026-03-01T12:00:00Z","servers":[{"id":"consul-1"}]}`))
	f.Add(DrainPrefix+"x", []byte(`{"by":"\u001b"}`))
	f.Add(HostPrefix, []byte("[]"))
	m := newManager("a", newHost(), newStore())
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		pair := catalog.KVPair{Key: key, Value: value}
		for id, d := range parseDrains([]catalog.KVPair{pair}) {
			if err := v1.CheckID("server", id); err != nil || key != DrainPrefix+id || d.Server != id {
				t.Errorf("%q is a drain of %q: %v", key, id, err)
			}
			if d.By == "" || len(d.By) > maxBy {
				t.Errorf("by is %d bytes: %q", len(d.By), d.By)
			}
			for _, r := range d.By {
				if !unicode.IsPrint(r) {
					t.Errorf("by has %q", r)
				}
			}
		}
		if h, ok := m.parseHost(pair); ok && key != HostPrefix+h.Node {
			t.Errorf("%q is a report of %q", key, h.Node)
		}
	})
}
