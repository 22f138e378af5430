package registry

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/lictor-mesh/lictor/state"
)

func request(id string) Request {
	return Request{
		ID: id, Node: "node-1", Namespace: "default",
		Owner: state.Owner{Kind: state.OwnerNetns, ID: 7000, Inode: 4026531841, BootID: "boot-1"},
	}
}

// specs lists servers named s1 to s9, with addresses and ports that follow.
func specs(names ...string) []state.ServerSpec {
	out := []state.ServerSpec{}
	for _, name := range names {
		n := name[1] - '0'
		out = append(out, state.ServerSpec{
			ID: name, Port: 8500 + uint16(n), Version: "1.20.1",
			Addr4: netip.AddrFrom4([4]byte{10, 0, 0, n}), Addr6: netip.MustParseAddr(fmt.Sprintf("fd00::%d", n)),
		})
	}
	return out
}

func names(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("proxy-%d", i)
	}
	return out
}

// observer counts what it is told.
type observer struct {
	mu      sync.Mutex
	placed  map[state.PlaceReason]int
	appends int
}

func (o *observer) JournalAppended(time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.appends++
}

func (o *observer) Reconciled(time.Duration) {}

func (o *observer) Placed(why state.PlaceReason) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.placed[why]++
}

func (o *observer) count(why state.PlaceReason) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.placed[why]
}

// buffer is a log that tests read.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// count says how often a text was logged.
func (b *buffer) count(text string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Count(b.b.String(), text)
}
