package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/lictor-mesh/lictor/kernel"
)

// asked notes of whom it was told.
type asked struct {
	mu   sync.Mutex
	told []string
}

func (a *asked) Bounced(id string, server netip.AddrPort) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.told = append(a.told, fmt.Sprintf("%s by %s", id, server))
}

// A server that sheds a whole host is asked once for each proxy, and a reader of
// the ring buffer waits for nobody.
func TestBounces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := netip.MustParseAddrPort("10.0.0.1:8502")
		other := netip.MustParseAddrPort("10.0.0.2:8502")
		b := newBounces()
		for range 5000 { // more than it holds, and nobody takes them
			b.add(kernel.Event{VIPSlot: 1, Server: server})
		}
		var to asked
		gate := make(chan error)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- b.run(ctx, func(context.Context) (map[uint32]string, error) {
				return map[uint32]string{1: "a", 2: "b"}, <-gate
			}, &to)
		}()
		gate <- nil
		synctest.Wait()
		for _, e := range []kernel.Event{
			{VIPSlot: 2, Server: server}, {VIPSlot: 2, Server: other}, {VIPSlot: 2, Server: server}, {VIPSlot: 9, Server: server},
		} {
			b.add(e)
		}
		// The first may have been taken by itself.
		for range 2 {
			select {
			case gate <- nil:
			default:
			}
			synctest.Wait()
		}
		to.mu.Lock()
		got := slices.Compact(slices.Sorted(slices.Values(to.told)))
		first := to.told[0]
		to.mu.Unlock()
		want := []string{"a by 10.0.0.1:8502", "b by 10.0.0.1:8502", "b by 10.0.0.2:8502"}
		if first != want[0] || !slices.Equal(got, want) || len(to.told) > 5 {
			t.Errorf("told %q", to.told)
		}
		cancel()
		go func() {
			select {
			case gate <- errors.New("stopping"):
			default:
			}
		}()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
