package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/tools/storm"
)

// sample is what is measured once a minute.
type sample struct {
	pid              int // of lictord
	anonKB           int
	threads          int
	descriptors      int
	proxies, entries int // as the API lists them, and in the kernel's map
	seq, oldest      uint64
	journalBytes     int64
	up, pods         int // pods with their configuration, of how many
	connects, failed int // to VIPs that stay, so far
	drift            uint64
	events           []string // what happened in this minute
}

func (s *soak) sample(ctx context.Context) sample {
	var m sample
	st, err := s.api.Status(ctx)
	if err != nil {
		s.check("status", err)
		return m
	}
	m.pid = s.lictor.Process().PID()
	m.anonKB, m.threads, m.descriptors, err = usage(m.pid)
	s.check("measure lictord", err)
	entries, err := storm.ReadPins(s.pins())
	s.check("read the kernel's map", err)
	m.entries, m.proxies = len(entries), st.Proxies.Total
	m.seq, m.oldest, m.journalBytes = st.Journal.Seq, st.Journal.Oldest, st.Journal.Bytes
	m.up, m.pods = s.pods.up()
	m.connects, m.failed = s.tally.sum.Connects, s.tally.sum.Connects-s.tally.sum.OK
	for _, n := range st.Drift {
		m.drift += n
	}
	if !st.Ready {
		s.check("ready", fmt.Errorf("problems: %q", st.Problems))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m.events, s.events = s.events, nil
	return m
}

// usage is what a process has: anonymous memory, threads, open files.
func usage(pid int) (anonKB, threads, descriptors int, err error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	text, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return 0, 0, 0, err
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "RssAnon:":
			anonKB, err = strconv.Atoi(fields[1])
		case "Threads:":
			threads, err = strconv.Atoi(fields[1])
		}
		if err != nil {
			return 0, 0, 0, err
		}
	}
	fds, err := os.ReadDir(filepath.Join(dir, "fd"))
	return anonKB, threads, len(fds), err
}

// recount compares the kernel's gauges with a walk over its sockets. Only one
// may work on the pins: it is done while no lictord runs.
func (s *soak) recount() (err error) {
	k, err := kernel.Open(context.Background(), kernel.Config{
		BPFFS: s.pins(), Cgroup: s.host.Cgroup, Logger: slog.New(slog.DiscardHandler),
		Pool4: netip.MustParsePrefix("239.77.0.0/16"), Pool6: netip.MustParsePrefix("ff05::7777:0:0/96"),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.Close()) }()
	drift, err := k.Recount()
	if err != nil {
		return err
	}
	if len(drift) > 0 {
		return fmt.Errorf("gauges are too high by %v, by server slot, against a walk over the sockets", drift)
	}
	return nil
}

var connectionsTotal = regexp.MustCompile(`(?m)^lictor_server_connections_total\{result="(\w+)",server="([^"]+)",service="xds"\} (\S+)$`)

// compareMetrics reads the metrics between two answers of the API: each counter
// must lie between, and each server's must add up.
func (s *soak) compareMetrics(ctx context.Context) error {
	before, err := s.api.Servers(ctx)
	if err != nil {
		return err
	}
	page, err := s.lictor.Get(ctx, "/metrics")
	if err != nil {
		return err
	}
	after, err := s.api.Servers(ctx)
	if err != nil {
		return err
	}
	low, high := byResult(before), byResult(after)
	var errs []error
	found := map[string]bool{}
	for _, line := range connectionsTotal.FindAllStringSubmatch(string(page), -1) {
		key := line[2] + " " + line[1]
		n, err := strconv.ParseFloat(line[3], 64)
		found[key] = true
		if _, known := low[key]; known && (err != nil || uint64(n) < low[key] || uint64(n) > high[key]) {
			errs = append(errs, fmt.Errorf("metrics say %s %s, the API %d before and %d after", key, line[3], low[key], high[key]))
		}
	}
	for key := range low {
		if !found[key] {
			errs = append(errs, fmt.Errorf("metrics do not say %s, the API does", key))
		}
	}
	for _, srv := range after {
		if srv.Redirected != srv.Attempted+srv.FailedLocal || srv.Attempted < srv.Established+srv.Failed || srv.Active > srv.Established {
			errs = append(errs, fmt.Errorf("counters of %s do not add up: %+v", srv.ID, srv))
		}
	}
	return errors.Join(errs...)
}

func byResult(servers []v1.Server) map[string]uint64 {
	out := map[string]uint64{}
	for _, s := range servers {
		out[s.ID+" established"], out[s.ID+" failed"] = s.Established, s.Failed
		out[s.ID+" failed_local"], out[s.ID+" bounced"] = s.FailedLocal, s.Bounced
	}
	return out
}
