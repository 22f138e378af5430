// Package metrics exposes the kernel's counters and the daemon's own to
// Prometheus. What the kernel counts is read when it is scraped, so the
// numbers survive the daemon; the rest begins anew with each process.
package metrics

import (
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/state"
)

const namespace = "lictor"

// Metrics counts what the daemon does, as the registry's observer and the
// reader of the ring buffer see it. It is safe for concurrent use.
type Metrics struct {
	registry  *prometheus.Registry
	appended  prometheus.Histogram
	compared  prometheus.Histogram
	placed    *prometheus.CounterVec
	ringKinds *prometheus.CounterVec
}

// New makes the metrics of a daemon of the given version.
func New(version string) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		appended: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Name: "journal_append_seconds",
			Help:    "Time to make a batch of events durable.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 16),
		}),
		compared: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Name: "reconcile_seconds",
			Help:    "Time to compare the kernel's map with the state, and to repair it.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 16),
		}),
		placed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "placements_total",
			Help: "Placements decided, by reason.",
		}, []string{"reason"}),
		ringKinds: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "ring_events_total",
			Help: "Connection events read from the kernel's ring buffer, by kind.",
		}, []string{"kind"}),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: namespace, Name: "build_info",
		Help:        "1, with the version of the running daemon.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	})
	info.Set(1)
	m.registry.MustRegister(m.appended, m.compared, m.placed, m.ringKinds, info,
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, r := range []state.PlaceReason{
		state.PlaceInitial, state.PlaceServerGone, state.PlaceRebalance,
		state.PlaceConnectFailed, state.PlaceBounced, state.PlaceOperator,
	} {
		m.placed.WithLabelValues(string(r)) // 0, so that the first one is an increase
	}
	for kind := kernel.EventEstablished; kind <= kernel.EventDenied; kind++ {
		m.ringKinds.WithLabelValues(kind.String())
	}
	return m
}

// Handler answers a scrape. A source that fails is an error of the scrape:
// half a set of series would read as a fall to nothing.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Collect adds a source that is read at each scrape.
func (m *Metrics) Collect(s Source) { m.registry.MustRegister(newCollector(s)) }

// JournalAppended implements registry.Observer.
func (m *Metrics) JournalAppended(took time.Duration) { m.appended.Observe(took.Seconds()) }

// Reconciled implements registry.Observer.
func (m *Metrics) Reconciled(took time.Duration) { m.compared.Observe(took.Seconds()) }

// Placed implements registry.Observer.
func (m *Metrics) Placed(reason state.PlaceReason) { m.placed.WithLabelValues(string(reason)).Inc() }

// RingEvent counts an event read from the ring buffer.
func (m *Metrics) RingEvent(kind kernel.EventKind) {
	m.ringKinds.WithLabelValues(kind.String()).Inc()
}

// RingEvents gives what RingEvent counted, by kind.
func (m *Metrics) RingEvents() map[string]uint64 {
	out := map[string]uint64{}
	for kind := kernel.EventEstablished; kind <= kernel.EventDenied; kind++ {
		out[kind.String()] = uint64(counterValue(m.ringKinds.WithLabelValues(kind.String())))
	}
	return out
}
