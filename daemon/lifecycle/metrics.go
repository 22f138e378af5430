package lifecycle

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"

	"github.com/lictor-mesh/lictor/kernel/netns"
)

const (
	// scrapeTimeout bounds an answer where the scraper does not say what it
	// waits for. Prometheus waits for 10 s by default.
	scrapeTimeout    = 8 * time.Second
	maxScrapeTimeout = time.Minute // whatever the scraper says
	// maxMetrics bounds what is taken of one source, and maxLine a line of it,
	// in bytes.
	maxMetrics = 64 << 20
	maxLine    = 64 << 10
)

var (
	errLongLine = fmt.Errorf("a line is longer than %d bytes", maxLine)
	errTooLarge = fmt.Errorf("the answer is larger than %d bytes", maxMetrics)
)

// metricsHandler serves Envoy's metrics and the service's own as one. What
// cannot be had is left out, and a gauge says so: one source that fails must
// not take the others away.
func (l *life) metricsHandler(r *running) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /stats/prometheus", func(w http.ResponseWriter, req *http.Request) {
		timeout := timeoutOf(req.Header)
		allow(w, timeout)
		ctx, cancel := context.WithTimeout(req.Context(), timeout)
		defer cancel()
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		out := bufio.NewWriterSize(w, maxLine)
		results := "# HELP lictor_merged_scrape_success Whether the metrics of the source are in this answer, all of them.\n" +
			"# TYPE lictor_merged_scrape_success gauge\n"
		for _, s := range l.sources() {
			success := 1
			if err := l.scrape(ctx, r, s, out); err != nil {
				success = 0
				results += fmt.Sprintf("# metrics of the %s are missing: %s\n", s.name, sentence(err))
			}
			results += fmt.Sprintf("lictor_merged_scrape_success{source=%q} %d\n", s.name, success)
		}
		_, _ = out.WriteString(results)
		_ = out.Flush() // who has gone away needs no answer
	})
	return mux
}

// timeoutOf leaves a tenth of what the scraper waits for to the way back.
func timeoutOf(h http.Header) time.Duration {
	seconds, err := strconv.ParseFloat(h.Get("X-Prometheus-Scrape-Timeout-Seconds"), 64)
	if err != nil || !(seconds > 0) { // nor is NaN
		return scrapeTimeout
	}
	return time.Duration(0.9 * min(seconds, maxScrapeTimeout.Seconds()) * float64(time.Second))
}

// source is where metrics come from.
type source struct {
	name string // "envoy" or "service"
	urls []string
	err  error // why there is none
}

func (l *life) sources() []source {
	at, err := l.adminAddress()
	all := []source{{name: "envoy", urls: []string{"http://" + at.String() + "/stats/prometheus"}, err: err}}
	if p := l.settings.Prometheus; p != nil && p.ServiceMetricsURL != "" {
		urls, err := serviceURLs(p.ServiceMetricsURL)
		all = append(all, source{name: "service", urls: urls, err: err})
	}
	return all
}

// serviceURLs are the ways to a service's metrics. A name other than localhost
// is none: resolving it is nothing that lictord does for a pod.
func serviceURLs(given string) ([]string, error) {
	u, err := url.Parse(given)
	if err != nil || u.Scheme != "http" || u.User != nil {
		return nil, fmt.Errorf("%q is no URL of the form http://127.0.0.1:PORT/PATH", given)
	}
	port := u.Port()
	if port == "" {
		port = "80"
	}
	hosts := []string{u.Hostname()}
	if hosts[0] == "localhost" {
		hosts = []string{"127.0.0.1", "::1"}
	}
	var urls []string
	for _, host := range hosts {
		if _, err := netip.ParseAddr(host); err != nil {
			return nil, fmt.Errorf("%q is not an address: give 127.0.0.1, localhost or an address of the pod", host)
		}
		to := *u
		to.Host = net.JoinHostPort(host, port)
		urls = append(urls, to.String())
	}
	return urls, nil
}

// scrape copies the metrics of a source.
func (l *life) scrape(ctx context.Context, r *running, s source, out *bufio.Writer) error {
	if s.err != nil {
		return s.err
	}
	var answer *http.Response
	var err error
	for _, at := range s.urls {
		var req *http.Request
		if req, err = http.NewRequestWithContext(ctx, http.MethodGet, at, nil); err != nil {
			return fmt.Errorf("make a request: %w", err)
		}
		// Not OpenMetrics: its end would be in the middle.
		req.Header.Set("Accept", "text/plain;version=0.0.4")
		if answer, err = l.client(r).Do(req); err == nil {
			break
		}
	}
	switch {
	case errors.Is(err, netns.ErrNotLocal):
		return fmt.Errorf("%s is neither a loopback address nor one of the pod's", s.urls[0])
	case err != nil:
		return fmt.Errorf("%s does not answer: %w", s.urls[0], innermost(err))
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers with status %d", s.urls[0], answer.StatusCode)
	}
	return copyLines(out, answer.Body)
}

// copyLines copies whole lines, so that what breaks off spoils nothing of what
// follows it.
func copyLines(out *bufio.Writer, in io.Reader) error {
	lines := bufio.NewReaderSize(in, maxLine)
	for taken := 0; ; {
		line, err := lines.ReadSlice('\n')
		last := errors.Is(err, io.EOF)
		switch taken += len(line); {
		case taken > maxMetrics:
			return errTooLarge
		case errors.Is(err, bufio.ErrBufferFull):
			return errLongLine
		case err != nil && !last:
			return fmt.Errorf("read metrics: %w", err) // the last line may be half of one
		}
		if trimmed := bytes.TrimSpace(line); len(trimmed) > 0 && string(trimmed) != "# EOF" {
			if _, err := out.Write(append(trimmed, '\n')); err != nil {
				return fmt.Errorf("write metrics: %w", err)
			}
		}
		if last {
			return nil
		}
	}
}
