package prometheus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"
)

// Config of a Prometheus for a test.
type Config struct {
	Dir     string // for its configuration and its data; nothing else is in it
	Listen  string // host:port of its API
	Job     string
	Targets []Target
	Every   time.Duration // it scrapes and evaluates rules
	Rules   []byte        // nil: none
}

// Target is what is scraped.
type Target struct {
	Address  string // host:port, as Prometheus sees it
	Instance string // the value of that label
}

// Write writes the configuration and returns the arguments to start with.
func (c Config) Write() ([]string, error) {
	type group map[string]any
	var targets []group
	for _, t := range c.Targets {
		targets = append(targets, group{"targets": []string{t.Address}, "labels": group{"instance": t.Instance}})
	}
	conf := group{
		"global":         group{"scrape_interval": c.Every.String(), "scrape_timeout": c.Every.String(), "evaluation_interval": c.Every.String()},
		"scrape_configs": []group{{"job_name": c.Job, "static_configs": targets}},
	}
	files := map[string][]byte{}
	if c.Rules != nil {
		conf["rule_files"] = []string{"rules.yml"}
		files["rules.yml"] = c.Rules
	}
	text, err := json.Marshal(conf) // JSON is YAML
	if err != nil {
		return nil, err
	}
	files["prometheus.yml"] = text
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(c.Dir, name), content, 0o644); err != nil {
			return nil, fmt.Errorf("configure prometheus: %w", err)
		}
	}
	return []string{
		"--config.file=" + filepath.Join(c.Dir, "prometheus.yml"),
		"--storage.tsdb.path=" + filepath.Join(c.Dir, "data"),
		"--web.listen-address=" + c.Listen, "--log.level=warn",
	}, nil
}

// Client asks a Prometheus. It is safe for concurrent use.
type Client struct {
	HTTP *http.Client
	URL  string // without a path
}

// Series is one element of a query's result: a sample of an instant query, or
// the samples of a range.
type Series struct {
	Labels map[string]string `json:"metric"`
	Value  Sample            `json:"value"`
	Values []Sample          `json:"values"`
}

// Sample is a value at a time.
type Sample struct {
	At    time.Time
	Value float64
}

// UnmarshalJSON reads [seconds, "value"].
func (s *Sample) UnmarshalJSON(text []byte) error {
	var pair [2]any
	if err := json.Unmarshal(text, &pair); err != nil {
		return err
	}
	at, ok := pair[0].(float64)
	value, isText := pair[1].(string)
	if !ok || !isText {
		return fmt.Errorf("no sample: %s", text)
	}
	s.At = time.UnixMilli(int64(at * 1000))
	var err error
	s.Value, err = strconv.ParseFloat(value, 64)
	return err
}

// MarshalJSON writes what UnmarshalJSON reads.
func (s Sample) MarshalJSON() ([]byte, error) {
	return json.Marshal([2]any{float64(s.At.UnixMilli()) / 1000, strconv.FormatFloat(s.Value, 'g', -1, 64)})
}

// Query evaluates an expression now. Its result is in no order.
func (c Client) Query(ctx context.Context, expr string) ([]Series, error) {
	return c.query(ctx, "query", url.Values{"query": {expr}})
}

// Range evaluates an expression at each step of a time.
func (c Client) Range(ctx context.Context, expr string, from, to time.Time, step time.Duration) ([]Series, error) {
	return c.query(ctx, "query_range", url.Values{
		"query": {expr}, "start": {seconds(from)}, "end": {seconds(to)}, "step": {fmt.Sprint(step.Seconds())},
	})
}

func seconds(t time.Time) string { return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64) }

func (c Client) query(ctx context.Context, path string, args url.Values) ([]Series, error) {
	var result struct {
		Type   string          `json:"resultType"`
		Result json.RawMessage `json:"result"`
	}
	if err := c.get(ctx, path, args, &result); err != nil {
		return nil, err
	}
	switch result.Type {
	case "vector", "matrix":
		var series []Series
		return series, json.Unmarshal(result.Result, &series)
	case "scalar":
		var s Sample
		return []Series{{Value: s}}, json.Unmarshal(result.Result, &s)
	}
	return nil, fmt.Errorf("ask prometheus: a result is a %s", result.Type)
}

// LabelValues lists the values of a label among the series that match.
func (c Client) LabelValues(ctx context.Context, label, match string) (values []string, err error) {
	return values, c.get(ctx, "label/"+label+"/values", url.Values{"match[]": {match}}, &values)
}

// Alert is one that is pending or firing.
type Alert struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	State       string            `json:"state"`
}

// Alerts lists those that are pending or firing.
func (c Client) Alerts(ctx context.Context) ([]Alert, error) {
	var result struct {
		Alerts []Alert `json:"alerts"`
	}
	return result.Alerts, c.get(ctx, "alerts", nil, &result)
}

func (c Client) get(ctx context.Context, path string, args url.Values, data any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL+"/api/v1/"+path+"?"+args.Encode(), nil)
	if err != nil {
		return err
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return fmt.Errorf("ask prometheus: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("ask prometheus: %w", err)
	}
	answer := struct {
		Status string `json:"status"`
		Error  string `json:"error"`
		Data   any    `json:"data"`
	}{Data: data}
	if err := json.Unmarshal(text, &answer); err != nil {
		return fmt.Errorf("ask prometheus: %s: %s", resp.Status, text)
	}
	if answer.Status != "success" {
		return errors.New("ask prometheus: " + answer.Error)
	}
	return nil
}

var durations = regexp.MustCompile(`(for: |\[)(\d+)([smh])`)

// Hasten makes a copy of rules in which an hour is a minute and a minute a
// second, for tests that wait for them.
func Hasten(rules []byte) []byte {
	return durations.ReplaceAllFunc(rules, func(found []byte) []byte {
		part := durations.FindSubmatch(found)
		n, err := strconv.Atoi(string(part[2]))
		if err != nil {
			return found // too large for a duration, too
		}
		unit := map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour}[string(part[3])]
		short := time.Duration(n) * unit / 60
		return fmt.Appendf(nil, "%s%dms", part[1], short.Milliseconds())
	})
}
