package bootstrap

import (
	"crypto/sha1" // the name of a socket, as Consul has it
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"sync"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/config/metrics/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/types/known/anypb"
)

// collectorName is the cluster of Consul's telemetry collector.
const collectorName = "consul_telemetry_collector_loopback"

// statsSinks are statsd, dogstatsd, those given as JSON, and the collector.
func (b *builder) statsSinks(p *parts) ([]json.RawMessage, error) {
	var sinks []json.RawMessage
	add := func(name string, config validator) error {
		packed, err := pack(config)
		if err != nil {
			return err
		}
		sinks = append(sinks, p.of(&metricsv3.StatsSink{
			Name: name, ConfigType: &metricsv3.StatsSink_TypedConfig{TypedConfig: packed},
		}))
		return nil
	}
	if b.knobs.statsd != "" {
		at, err := b.sinkAddress(keyStatsd, b.knobs.statsd)
		if err != nil {
			return nil, err
		}
		if err := add("envoy.stat_sinks.statsd", &metricsv3.StatsdSink{
			StatsdSpecifier: &metricsv3.StatsdSink_Address{Address: at},
		}); err != nil {
			return nil, err
		}
	}
	if b.knobs.dogstatsd != "" {
		at, err := b.sinkAddress(keyDogstatsd, b.knobs.dogstatsd)
		if err != nil {
			return nil, err
		}
		if err := add("envoy.stat_sinks.dog_statsd", &metricsv3.DogStatsdSink{
			DogStatsdSpecifier: &metricsv3.DogStatsdSink_Address{Address: at},
		}); err != nil {
			return nil, err
		}
	}
	sinks = append(sinks, b.knobs.statsSinks.raw...)
	if b.knobs.collectorDir != "" {
		if err := add("envoy.stat_sinks.metrics_service", &metricsv3.MetricsServiceConfig{
			TransportApiVersion: corev3.ApiVersion_V3,
			GrpcService: &corev3.GrpcService{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
				EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: collectorName},
			}},
			EmitTagsAsLabels: true,
		}); err != nil {
			return nil, err
		}
	}
	return sinks, nil
}

// sinkAddress reads the URL of a sink: udp://ADDRESS:PORT or unix:///PATH, or
// $NAME for all of it, or one with ${HOST_IP} in it.
func (b *builder) sinkAddress(key, text string) (*corev3.Address, error) {
	fail := func(format string, args ...any) error {
		return &ConfigError{Proxy: b.ProxyID, Key: key, Err: fmt.Errorf(format, args...)}
	}
	expanded, missing := b.expand(text)
	if missing != "" {
		return nil, fail("is %q, and there is no %s in the proxy's environment: set it there", text, missing)
	}
	shown := strconv.Quote(text)
	if expanded != text {
		shown += ", in the proxy's environment " + strconv.Quote(expanded) + ","
	}
	u, err := url.Parse(expanded)
	if err != nil {
		return nil, fail("is %s and no URL", shown)
	}
	switch u.Scheme {
	case "udp":
		at, err := netip.ParseAddr(u.Hostname())
		if err != nil {
			return nil, fail("is %s and must name an IP address, as in udp://127.0.0.1:8125", shown)
		}
		port, err := strconv.ParseUint(u.Port(), 10, 16)
		if err != nil {
			return nil, fail("is %s and must name a port, as in udp://127.0.0.1:8125", shown)
		}
		return socketAddress(netip.AddrPortFrom(at, uint16(port))), nil
	case "unix":
		if u.Path == "" {
			return nil, fail("is %s and must name a path, as in unix:///run/statsd.sock", shown)
		}
		return pipe(u.Path), nil
	}
	return nil, fail("is %s and must begin with udp:// or unix://", shown)
}

// inlineVariable is the one that Consul expands inside of a URL; nodes have it.
var inlineVariable = regexp.MustCompile(`\$\{HOST_IP\}|\$HOST_IP\b`)

// expand puts in variables of the proxy's environment, and names one that is not
// there.
func (b *builder) expand(text string) (expanded, missing string) {
	get := func(name string) string {
		if b.Env != nil {
			if value, ok := b.Env(name); ok && value != "" {
				return value
			}
		}
		missing = name
		return ""
	}
	if len(text) > 2 && text[0] == '$' && text[1] != '{' {
		return get(text[1:]), missing
	}
	return inlineVariable.ReplaceAllStringFunc(text, func(string) string { return get("HOST_IP") }), missing
}

// collectorCluster is a socket on which Consul configures a listener, by the
// same rule, that goes on to the collector.
func (b *builder) collectorCluster() *clusterv3.Cluster {
	sum := sha1.Sum([]byte(b.Namespace + "_" + b.ProxyID))
	name := base64.RawURLEncoding.EncodeToString(sum[:]) + ".sock"
	c := static(collectorName, 0, pipe(path.Join(b.knobs.collectorDir, name)))
	c.ConnectTimeout = nil // Envoy's own, as Consul leaves it
	c.TypedExtensionProtocolOptions = map[string]*anypb.Any{httpOptions: plainHTTP2()}
	return c
}

// plainHTTP1 and plainHTTP2 have all of Envoy's defaults. They are made when they
// are first needed: protobuf keeps half a megabyte for it.
var (
	plainHTTP1 = packOnce(&httpv3.HttpProtocolOptions{
		UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{
			ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{
					HttpProtocolOptions: &corev3.Http1ProtocolOptions{},
				},
			},
		},
	})
	plainHTTP2 = packOnce(&httpv3.HttpProtocolOptions{
		UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{
			ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
					Http2ProtocolOptions: &corev3.Http2ProtocolOptions{},
				},
			},
		},
	})
)

// packOnce is for constants.
func packOnce(m validator) func() *anypb.Any {
	return sync.OnceValue(func() *anypb.Any {
		a, err := pack(m)
		if err != nil {
			panic(err)
		}
		return a
	})
}

func pipe(path string) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path}}}
}
