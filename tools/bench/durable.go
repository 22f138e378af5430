package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/state/journal"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// A registration is two events, the promise and the placement, which take this
// many bytes in the journal.
const registrationBytes = 450

// durableRounds is how often each variant is timed, in turn.
const durableRounds = 150

// slowSync is what each sync takes longer on the slow disk.
const slowSync = 2 * time.Millisecond

// benchDurable compares commits of registrations with bare appends of as many
// bytes and one sync, or two: what bbolt needs to tell a whole commit from half
// a one.
func benchDurable(ctx context.Context, b *bed.Bed, r *report) (err error) {
	dir, err := os.MkdirTemp("", "lictor-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	for _, c := range []struct {
		callers int
		slow    time.Duration
	}{{1, 0}, {64, 0}, {1, slowSync}, {64, slowSync}} {
		took, err := commits(ctx, filepath.Join(dir, fmt.Sprint(c.callers, c.slow)), c.callers, c.slow, r)
		if err != nil {
			return err
		}
		name := fmt.Sprintf("journal, %d at once, ", c.callers)
		if c.slow > 0 {
			name += "syncs 2 ms slower, "
		}
		one, two := bootstrap(ratios(took["one-sync"], took["journal"])), bootstrap(ratios(took["two-syncs"], took["journal"]))
		switch {
		case c.callers == 1 && c.slow == 0:
			r.add(
				row{what: "append and one fdatasync, 450 bytes", unit: "us", got: bootstrap(took["one-sync"])},
				row{what: name + "time by that of it", unit: "x", wanted: 2.5, got: bootstrap(ratios(took["journal"], took["one-sync"]))})
		case c.slow == 0:
			r.add(row{what: name + "rate by that of one sync", unit: "x", wanted: 0.5, least: true, got: one})
		default:
			r.add(row{what: name + "rate by that of two", unit: "x", wanted: 0.9, least: true, got: two})
		}
	}
	return nil
}

// commits times bare appends and the journal's in turn, in microseconds.
func commits(ctx context.Context, dir string, callers int, slow time.Duration, r *report) (_ map[string][]float64, err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	bare, err := os.Create(filepath.Join(dir, "bare"))
	if err != nil {
		return nil, err
	}
	defer bare.Close()
	// A commit syncs twice; the delay of both is before it.
	j, _, err := journal.Open(ctx, dir, journal.Options{Fault: func() error { time.Sleep(2 * slow); return nil }})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, j.Close()) }()
	n := uint32(0)
	variants := []struct {
		name string
		do   func() error
	}{
		{"one-sync", func() error { return bareAppend(bare, callers*registrationBytes, 1, slow) }},
		{"two-syncs", func() error { return bareAppend(bare, callers*registrationBytes, 2, slow) }},
		{"journal", func() error {
			var bodies []state.Body
			for range callers {
				n++
				bodies = append(bodies, registration(n)...)
			}
			_, err := j.Append(bodies...)
			return err
		}},
	}
	took := map[string][]float64{}
	for round := range durableRounds {
		for i := range variants {
			v := variants[(round+i)%len(variants)]
			started := time.Now()
			if err := v.do(); err != nil {
				return nil, fmt.Errorf("%s: %w", v.name, err)
			}
			us := float64(time.Since(started).Nanoseconds()) / 1000
			took[v.name] = append(took[v.name], us)
			r.sample(fmt.Sprintf("Durable/callers=%d/slow=%v/%s", callers, slow, v.name), 1, us*1000)
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return took, nil
}

func bareAppend(f *os.File, size, syncs int, slow time.Duration) error {
	part := make([]byte, size/syncs)
	for range syncs {
		if _, err := f.Write(part); err != nil {
			return err
		}
		time.Sleep(slow)
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return err
		}
	}
	return nil
}

// registration is what lictord journals for a new proxy.
func registration(n uint32) []state.Body {
	id := fmt.Sprintf("web-%d-sidecar-proxy", n)
	return []state.Body{
		state.ProxyRegistered{Proxy: state.Registration{
			ID: id, Node: "node-virtual", Namespace: "default", Owner: state.Owner{Kind: state.OwnerAny},
			Index: n, VIP: netip.AddrFrom4([4]byte{239, 77, byte(n >> 8), byte(n)}),
		}},
		state.Placed{ID: id, Ranked: []string{"server-1", "server-2", "server-3"}, Reason: state.PlaceInitial},
	}
}
