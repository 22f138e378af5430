package bootstrap

import (
	"strconv"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// xdsClusterName is the cluster of the Consul servers in Envoy's metrics and
// config dumps.
const xdsClusterName = "consul-servers"

// httpOptions is the key of HttpProtocolOptions in a cluster; Envoy wants the
// name of the message.
const httpOptions = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

// What a redirect at connect time asks of Envoy. Each of these was measured;
// without the first one a fleet does not start at all.
const (
	// streamsPerConnection is 1, for a server refuses a stream, not a
	// connection: only a new connection is redirected to another server.
	streamsPerConnection = 1

	// Envoy waits for a random time below the first before a new stream, twice as
	// long each time up to the second; 500 ms and 30 s when not told otherwise.
	// The way from a killed server takes two attempts as a rule and three at most:
	// the first may find it dying. The first wait decides how long that is; what
	// a server is asked by who waits for room, the second and the kernel's waits do.
	streamBackoff    = 10 * time.Millisecond
	streamBackoffMax = 500 * time.Millisecond

	connectSeconds = 1

	// TCP keepalive finds a server whose host has vanished in 5 s.
	keepaliveIdle     = 2 // seconds
	keepaliveInterval = 1 // seconds
	keepaliveProbes   = 3

	// HTTP/2 pings find a server that is dead above TCP. Consul's gRPC server
	// cuts connections which ping more often than every 15 s
	// (KeepaliveEnforcementPolicy). Envoy's jitter only lengthens the interval.
	pingInterval = 20 * time.Second
	pingTimeout  = 3 * time.Second
)

// xdsCluster is the cluster whose one endpoint is the proxy's VIP.
func (b *builder) xdsCluster() (*clusterv3.Cluster, error) {
	filters, err := b.tokenFilters()
	if err != nil {
		return nil, err
	}
	options, err := pack(&httpv3.HttpProtocolOptions{
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{
			MaxRequestsPerConnection: wrapperspb.UInt32(streamsPerConnection),
		},
		UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{
			ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
					Http2ProtocolOptions: &corev3.Http2ProtocolOptions{
						ConnectionKeepalive: &corev3.KeepaliveSettings{
							Interval: durationpb.New(pingInterval),
							Timeout:  durationpb.New(pingTimeout),
						},
					},
				},
			},
		},
		HttpFilters: filters,
	})
	if err != nil {
		return nil, err
	}
	c := static(xdsClusterName, connectSeconds, socketAddress(b.XDS))
	c.UpstreamConnectionOptions = &clusterv3.UpstreamConnectionOptions{
		TcpKeepalive: &corev3.TcpKeepalive{
			KeepaliveTime:     wrapperspb.UInt32(keepaliveIdle),
			KeepaliveInterval: wrapperspb.UInt32(keepaliveInterval),
			KeepaliveProbes:   wrapperspb.UInt32(keepaliveProbes),
		},
	}
	c.TypedExtensionProtocolOptions = map[string]*anypb.Any{httpOptions: options}
	c.TransportSocket, err = b.serverTLS()
	return c, err
}

// dynamicResources is one aggregated delta stream for all that Consul sends.
func dynamicResources() *bootstrapv3.Bootstrap_DynamicResources {
	return &bootstrapv3.Bootstrap_DynamicResources{
		CdsConfig: fromADS(),
		LdsConfig: fromADS(),
		AdsConfig: &corev3.ApiConfigSource{
			ApiType:             corev3.ApiConfigSource_DELTA_GRPC,
			TransportApiVersion: corev3.ApiVersion_V3,
			GrpcServices: []*corev3.GrpcService{{
				TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
					EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{
						ClusterName: xdsClusterName,
						RetryPolicy: &corev3.RetryPolicy{
							RetryBackOff: &corev3.BackoffStrategy{
								BaseInterval: durationpb.New(streamBackoff),
								MaxInterval:  durationpb.New(streamBackoffMax),
							},
						},
					},
				},
			}},
		},
	}
}

// retryPolicyJSON is the retry policy of dynamicResources, for templates.
var retryPolicyJSON = map[string]any{"retry_back_off": map[string]any{
	"base_interval": seconds(streamBackoff), "max_interval": seconds(streamBackoffMax),
}}

// seconds is a duration in the JSON of protobuf.
func seconds(d time.Duration) string {
	return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) + "s"
}

// fromADS waits for the first answer however long it takes: an Envoy that goes
// on without one has no listeners and says that it is ready.
func fromADS() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		InitialFetchTimeout:   durationpb.New(0),
	}
}
