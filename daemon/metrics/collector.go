package metrics

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
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
	Ready       bool // as /readyz says
	Hook        bool // in effect, as last verified
	Servers     []Server
	Proxies     map[v1.ProxyState]int
	Reasons     map[kernel.Reason]uint64
	RingDropped uint64
	Drift       map[string]uint64 // differences repaired, by kind
	Journal     Journal
	Consul      Consul
	Fleet       Fleet
}

// Server is one server's part of a reading.
type Server struct {
	ID       string
	Counters kernel.Counters
	Latency  kernel.Histogram
	Proxies  int  // that have it first
	Listed   bool // by the catalog, as passing
	Drained  bool
}

// collector turns readings into metrics.
type collector struct {
	source Source

	active, total, seconds, bytes, proxies *prometheus.Desc
	listed, drained                        *prometheus.Desc
	denied, irregular, dropped             *prometheus.Desc
	health                                 healthDescs
}

func newCollector(s Source) *collector {
	return &collector{
		source:    s,
		active:    desc("server_connections_active", "Connections that are established and not closed.", "server", "service"),
		total:     desc("server_connections_total", "Connects that were redirected, by how they ended; established ones are counted once they are, and again as bounced when they end as such.", "server", "service", "result"),
		seconds:   desc("server_connect_seconds", "Time from connect to established.", "server"),
		bytes:     desc("server_bytes_total", "Bytes of connections that have ended, from the server (received) and to it (sent).", "server", "direction"),
		proxies:   desc("proxies", "Proxies placed first on a server.", "server"),
		denied:    desc("denied_total", "Connects to VIPs that were refused on the host, by reason.", "reason"),
		listed:    desc("server_listed", "1 for a server that the catalog lists as passing, 0 for one that it no longer does.", "server"),
		drained:   desc("server_drained", "1 for a server that is drained on this host, by itself or for the fleet.", "server"),
		irregular: desc("irregular_total", "What a connect to a VIP met that does not refuse it: no memory to follow it (untracked), an option that could not be set (sockopt-failed), another program that denied it or led it elsewhere.", "reason"),
		dropped:   desc("ring_events_dropped_total", "Connection events dropped because the ring buffer was full; no counter misses them."),
		health:    newHealthDescs(),
	}
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, labels, nil)
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.active, c.total, c.seconds, c.bytes, c.proxies, c.listed, c.drained,
		c.denied, c.irregular, c.dropped,
	} {
		ch <- d
	}
	c.health.describe(ch)
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
	c.reasons(ch, r)
	c.health.collect(ch, r)
}

// reasons are given when they are 0 too, so that the first one is an increase.
func (c *collector) reasons(ch chan<- prometheus.Metric, r Reading) {
	for reason := kernel.ReasonStranger; reason < kernel.ReasonRingDropped; reason++ {
		d := c.irregular
		if reason.Denies() {
			d = c.denied
		}
		ch <- counter(d, r.Reasons[reason], reason.String())
	}
	ch <- counter(c.dropped, r.RingDropped)
}

func (c *collector) server(ch chan<- prometheus.Metric, s Server) {
	n := s.Counters
	ch <- gauge(c.active, float64(n.Active()), s.ID, ServiceXDS)
	for _, result := range []struct {
		name string
		n    uint64
	}{
		{"established", n.Established},
		{"failed", n.Failed},
		{"failed_local", n.FailedLocal()},
		{"bounced", n.Bounced},
	} {
		ch <- counter(c.total, result.n, s.ID, ServiceXDS, result.name)
	}
	ch <- counter(c.bytes, n.BytesIn, s.ID, "received")
	ch <- counter(c.bytes, n.BytesOut, s.ID, "sent")
	ch <- gauge(c.proxies, float64(s.Proxies), s.ID)
	ch <- gauge(c.listed, truth(s.Listed), s.ID)
	ch <- gauge(c.drained, truth(s.Drained), s.ID)
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

// truth is how Prometheus is told yes and no.
func truth(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

func counterValue(c prometheus.Counter) float64 {
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		return 0 // a counter of ours always writes
	}
	return m.GetCounter().GetValue()
}
