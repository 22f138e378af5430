package metrics

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/lictor-mesh/lictor/kernel"
)

// ServiceXDS is the value of the label service for what goes to the gRPC port
// of Consul's servers.
const ServiceXDS = "xds"

// Source gives what is read at a scrape, within scrapeTimeout.
type Source func(context.Context) (Reading, error)

const scrapeTimeout = 5 * time.Second

// Reading is what was read at one scrape.
type Reading struct {
	Servers     []Server
	Reasons     map[kernel.Reason]uint64
	RingDropped uint64
	Drift       map[string]uint64 // differences repaired, by kind
	Journal     Journal
	Consul      Consul
}

// Server is one server's part of a reading.
type Server struct {
	ID       string
	Counters kernel.Counters
	Latency  kernel.Histogram
	Proxies  int // that have it first
}

// Journal is the journal's part of a reading.
type Journal struct {
	Seq   uint64
	Bytes int64
}

// Consul is the catalog's part of a reading.
type Consul struct {
	LastContact time.Time // zero: never
	Errors      uint64
}

// collector turns readings into metrics.
type collector struct {
	source Source

	active, total, seconds, bytes, proxies *prometheus.Desc
	denied, dropped, drift                 *prometheus.Desc
	seq, size                              *prometheus.Desc
	contact, errors                        *prometheus.Desc
}

func newCollector(s Source) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, labels, nil)
	}
	return &collector{
		source:  s,
		active:  desc("server_connections_active", "Connections that are established and not closed.", "server", "service"),
		total:   desc("server_connections_total", "Connects that were redirected, by how they ended; established ones are counted once they are, and again as bounced when they end as such.", "server", "service", "result"),
		seconds: desc("server_connect_seconds", "Time from connect to established.", "server"),
		bytes:   desc("server_bytes_total", "Bytes of connections that have ended, from the server (received) and to it (sent).", "server", "direction"),
		proxies: desc("proxies", "Proxies placed first on a server.", "server"),
		denied:  desc("denied_total", "Connects to VIPs that were refused on the host, by reason.", "reason"),
		dropped: desc("ring_events_dropped_total", "Connection events dropped because the ring buffer was full; no counter misses them."),
		drift:   desc("reconcile_drift_total", "Differences between the kernel's map and the state that were repaired, by kind.", "kind"),
		seq:     desc("journal_seq", "Sequence number of the last journaled event."),
		size:    desc("journal_bytes", "Size of the journal's file."),
		contact: desc("consul_last_contact_timestamp_seconds", "When a Consul server last answered; 0 if none has."),
		errors:  desc("consul_query_errors_total", "Queries to Consul that failed."),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.active, c.total, c.seconds, c.bytes, c.proxies, c.denied, c.dropped,
		c.drift, c.seq, c.size, c.contact, c.errors,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	r, err := c.source(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(c.active, fmt.Errorf("read the metrics: %w", err))
		return
	}
	for _, s := range r.Servers {
		c.server(ch, s)
	}
	for reason := kernel.ReasonStranger; reason.Denies(); reason++ {
		ch <- counter(c.denied, r.Reasons[reason], reason.String()) // 0 too, so that the first one is an increase
	}
	for kind, n := range r.Drift {
		ch <- counter(c.drift, n, kind)
	}
	ch <- counter(c.dropped, r.RingDropped)
	ch <- gauge(c.seq, float64(r.Journal.Seq))
	ch <- gauge(c.size, float64(r.Journal.Bytes))
	contact := 0.0
	if at := r.Consul.LastContact; !at.IsZero() {
		contact = float64(at.UnixMilli()) / 1000
	}
	ch <- gauge(c.contact, contact)
	ch <- counter(c.errors, r.Consul.Errors)
}

func (c *collector) server(ch chan<- prometheus.Metric, s Server) {
	n := s.Counters
	ch <- gauge(c.active, float64(less(n.Established, n.Closed)), s.ID, ServiceXDS)
	for _, result := range []struct {
		name string
		n    uint64
	}{
		{"established", n.Established},
		{"failed", n.Failed},
		{"failed_local", less(n.Redirected, n.Attempted)},
		{"bounced", n.Bounced},
	} {
		ch <- counter(c.total, result.n, s.ID, ServiceXDS, result.name)
	}
	ch <- counter(c.bytes, n.BytesIn, s.ID, "received")
	ch <- counter(c.bytes, n.BytesOut, s.ID, "sent")
	ch <- gauge(c.proxies, float64(s.Proxies), s.ID)
	ch <- latency(c.seconds, s)
}

// latency turns the kernel's buckets, powers of two of a microsecond, into
// cumulative ones. The last, which has no upper bound, is in the count alone.
func latency(d *prometheus.Desc, s Server) prometheus.Metric {
	var count uint64
	buckets := map[float64]uint64{}
	for i, n := range s.Latency.Buckets {
		count += n
		if i < len(s.Latency.Buckets)-1 {
			buckets[float64(uint64(1)<<i)/1e6] = count
		}
	}
	return whole(d)(prometheus.NewConstHistogram(d, count, s.Latency.Sum.Seconds(), buckets, s.ID))
}

// less is a - b, and 0 where b is ahead: the kernel counts both on several CPUs
// while they are read.
func less(a, b uint64) uint64 {
	if b > a {
		return 0
	}
	return a - b
}

// whole makes a metric that cannot be made, as one with a label that is not
// UTF-8, an error of the scrape.
func whole(d *prometheus.Desc) func(prometheus.Metric, error) prometheus.Metric {
	return func(m prometheus.Metric, err error) prometheus.Metric {
		if err != nil {
			return prometheus.NewInvalidMetric(d, err)
		}
		return m
	}
}

func counter(d *prometheus.Desc, n uint64, labels ...string) prometheus.Metric {
	return whole(d)(prometheus.NewConstMetric(d, prometheus.CounterValue, float64(n), labels...))
}

func gauge(d *prometheus.Desc, v float64, labels ...string) prometheus.Metric {
	return whole(d)(prometheus.NewConstMetric(d, prometheus.GaugeValue, v, labels...))
}

func counterValue(c prometheus.Counter) float64 {
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		return 0 // a counter of ours always writes
	}
	return m.GetCounter().GetValue()
}
