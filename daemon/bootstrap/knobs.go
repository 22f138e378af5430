package bootstrap

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/config/metrics/v3"
	tracev3 "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Keys of the central configuration, as Consul documents them.
const (
	keyStatsd         = "envoy_statsd_url"
	keyDogstatsd      = "envoy_dogstatsd_url"
	keyStatsTags      = "envoy_stats_tags"
	keyCollectorDir   = "envoy_telemetry_collector_bind_socket_dir"
	keyPrometheusBind = "envoy_prometheus_bind_addr"
	keyStatsBind      = "envoy_stats_bind_addr"
	keyTemplate       = "envoy_bootstrap_json_tpl"
	keyClusters       = "envoy_extra_static_clusters_json"
	keyListeners      = "envoy_extra_static_listeners_json"
	keyStatsSinks     = "envoy_extra_stats_sinks_json"
	keyStatsConfig    = "envoy_stats_config_json"
	keyFlushInterval  = "envoy_stats_flush_interval"
	keyTracing        = "envoy_tracing_json"
)

// ConfigError is a fault of Consul's central configuration, for errors.As. Its
// text is a sentence that says where to correct it.
type ConfigError struct {
	Proxy string
	Key   string // of the proxy's configuration, or AccessLogs
	Err   error  // what is wrong with its value
}

// Error names the key, what is wrong, and the places that the value may be at:
// Consul hands out the union of them and does not tell which.
func (e *ConfigError) Error() string {
	if e.Key == keyAccessLogs {
		return fmt.Sprintf("%s %v; correct AccessLogs in the config entry proxy-defaults global", e.Key, e.Err)
	}
	return fmt.Sprintf("%s %v; correct Config.%s in the config entry proxy-defaults global, or Proxy.Config.%s where the proxy %s is registered",
		e.Key, e.Err, e.Key, e.Key, e.Proxy)
}

// Unwrap is what is wrong.
func (e *ConfigError) Unwrap() error { return e.Err }

// knobs are the keys of the central configuration that change a bootstrap.
type knobs struct {
	statsd, dogstatsd string
	statsTags         []string
	collectorDir      string
	prometheusBind    netip.AddrPort // zero: no such listener
	statsBind         netip.AddrPort // likewise
	template          string
	clusters          list
	listeners         list
	statsSinks        list
	statsConfig       json.RawMessage
	flushInterval     string
	tracing           json.RawMessage
}

// readKnobs reads them, as lenient about types as Consul is, which itself makes
// a bare value of a list of one.
func readKnobs(proxy string, config map[string]any) (knobs, error) {
	r := knobReader{proxy: proxy, config: config}
	k := knobs{
		statsd:         r.text(keyStatsd),
		dogstatsd:      r.text(keyDogstatsd),
		statsTags:      r.texts(keyStatsTags),
		collectorDir:   r.text(keyCollectorDir),
		prometheusBind: r.bind(keyPrometheusBind),
		statsBind:      r.bind(keyStatsBind),
		template:       r.text(keyTemplate),
		clusters:       r.list(keyClusters, func() validator { return new(clusterv3.Cluster) }),
		listeners:      r.list(keyListeners, func() validator { return new(listenerv3.Listener) }),
		statsSinks:     r.list(keyStatsSinks, func() validator { return new(metricsv3.StatsSink) }),
		statsConfig:    r.object(keyStatsConfig, new(metricsv3.StatsConfig)),
		flushInterval:  r.duration(keyFlushInterval),
		tracing:        r.object(keyTracing, new(tracev3.Tracing)),
	}
	return k, r.err
}

// knobReader keeps the first error.
type knobReader struct {
	proxy  string
	config map[string]any
	err    error
}

func (r *knobReader) fail(key string, format string, args ...any) {
	if r.err == nil {
		r.err = &ConfigError{Proxy: r.proxy, Key: key, Err: fmt.Errorf(format, args...)}
	}
}

// value finds a key, in any case if not as it is written, as Consul does.
func (r *knobReader) value(key string) any {
	if v, ok := r.config[key]; ok {
		return v
	}
	for _, k := range slices.Sorted(maps.Keys(r.config)) {
		if strings.EqualFold(k, key) {
			return r.config[k]
		}
	}
	return nil
}

func (r *knobReader) text(key string) string {
	text, err := asText(r.value(key))
	if err != nil {
		r.fail(key, "%w", err)
	}
	return text
}

func asText(v any) (string, error) {
	switch v := v.(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64), nil
	case bool:
		if v {
			return "1", nil
		}
		return "0", nil
	case map[string]any:
		return "", errors.New("is an object and must be a text, also where that text is JSON")
	case []any:
		return "", errors.New("is a list and must be a text")
	}
	return "", fmt.Errorf("is a %T and must be a text", v)
}

func (r *knobReader) texts(key string) []string {
	v := r.value(key)
	items, ok := v.([]any)
	if !ok && v != nil && v != "" {
		items = []any{v}
	}
	var texts []string
	for _, item := range items {
		text, err := asText(item)
		if err != nil {
			r.fail(key, "has an element that %w", err)
		}
		if name, _, _ := strings.Cut(text, "="); name == "" {
			r.fail(key, "has an element, %q, which has no name", text)
		}
		texts = append(texts, text)
	}
	return texts
}

func (r *knobReader) bind(key string) netip.AddrPort {
	text := r.text(key)
	if text == "" {
		return netip.AddrPort{}
	}
	at, err := parseBind(text)
	if err != nil {
		r.fail(key, "is %q and must be an IP address and a port, as in 0.0.0.0:20200", text)
	}
	return at
}

func (r *knobReader) duration(key string) string {
	text := r.text(key)
	if text == "" {
		return ""
	}
	d := new(durationpb.Duration)
	if err := protojson.Unmarshal([]byte(strconv.Quote(text)), d); err != nil {
		r.fail(key, "is %q and must be seconds with an s, as in 1.5s", text)
	} else if d := d.AsDuration(); d < time.Millisecond || d >= 5*time.Minute { // Envoy's rule
		r.fail(key, "is %q and must be a millisecond or more, and below 5 minutes", text)
	}
	return text
}

func (r *knobReader) object(key string, into validator) json.RawMessage {
	text := strings.TrimSpace(r.text(key))
	if text == "" {
		return nil
	}
	if err := checkObject([]byte(text), into); err != nil {
		r.fail(key, "%w", err)
	}
	return json.RawMessage(text)
}

// checkObject tells what is no JSON from what Envoy would not take.
func checkObject(text []byte, into validator) error {
	tree, err := decode(text)
	if err != nil {
		return fmt.Errorf("is no JSON: %w", err)
	}
	if _, ok := tree.(map[string]any); !ok {
		return errors.New("is no JSON object")
	}
	if err := validate(text, into); err != nil {
		return fmt.Errorf("is nothing that Envoy takes: %w", err)
	}
	return nil
}
