package observe

import (
	"bytes"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"
)

// With 10,000 proxies and five servers a scrape takes less than 50 ms, and is as
// long as with a hundred.
func TestScrapeOfTenThousandProxies(t *testing.T) {
	w := newWorld(t, 3*time.Minute)
	w.start("--server-watch-disabled", "--consul-grpc-port=8502", "--consul-addresses=10.77.0.1,10.77.0.2,10.77.0.3,10.77.0.4,10.77.0.5")
	scrape := func() []byte {
		text, err := w.lictor.Get(w.ctx, "/metrics")
		w.must(err)
		return text
	}
	// Numbers grow with what they count, lines do not.
	numbers := regexp.MustCompile(`(?m) [^ ]+$`)
	shape := func() []byte { return numbers.ReplaceAll(scrape(), nil) }

	w.registerAll(names("few", 100), "host-1")
	few := shape()
	began := time.Now()
	w.registerAll(names("many", 9900), "host-1")
	t.Logf("9900 registrations took %v", time.Since(began).Round(time.Millisecond))
	if many := shape(); !bytes.Equal(few, many) {
		t.Errorf("%d bytes with 100 proxies, %d with 10,000, numbers aside", len(few), len(many))
	}
	var took []time.Duration
	const scrapes = 40
	before, start := w.computed(), time.Now()
	for range scrapes {
		began := time.Now()
		scrape()
		took = append(took, time.Since(began))
		time.Sleep(20 * time.Millisecond)
	}
	busy, length := w.computed()-before, time.Since(start)
	before = w.computed()
	time.Sleep(length) // what lictord does by itself is no part of a scrape
	idle := w.computed() - before
	each := (busy - idle) / scrapes
	slices.Sort(took)
	median := took[scrapes/2]
	t.Logf("a scrape takes %v of a CPU; %v at best, %v in the middle, %v at worst, with what else the machine did; %d bytes; without scrapes lictord takes %.1f %% of a CPU",
		each, took[0], median, took[scrapes-1], len(scrape()), 100*idle.Seconds()/length.Seconds())
	if each > most || median > most {
		t.Errorf("a scrape takes %v of a CPU and %v in the middle, want less than %v", each, median, most)
	}
}

const most = 50 * time.Millisecond

// computed is how long lictord has run on CPUs, as it says itself.
func (w *world) computed() time.Duration {
	w.Helper()
	text, err := w.lictor.Get(w.ctx, "/metrics")
	w.must(err)
	found := regexp.MustCompile(`(?m)^process_cpu_seconds_total (.+)$`).FindSubmatch(text)
	if found == nil {
		w.Fatalf("no time of the CPU in:\n%s", text)
	}
	seconds, err := strconv.ParseFloat(string(found[1]), 64)
	w.must(err)
	return time.Duration(seconds * float64(time.Second))
}
