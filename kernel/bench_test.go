package kernel

import (
	"net/netip"
	"os"
	"testing"
	"time"
)

// BenchmarkConnect times connect and close on the loopback: without the hook,
// with it to an address that is no VIP's, and to a VIP, in turns, so that all
// see the same machine. Compare them with each other only.
func BenchmarkConnect(b *testing.B) {
	r := newRigDetached(b, neverBounced)
	s := r.serve(1, "127.0.0.1:0", hangUp)
	r.put(vip4, s.Backend)
	var spent [3]time.Duration
	const round = 200
	for b.Loop() {
		for i, c := range []struct {
			attached bool
			to       netip.AddrPort
		}{{false, s.Addr}, {true, s.Addr}, {true, vip4}} {
			if c.attached && i == 1 {
				must(0, r.k.Attach(b.Context()))
			}
			err := r.ns.Do(func() error {
				start := time.Now()
				for range round {
					if err := connectTo(c.to, nil); err != nil {
						return err
					}
				}
				spent[i] += time.Since(start)
				return nil
			})
			if err != nil {
				b.Fatal(err)
			}
		}
		r.detach()
	}
	n := float64(b.N * round)
	for i, name := range []string{"bare-ns/connect", "unrelated-ns/connect", "vip-ns/connect"} {
		b.ReportMetric(float64(spent[i])/n, name)
	}
}

// detach takes the hook out of effect until the next Attach.
func (r *rig) detach() {
	for _, h := range hooks {
		must(0, os.Remove(r.k.pins.linkPath(h.name)))
	}
}
