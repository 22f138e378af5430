package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// table prints a line a minute and keeps them for the verdict.
type table struct {
	out  io.Writer
	rows []sample
}

func (t *table) add(m sample) {
	if len(t.rows)%20 == 0 {
		fmt.Fprintf(t.out, "%4s %8s %8s %4s %4s %6s %7s %9s %9s %8s %6s %9s %6s  %s\n", "min", "time", "anon kB", "thr", "fds",
			"proxies", "entries", "seq", "oldest", "journal", "up", "connects", "failed", "what happened")
	}
	t.rows = append(t.rows, m)
	fmt.Fprintf(t.out, "%4d %8s %8d %4d %4d %7d %7d %9d %9d %5.1f MB %3d/%-2d %9d %6d  %s\n", len(t.rows), time.Now().Format(time.TimeOnly),
		m.anonKB, m.threads, m.descriptors, m.proxies, m.entries, m.seq, m.oldest, float64(m.journalBytes)/1e6, m.up, m.pods,
		m.connects, m.failed, strings.Join(m.events, "; "))
}

// stretch is the longest time that one process was measured, its first five
// minutes left out.
func (t *table) stretch() (rows []sample) {
	for i := 0; i < len(t.rows); {
		j := i
		for j < len(t.rows) && t.rows[j].pid == t.rows[i].pid {
			j++
		}
		if j-i > len(rows) {
			rows = t.rows[i:j]
		}
		i = j
	}
	return rows[min(len(rows), 5):]
}

// trend compares the middle of the first third with that of the last.
func trend(rows []sample, of func(sample) int) (first, last int) {
	third := max(1, len(rows)/3)
	middle := func(part []sample) int {
		var n []int
		for _, m := range part {
			n = append(n, of(m))
		}
		slices.Sort(n)
		return n[len(n)/2]
	}
	return middle(rows[:third]), middle(rows[len(rows)-third:])
}

// verdict prints the final table and returns an error if anything did not hold.
func (s *soak) verdict(ctx context.Context, t *table) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if up, of := s.pods.up(); up < of {
		s.check("pods at the end", s.pods.fleet.WaitUp(ctx, of))
	}
	r, err := s.tally.storm.End()
	s.check("end of the storm", err)
	s.tally.sum.Connects += r.Connects
	s.tally.sum.OK += r.OK
	s.check("stop lictord", s.lictor.Term(ctx))
	s.check("counters at the end", s.recount())

	rows := t.stretch()
	fmt.Fprintf(s.out, "\n%-28s %12s %12s %12s\n", "the longest run of one lictord", "first third", "last third", "most")
	for _, n := range []struct {
		name  string
		of    func(sample) int
		slack int // how much more in the last third than in the first is no leak
	}{
		{"anonymous memory, kB", func(m sample) int { return m.anonKB }, 4096},
		{"threads", func(m sample) int { return m.threads }, 3},
		{"descriptors", func(m sample) int { return m.descriptors }, 8},
		{"entries in the kernel's map", func(m sample) int { return m.entries }, 60},
		{"repaired drift", func(m sample) int { return int(m.drift) }, 0},
	} {
		if len(rows) == 0 {
			continue
		}
		first, last := trend(rows, n.of)
		most := 0
		for _, m := range rows {
			most = max(most, n.of(m))
		}
		fmt.Fprintf(s.out, "%-30s %12d %12d %12d\n", n.name, first, last, most)
		if last > first+n.slack+first/10 {
			s.check("flat use", fmt.Errorf("%s: %d in the first third, %d in the last", n.name, first, last))
		}
	}
	s.journalVerdict(t)
	j := s.killer.Judge.Journal
	fmt.Fprintf(s.out, "\nevents journaled, by kind: %v\nplacements, by reason: %v\n", j.Kinds, j.Placed)
	fmt.Fprintf(s.out, "calls answered %d, without an answer %d; kills %d; connects to stable VIPs %d, failed %d %v, the longest took %v\n",
		s.clients.Answered.Load(), s.clients.Unanswered.Load(), s.killer.Kills, s.tally.sum.Connects,
		s.tally.sum.Connects-s.tally.sum.OK, s.tally.failed, s.tally.sum.Longest)
	if len(s.broken) == 0 {
		fmt.Fprintln(s.out, "everything held")
		return nil
	}
	var errs []error
	for _, text := range s.broken {
		errs = append(errs, errors.New(text))
	}
	return fmt.Errorf("%d checks did not hold:\n%w", len(errs), errors.Join(errs...))
}

// Of the journal at most twice as many events are kept as DefaultRetain says,
// until the next snapshot, which is taken after 10,000 events.
const mostEvents = 2*100_000 + 10_000

// journalVerdict looks at the journal: what is dropped from it makes room for
// what comes, so that the file grows with the events kept, and no further.
func (s *soak) journalVerdict(t *table) {
	i := slices.IndexFunc(t.rows, func(m sample) bool { return m.oldest > 1 })
	if i < 0 {
		fmt.Fprintln(s.out, "the journal was not compacted: too few events for it")
		return
	}
	kept := func(m sample) uint64 { return m.seq + 1 - m.oldest }
	first, last := t.rows[i], t.rows[len(t.rows)-1]
	var most uint64
	for _, m := range t.rows {
		most = max(most, kept(m))
	}
	fmt.Fprintf(s.out, "journal: compacted from minute %d on; then %.1f MB with %d events, at the end %.1f MB with %d, at most %d events\n", i+1,
		float64(first.journalBytes)/1e6, kept(first), float64(last.journalBytes)/1e6, kept(last), most)
	if most > mostEvents {
		s.check("journal", fmt.Errorf("%d events were kept, at most %d should be", most, mostEvents))
	}
	if room := float64(first.journalBytes) / float64(kept(first)) * float64(most) * 1.5; float64(last.journalBytes) > room {
		s.check("journal", fmt.Errorf("it has %d bytes: more than %d events, the most it ever held, need", last.journalBytes, most))
	}
}
