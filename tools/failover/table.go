package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// table prints what was measured and returns how many wanted figures were
// missed.
func table(out io.Writer, results []result) (missed int) {
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "setup\tfault\troom\tlictord\trounds\tEnvoys\tstream: median\tworst\tchange: median\tworst\tnever\tundisturbed\twanted")
	for _, r := range results {
		if r.rounds == 0 {
			continue
		}
		room := "no"
		if r.room {
			room = "yes"
		}
		said, ok := r.verdict()
		if !ok {
			missed++
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n",
			r.setup, r.fault, room, r.daemon(), r.rounds, len(r.changes)+r.never,
			one(median(r.streams)), one(worst(r.streams)), one(median(r.changes)), one(worst(r.changes)), r.never, one(median(r.pushes)), said)
	}
	w.Flush()
	fmt.Fprint(out, `
Seconds since the loss, of each Envoy that the lost server served. Stream: it is connected to the
server through which the change came. Change: it has a change that was made right after the loss.
Undisturbed: how long such a change takes to Envoys of other servers, since it was made; a Consul
server gathers changes for 0.2 s before it sends them, on a new stream too.
`)
	return missed
}

// verdict compares with what is wanted.
func (r result) verdict() (said string, ok bool) {
	want := r.wanted()
	judge := func(what string, got, most time.Duration) {
		ok = got > 0 && got <= most && r.never == 0
		said = fmt.Sprintf("%s at most %s: ", what, one(most))
		if ok {
			said += "held"
		} else {
			said += "MISSED"
		}
	}
	switch {
	case want.streamMedian > 0:
		judge("stream, median", median(r.streams), want.streamMedian)
	case want.changeWorst > 0:
		judge("change, worst", worst(r.changes), want.changeWorst)
	default:
		ok = true
	}
	return said, ok
}

func median(all []time.Duration) time.Duration {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

func worst(all []time.Duration) time.Duration {
	if len(all) == 0 {
		return 0
	}
	return slices.Max(all)
}

func one(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", d.Seconds())
}

// seconds lists durations, shortest first.
func seconds(all []time.Duration) string {
	var out []string
	for _, d := range slices.Sorted(slices.Values(all)) {
		out = append(out, one(d))
	}
	return strings.Join(out, " ")
}
