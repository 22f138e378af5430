package observe

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/tools/grafana"
	"github.com/lictor-mesh/lictor/tools/prometheus"
)

// Every query of every panel has data of the right shape, under load with two
// servers lost, one after the other.
func TestPanelsHaveData(t *testing.T) {
	w := newWorld(t, 2*time.Minute).withConsul(3)
	w.start()
	rollout := w.streams(12)
	w.watch(nil)
	began := time.Now()
	stop := w.babble(w.registerAll(names("babbler", 2), "host-1"))
	const failovers = `sum(lictor_placements_total{reason=~"connect-failed|server-gone|bounced"})`
	for n := range 2 {
		time.Sleep(4 * interval) // as a line it has a beginning and an end
		victim := w.victim()
		w.must(victim.Kill())
		w.eventually(20*time.Second, func() error {
			return errors.Join(
				w.is(fmt.Sprintf(`sum(lictor_server_connections_active{server!=%q}) >= bool 12`, victim.Name), 1),
				w.is(fmt.Sprintf(`%s > bool %d`, failovers, n), 1))
		})
		w.must(victim.Restart(w.ctx))
		w.must(w.cluster.WaitServers(w.ctx, 3))
	}
	rollout()
	stop()
	time.Sleep(4 * interval)

	for name, d := range grafana.All() {
		for _, v := range d.Templating.List {
			if v.Type == "query" {
				w.variable(name, v)
			}
		}
		w.ask(name, d, began)
	}
}

// ask asks, as Grafana does, what the panels of a dashboard show of the time since
// began, and complains of data of another shape than they draw, and of panels in
// which nothing moved. The answers are by panel and query.
func (w *world) ask(name string, d grafana.Dashboard, began time.Time) map[int]map[string][]prometheus.Series {
	w.Helper()
	now := time.Now()
	step := max(now.Sub(began)/240, interval)
	chosen := map[string]string{
		"job": ".+", "instance": "host-1", "__range": fmt.Sprintf("%ds", int(now.Sub(began).Seconds())),
		"__rate_interval": fmt.Sprintf("%dms", 4*step.Milliseconds()), // Grafana makes it four scrapes or more
	}
	all := map[int]map[string][]prometheus.Series{}
	for _, p := range d.Panels {
		all[p.ID] = map[string][]prometheus.Series{}
		moved := false
		for _, target := range p.Targets {
			expr := grafana.Resolve(target.Expr, chosen)
			var series []prometheus.Series
			var err error
			if target.Instant {
				series, err = w.prom.Query(w.ctx, expr)
			} else {
				series, err = w.prom.Range(w.ctx, expr, began, now, step)
			}
			if err == nil {
				err = shape(target, series)
			}
			if err != nil {
				w.Errorf("%s, %q, query %s: %v", name, p.Title, target.RefID, err)
			}
			moved = moved || slices.ContainsFunc(series, positive)
			all[p.ID][target.RefID] = series
		}
		if p.Moves && !moved {
			w.Errorf("%s, %q shows nothing above 0, under load with failovers", name, p.Title)
		}
	}
	return all
}

// shape compares a result with what a panel draws.
func shape(target grafana.Target, series []prometheus.Series) error {
	if len(series) == 0 {
		return errors.New("no data")
	}
	for _, s := range series {
		var labels []string
		for label := range s.Labels {
			labels = append(labels, label)
		}
		slices.Sort(labels)
		if !slices.Equal(labels, target.Labels) {
			return fmt.Errorf("a series has the labels %v, want %v", labels, target.Labels)
		}
		for _, named := range regexp.MustCompile(`{{(\w+)}}`).FindAllStringSubmatch(target.LegendFormat, -1) {
			if s.Labels[named[1]] == "" {
				return fmt.Errorf("a series has no %s for its legend", named[1])
			}
		}
		if target.Range && len(s.Values) < 10 {
			return fmt.Errorf("a series has %d points", len(s.Values))
		}
	}
	return nil
}

func positive(s prometheus.Series) bool {
	return slices.ContainsFunc(append(s.Values, s.Value), func(v prometheus.Sample) bool {
		return v.Value > 0 && !math.IsInf(v.Value, 0)
	})
}

// variable asks for what a reader can choose.
func (w *world) variable(dashboard string, v grafana.Variable) {
	w.Helper()
	parts := regexp.MustCompile(`^label_values\((.+), (\w+)\)$`).FindStringSubmatch(v.Query)
	if parts == nil {
		w.Fatalf("%s: variable %s asks %q", dashboard, v.Name, v.Query)
	}
	values, err := w.prom.LabelValues(w.ctx, parts[2], grafana.Resolve(parts[1], map[string]string{"job": ".+"}))
	if err != nil || len(values) == 0 || strings.TrimSpace(values[0]) == "" {
		w.Errorf("%s: variable %s has the values %q: %v", dashboard, v.Name, values, err)
	}
}
