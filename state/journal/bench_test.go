package journal_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/state/journal"
)

// BenchmarkAppend measures appends of one registration and of 64 in a batch.
// The baselines write the same number of bytes to a file and sync it once or
// twice. delay is added to each sync, for a slower disk.
func BenchmarkAppend(b *testing.B) {
	for _, batch := range []int{1, 64} {
		var bodies []state.Body
		for n := range batch {
			bodies = append(bodies, registered(uint32(n)+1))
		}
		for _, delay := range []time.Duration{0, 2 * time.Millisecond} {
			name := fmt.Sprintf("batch=%d/delay=%s", batch, delay)
			for syncs := 1; syncs <= 2; syncs++ {
				b.Run(fmt.Sprintf("%s/bare-%d-sync", name, syncs), func(b *testing.B) { bareAppend(b, batch*450, syncs, delay) })
			}
			b.Run(name+"/journal", func(b *testing.B) {
				// A commit syncs twice; the delay of both is before it.
				opts := journal.Options{Fault: func() error { time.Sleep(2 * delay); return nil }}
				j, _, err := journal.Open(context.Background(), b.TempDir(), opts)
				if err != nil {
					b.Fatal(err)
				}
				defer j.Close()
				for b.Loop() {
					mustAppend(b, j, bodies...)
				}
			})
		}
	}
}

func bareAppend(b *testing.B, size, syncs int, delay time.Duration) {
	f, err := os.Create(filepath.Join(b.TempDir(), "bare"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	data := make([]byte, size)
	for b.Loop() {
		for i := range syncs {
			part := data[i*len(data)/syncs : (i+1)*len(data)/syncs]
			if _, err := f.Write(part); err != nil {
				b.Fatal(err)
			}
			if err := syscall.Fdatasync(int(f.Fd())); err != nil {
				b.Fatal(err)
			}
			time.Sleep(delay)
		}
	}
}

// BenchmarkOpen opens a journal of 10,000 proxies and 100,000 events, as it is
// after a graceful stop, after a crash, and without any snapshot.
func BenchmarkOpen(b *testing.B) {
	const proxies, events = 10_000, 100_000
	for _, tail := range []int{0, 10_000, events} {
		b.Run(fmt.Sprintf("tail=%d", tail), func(b *testing.B) {
			dir := b.TempDir()
			fill(b, dir, proxies, events, events-tail)
			for b.Loop() {
				j, s, err := journal.Open(context.Background(), dir, journal.Options{})
				if err != nil {
					b.Fatal(err)
				}
				if len(s.Proxies) != proxies || s.Seq != events {
					b.Fatalf("%d proxies at event %d", len(s.Proxies), s.Seq)
				}
				b.StopTimer()
				j.Close()
				b.StartTimer()
			}
			j, s, err := journal.Open(context.Background(), dir, journal.Options{})
			if err != nil {
				b.Fatal(err)
			}
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			b.ReportMetric(float64(m.HeapInuse)/1e6, "heap-MB")
			b.ReportMetric(float64(j.Stats().Bytes)/1e6, "file-MB")
			runtime.KeepAlive(s)
			j.Close()
		})
	}
}

// fill makes a journal of that many proxies and events, with one snapshot at an
// event (0: none).
func fill(b *testing.B, dir string, proxies, events, snapshotAt int) {
	b.Helper()
	j, s, err := journal.Open(context.Background(), dir, journal.Options{NoSync: true})
	if err != nil {
		b.Fatal(err)
	}
	defer j.Close()
	for n := 0; n < events; {
		var bodies []state.Body
		for range 500 {
			if n++; n <= proxies {
				bodies = append(bodies, registered(uint32(n)))
			} else {
				bodies = append(bodies, placed(uint32(n%proxies)+1, state.PlaceRebalance))
			}
		}
		for _, e := range mustAppend(b, j, bodies...) {
			s = state.Fold(s, e)
		}
		if n == snapshotAt {
			if err := j.Snapshot(s); err != nil {
				b.Fatal(err)
			}
		}
	}
}
