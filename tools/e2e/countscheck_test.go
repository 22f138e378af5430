package e2e

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/kernel"
)

// eventRecord is what an event takes in the ring: a header and the event.
const eventRecord = 8 + 128

// countsKernel reads the pinned maps as anybody with the right can, so that the
// daemon's reading of them is under test too.
type countsKernel struct {
	*world
	servers, reasons   *ebpf.Map
	member             []string // of a server's counters, in order
	slots              map[netip.AddrPort]uint32
	consumed, produced []byte // the pages of the ring that hold its positions
}

func openCountsKernel(w *world) *countsKernel {
	w.Helper()
	open := func(name string) *ebpf.Map {
		paths := w.pins(name + "_v*")
		if len(paths) != 1 {
			w.Fatalf("pinned maps %s: %v, want one", name, paths)
		}
		m, err := ebpf.LoadPinnedMap(paths[0], nil)
		w.must(err)
		return m
	}
	k := &countsKernel{world: w, servers: open("server_counters"), reasons: open("reasons"), slots: map[netip.AddrPort]uint32{}}
	w.Cleanup(func() { _, _ = k.servers.Close(), k.reasons.Close() })
	handle, err := k.servers.Handle()
	w.must(err)
	defer handle.Close()
	spec, err := handle.Spec(nil)
	w.must(err)
	var counters *btf.Struct
	w.must(spec.TypeByName("counters", &counters))
	for i, m := range counters.Members {
		if m.Offset.Bytes() != uint32(8*i) {
			w.Fatalf("member %s of counters is at %d, not a list of 64-bit words", m.Name, m.Offset.Bytes())
		}
		k.member = append(k.member, m.Name)
	}
	vips := w.openVIPs()
	size := int(vips.value["ranked"].Type.(*btf.Array).Type.(*btf.Struct).Size)
	for _, v := range vips.entries() {
		ranked := v[vips.value["ranked"].Offset.Bytes():]
		for i := range int(*vips.byte8(v, "n")) {
			b := ranked[i*size:] // address, port, slot
			at := netip.AddrPortFrom(netip.AddrFrom16([16]byte(b)).Unmap(), binary.BigEndian.Uint16(b[16:]))
			k.slots[at] = uint32(binary.NativeEndian.Uint16(b[18:]))
		}
	}
	ring := open("events")
	defer ring.Close()
	page := os.Getpagesize()
	k.consumed, err = unix.Mmap(ring.FD(), 0, page, unix.PROT_READ, unix.MAP_SHARED)
	w.must(err)
	k.produced, err = unix.Mmap(ring.FD(), int64(page), page, unix.PROT_READ, unix.MAP_SHARED)
	w.must(err)
	w.Cleanup(func() { _, _ = unix.Munmap(k.consumed), unix.Munmap(k.produced) })
	return k
}

// server gives a server's counters by name.
func (k *countsKernel) server(slot uint32) map[string]uint64 {
	k.Helper()
	var cpus [][8]uint64
	k.must(k.servers.Lookup(slot, &cpus))
	sum := map[string]uint64{}
	for _, words := range cpus {
		for i, name := range k.member {
			sum[name] += words[i]
		}
	}
	return sum
}

func (k *countsKernel) reason(r kernel.Reason) (n uint64) {
	k.Helper()
	var cpus []uint64
	k.must(k.reasons.Lookup(uint32(r), &cpus))
	for _, c := range cpus {
		n += c
	}
	return n
}

func (k *countsKernel) dropped() uint64 { return k.reason(kernel.ReasonRingDropped) }

// connects counts all that were made to addresses of the pools.
func (k *countsKernel) connects() (n uint64) {
	for _, slot := range k.slots {
		n += k.server(slot)["redirected"]
	}
	for r := kernel.ReasonStranger; r.Denies(); r++ {
		n += k.reason(r)
	}
	return n
}

// events gives the numbers of events that were read, and that were written.
func (k *countsKernel) events() (read, written uint64) {
	return binary.NativeEndian.Uint64(k.consumed) / eventRecord, binary.NativeEndian.Uint64(k.produced) / eventRecord
}

// check compares the tally with the kernel's counters, and these with the
// metrics and the API, until they agree or do not in the end.
func (c *counts) check() {
	c.Helper()
	c.eventually(20*time.Second, func() error {
		if err := c.compareServers(); err != nil {
			return err
		}
		for r := kernel.ReasonStranger; r <= kernel.ReasonElsewhere; r++ {
			if err := expect("kernel's count of "+r.String(), c.kernel.reason(r), c.tally.Denied[r.String()]); err != nil {
				return err
			}
			if !r.Denies() {
				continue
			}
			if err := expect("metric of "+r.String(), c.count("lictor_denied_total{reason=%q}", r), c.kernel.reason(r)); err != nil {
				return err
			}
		}
		dropped := c.kernel.dropped()
		read, written := c.kernel.events()
		for _, err := range []error{
			expect("metric of dropped events", c.count("lictor_ring_events_dropped_total"), dropped),
			expect("number of events written and dropped", written+dropped, c.tally.events()),
			expect("number of events read", read, written),
		} {
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// count is the value of a metric.
func (c *counts) count(format string, args ...any) uint64 {
	return uint64(c.metric(fmt.Sprintf(format, args...)))
}

func (c *counts) compareServers() error {
	client := c.lictor.Client()
	defer client.Close()
	list, err := client.Servers(c.ctx)
	if err != nil {
		return err
	}
	api := map[string]v1.Server{}
	for _, s := range list {
		api[s.ID] = s
	}
	for addr, id := range c.ids {
		k := c.kernel.server(c.kernel.slots[countsAt(addr)])
		if err := c.compareTally(addr, k); err != nil {
			return fmt.Errorf("server %s: %w", addr, err)
		}
		s := api[id]
		local := k["redirected"] - k["attempted"]
		for what, n := range map[string][3]uint64{ // kernel, API, metric
			"established":  {k["established"], s.Established, c.result(id, "established")},
			"failed":       {k["failed"], s.Failed, c.result(id, "failed")},
			"failed_local": {local, s.FailedLocal, c.result(id, "failed_local")},
			"bounced":      {k["bounced"], s.Bounced, c.result(id, "bounced")},
			"active":       {0, s.Active, c.count("lictor_server_connections_active{server=%q,service=\"xds\"}", id)},
			"received":     {k["bytes_in"], s.BytesIn, c.count("lictor_server_bytes_total{direction=\"received\",server=%q}", id)},
			"sent":         {k["bytes_out"], s.BytesOut, c.count("lictor_server_bytes_total{direction=\"sent\",server=%q}", id)},
			"took":         {k["established"], k["established"], c.count("lictor_server_connect_seconds_count{server=%q}", id)},
		} {
			if n[0] != n[1] || n[0] != n[2] {
				return fmt.Errorf("server %s, %s: %d in the kernel, %d in the API, %d in the metrics", addr, what, n[0], n[1], n[2])
			}
		}
	}
	return nil
}

func (c *counts) result(id, result string) uint64 {
	return c.count("lictor_server_connections_total{result=%q,server=%q,service=\"xds\"}", result, id)
}

// compareTally compares what the mob saw of a server with the kernel's counters.
func (c *counts) compareTally(addr string, k map[string]uint64) error {
	from := addr
	if addr == countsSilent {
		from = countsSilentFrom
	}
	want := *c.tally.server(netip.MustParseAddr(from))
	if addr == countsUnreachable {
		want.Redirected = c.tally.local()
	}
	for what, n := range map[string]uint64{
		"redirected": want.Redirected, "attempted": want.Attempted, "established": want.Established,
		"failed": want.Failed, "closed": want.Established,
	} {
		if err := expect(what, k[what], n); err != nil {
			return err
		}
	}
	// One that took longer than the window, on a machine that stood still, is no bounce.
	if k["bounced"] > want.Bounced || k["bounced"]+c.tally.Slow < want.Bounced {
		return fmt.Errorf("bounced is %d, not %d", k["bounced"], want.Bounced)
	}
	if addr == countsHangup {
		return nil // whether it had our byte before it hung up is not known
	}
	if err := expect("bytes received", k["bytes_in"], want.In); err != nil {
		return err
	}
	return expect("bytes sent", k["bytes_out"], want.Out)
}

// checkServers ends the servers and compares what they accepted.
func (c *counts) checkServers() {
	c.Helper()
	c.must(c.stdin.Close())
	var accepted map[netip.AddrPort]uint64
	c.must(c.said.Decode(&accepted))
	c.must(c.servers.Wait(c.ctx))
	if len(accepted) != len(countsServe)+1 {
		c.Errorf("%d servers say what they accepted", len(accepted))
	}
	for at, n := range accepted {
		if err := expect(fmt.Sprintf("what %v accepted", at), n, c.tally.server(at.Addr()).Established); err != nil {
			c.Error(err)
		}
	}
}

// follower follows connections.
type follower struct {
	*counts
	mu            sync.Mutex
	seen, dropped uint64
}

func (f *follower) total() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen + f.dropped
}

// reset begins to count anew.
func (f *follower) reset() *follower {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen, f.dropped = 0, 0
	return f
}

// follow starts to follow, and returns when that is in effect and nothing is
// under way.
func (c *counts) follow() *follower {
	c.Helper()
	f := &follower{counts: c}
	ctx, cancel := context.WithCancel(c.ctx)
	client := c.lictor.Client()
	ended := make(chan error)
	go func() {
		ended <- client.Connections(ctx, func(e v1.ConnectionEvent) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			if e.Kind == v1.ConnectionsDropped {
				f.dropped += e.Dropped
			} else {
				f.seen++
			}
			return nil
		})
	}()
	c.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil && !strings.Contains(err.Error(), context.Canceled.Error()) {
			c.Error(err)
		}
		client.Close()
	})
	for range 10 {
		before := c.tally.events()
		f.tick()
		for range 100 {
			if f.total() == c.tally.events()-before {
				return f.reset()
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	c.Fatalf("the follower saw %d events of %d", f.total(), c.tally.events())
	return nil
}

// tick connects once.
func (f *follower) tick() {
	f.Helper()
	f.end(f.start(1))
}

// check waits until the follower has been told of all events since there were
// that many. What the kernel dropped is told with an event, once a second.
func (f *follower) check(before uint64) {
	f.Helper()
	f.eventually(30*time.Second, func() error {
		time.Sleep(1100 * time.Millisecond)
		f.tick()
		time.Sleep(300 * time.Millisecond)
		return expect("what the follower saw and missed", f.total(), f.tally.events()-before)
	})
}
