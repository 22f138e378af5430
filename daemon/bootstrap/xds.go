package bootstrap

import (
	"net/netip"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
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

	// Envoy waits from 500 ms to 30 s between streams when not told otherwise.
	streamBackoff    = 50 * time.Millisecond
	streamBackoffMax = 500 * time.Millisecond

	connectTimeout = time.Second

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
func xdsCluster(vip netip.AddrPort) (*clusterv3.Cluster, error) {
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
	})
	if err != nil {
		return nil, err
	}
	return &clusterv3.Cluster{
		Name:                 xdsClusterName,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		ConnectTimeout:       durationpb.New(connectTimeout),
		UpstreamConnectionOptions: &clusterv3.UpstreamConnectionOptions{
			TcpKeepalive: &corev3.TcpKeepalive{
				KeepaliveTime:     wrapperspb.UInt32(keepaliveIdle),
				KeepaliveInterval: wrapperspb.UInt32(keepaliveInterval),
				KeepaliveProbes:   wrapperspb.UInt32(keepaliveProbes),
			},
		},
		TypedExtensionProtocolOptions: map[string]*anypb.Any{httpOptions: options},
		LoadAssignment: &endpointv3.ClusterLoadAssignment{
			ClusterName: xdsClusterName,
			Endpoints: []*endpointv3.LocalityLbEndpoints{{
				LbEndpoints: []*endpointv3.LbEndpoint{{
					HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
						Endpoint: &endpointv3.Endpoint{Address: socketAddress(vip)},
					},
				}},
			}},
		},
	}, nil
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

// fromADS waits for the first answer however long it takes: an Envoy that goes
// on without one has no listeners and says that it is ready.
func fromADS() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		InitialFetchTimeout:   durationpb.New(0),
	}
}
