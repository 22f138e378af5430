package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/state/journal"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

const (
	journaled = 100_000
	restarts  = 7
	scrapes   = 200
)

// benchHost restarts a real lictord with as many proxies as an issue of ours
// asks for, and looks at its memory and its scrapes.
func benchHost(ctx context.Context, b *bed.Bed, r *report) error {
	for _, c := range []struct {
		proxies int
		memory  float64 // wanted, MB
		journal int     // events
	}{{110, 32, 0}, {10_000, 48, journaled}} {
		if err := benchProxies(ctx, b, r, c.proxies, c.memory, c.journal); err != nil {
			return fmt.Errorf("%d proxies: %w", c.proxies, err)
		}
	}
	return nil
}

func benchProxies(ctx context.Context, b *bed.Bed, r *report, proxies int, memory float64, events int) (err error) {
	host, err := b.NewHost(fmt.Sprintf("host-%d", proxies))
	if err != nil {
		return err
	}
	// Servers that nobody connects to.
	l, err := host.StartLictor(bed.LictorOptions{Args: []string{
		"--server-watch-disabled", "--consul-grpc-port=8502", "--consul-addresses=10.77.0.1,10.77.0.2,10.77.0.3",
	}})
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, l.Kill(), kernel.Unload(filepath.Join(host.BPFFS, "lictor")), host.Remove())
	}()
	if err := l.WaitReady(ctx); err != nil {
		return err
	}
	began := time.Now()
	if err := registerAll(ctx, l, proxies); err != nil {
		return err
	}
	rate := float64(proxies) / time.Since(began).Seconds()
	name := fmt.Sprintf("%d proxies: ", proxies)
	commits, err := commitsOf(ctx, l)
	if err != nil {
		return err
	}
	r.add(row{
		what: name + "registrations by the API, 64 callers", unit: "/s", got: estimate{at: rate},
		note: fmt.Sprintf("%.1f a commit, which syncs twice: %.2f syncs each", float64(proxies)/commits, 2*commits/float64(proxies)),
	})
	if events > 0 {
		if err := l.Term(ctx); err != nil {
			return err
		}
		if err := lengthen(ctx, l.State, events); err != nil {
			return err
		}
	}
	var crashed, booted []float64
	for range restarts {
		ms, err := restart(ctx, l, func() error { return nil })
		if err != nil {
			return err
		}
		crashed = append(crashed, ms)
		r.sample(fmt.Sprintf("Restart/proxies=%d/crash", proxies), 1, ms*1e6)
		if ms, err = restart(ctx, l, func() error { return kernel.Unload(filepath.Join(host.BPFFS, "lictor")) }); err != nil {
			return err
		}
		booted = append(booted, ms)
		r.sample(fmt.Sprintf("Restart/proxies=%d/boot", proxies), 1, ms*1e6)
	}
	var wanted float64
	if events > 0 {
		wanted = 500
	}
	r.add(
		row{what: name + "restart after kill -9, until reconciled", unit: "ms", wanted: wanted, got: bootstrap(crashed)},
		row{what: name + "the same, with all maps gone", unit: "ms", got: bootstrap(booted)})
	time.Sleep(time.Second) // for what goes on after the start
	if err := memoryOf(l.Process().PID(), name, memory, r); err != nil {
		return err
	}
	return scrape(ctx, l, name, r)
}

// registerAll registers proxies that anybody may use, 64 at a time.
func registerAll(ctx context.Context, l *bed.Lictor, n int) error {
	client := l.Client()
	defer client.Close()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(64)
	for i := range n {
		group.Go(func() error {
			_, err := client.Register(ctx, fmt.Sprintf("web-%d-sidecar-proxy", i), v1.RegisterRequest{Owner: "any"})
			return err
		})
	}
	return group.Wait()
}

// commitsOf is how often the daemon has made something durable.
func commitsOf(ctx context.Context, l *bed.Lictor) (float64, error) {
	page, err := l.Get(ctx, "/metrics")
	if err != nil {
		return 0, err
	}
	const series = "lictor_journal_append_seconds_count "
	for line := range strings.Lines(string(page)) {
		if n, ok := strings.CutPrefix(line, series); ok {
			return strconv.ParseFloat(strings.TrimSpace(n), 64)
		}
	}
	return 0, fmt.Errorf("no %sin /metrics", series)
}

// lengthen adds events that move nobody to a journal that no daemon has open,
// until it has that many, with snapshots when the daemon would take them.
func lengthen(ctx context.Context, dir string, events int) (err error) {
	j, s, err := journal.Open(ctx, dir, journal.Options{NoSync: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, j.Close()) }()
	ids := make([]string, 0, len(s.Proxies))
	for id := range s.Proxies {
		ids = append(ids, id)
	}
	for n := 0; s.Seq < uint64(events); {
		var bodies []state.Body
		for range 500 {
			id := ids[n%len(ids)]
			n++
			bodies = append(bodies, state.Placed{ID: id, Ranked: s.Proxies[id].Ranked, Reason: state.PlaceRebalance})
		}
		appended, err := j.Append(bodies...)
		if err != nil {
			return err
		}
		for _, e := range appended {
			s = state.Fold(s, e)
		}
		if j.SnapshotDue() {
			if err := j.Snapshot(s); err != nil {
				return err
			}
		}
	}
	return nil
}

// restart kills the daemon, and times the next from its first instruction until
// its API answers, which is after all was reconciled; in milliseconds.
func restart(ctx context.Context, l *bed.Lictor, between func() error) (float64, error) {
	if err := errors.Join(l.Kill(), between()); err != nil {
		return 0, err
	}
	client := l.Client()
	defer client.Close()
	started := time.Now()
	if err := l.Start(); err != nil {
		return 0, err
	}
	for {
		if _, err := client.Status(ctx); err == nil {
			return float64(time.Since(started).Microseconds()) / 1000, nil
		}
		if !l.Process().Alive() {
			return 0, fmt.Errorf("lictord ended: %s", l.Process().Tail(1000))
		}
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		time.Sleep(time.Millisecond)
	}
}

// memoryOf tells anonymous memory, pages of files and BPF maps apart. Pages of the
// ring of events are mapped into the process, twice over, but are those of a map.
func memoryOf(pid int, name string, wanted float64, r *report) error {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	m, err := residentOf(proc)
	if err != nil {
		return err
	}
	maps, err := mapBytes(proc)
	if err != nil {
		return err
	}
	mb := func(bytes uint64) estimate {
		at := float64(bytes) / 1e6
		return estimate{at: at, low: at, high: at}
	}
	r.add(
		row{what: name + "resident", unit: "MB", wanted: wanted, got: mb(m.all - m.maps)},
		row{what: "  of it anonymous", unit: "MB", got: mb(m.anonymous)},
		row{what: "  of it of files: program and journal", unit: "MB", got: mb(m.all - m.maps - m.anonymous)},
		row{what: "  beside it BPF maps", unit: "MB", got: mb(maps), note: "of the kernel, not of the process"},
	)
	return nil
}

// resident is a process's resident memory in bytes.
type resident struct {
	all, anonymous uint64
	maps           uint64 // of all: pages of BPF maps
}

// residentOf sums /proc/PID/smaps, proc_pid_smaps(5).
func residentOf(proc string) (m resident, err error) {
	text, err := os.ReadFile(filepath.Join(proc, "smaps"))
	if err != nil {
		return m, err
	}
	ofMap := false
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) > 1 && strings.Contains(f[0], "-") { // a mapping begins
			ofMap = strings.HasSuffix(strings.TrimSpace(line), "anon_inode:bpf-map")
			continue
		}
		if len(f) != 3 || f[2] != "kB" || f[0] != "Rss:" && f[0] != "Anonymous:" {
			continue
		}
		kB, err := strconv.ParseUint(f[1], 10, 64)
		if err != nil {
			return m, fmt.Errorf("%s: %w", line, err)
		}
		switch {
		case f[0] == "Anonymous:":
			m.anonymous += kB << 10
		case ofMap:
			m.maps += kB << 10
			fallthrough
		default:
			m.all += kB << 10
		}
	}
	return m, nil
}

// mapBytes sums the memory of the maps that a process has open, each once.
func mapBytes(proc string) (sum uint64, err error) {
	fds, err := os.ReadDir(filepath.Join(proc, "fdinfo"))
	if err != nil {
		return 0, err
	}
	seen := map[string]bool{}
	for _, fd := range fds {
		text, err := os.ReadFile(filepath.Join(proc, "fdinfo", fd.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue // closed meanwhile
		}
		if err != nil {
			return 0, err
		}
		values := map[string]string{}
		for line := range strings.Lines(string(text)) {
			if k, v, ok := strings.Cut(line, ":"); ok {
				values[k] = strings.TrimSpace(v)
			}
		}
		id := values["map_id"]
		if id == "" || seen[id] {
			continue
		}
		seen[id] = true
		n, err := strconv.ParseUint(values["memlock"], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("memory of map %s: %w", id, err)
		}
		sum += n
	}
	return sum, nil
}

// scrape times /metrics from outside, and what it costs lictord.
func scrape(ctx context.Context, l *bed.Lictor, name string, r *report) error {
	before, err := cpuTime(l.Process().PID())
	if err != nil {
		return err
	}
	var took []float64
	size := 0
	for range scrapes {
		started := time.Now()
		page, err := l.Get(ctx, "/metrics")
		if err != nil {
			return err
		}
		took, size = append(took, float64(time.Since(started).Microseconds())/1000), len(page)
		r.sample("Scrape/"+strings.Fields(name)[0], 1, took[len(took)-1]*1e6)
	}
	after, err := cpuTime(l.Process().PID())
	if err != nil {
		return err
	}
	r.add(
		row{what: name + "a scrape", unit: "ms", got: bootstrap(took), note: fmt.Sprintf("%d bytes", size)},
		row{what: "  lictord's own CPU time of it", unit: "ms", got: estimate{at: float64((after - before).Microseconds()) / 1000 / scrapes}})
	return nil
}

// cpuTime is what a process has used, all threads together.
func cpuTime(pid int) (time.Duration, error) {
	paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, err
		}
		var ns int64
		if _, err := fmt.Sscan(string(text), &ns); err != nil {
			return 0, err
		}
		sum += time.Duration(ns)
	}
	return sum, nil
}
