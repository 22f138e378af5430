package bootstrap

import (
	"fmt"
	"net/netip"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filelogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

// metadata is how Consul finds the proxy, beside the node's id.
func (p Params) metadata() (*structpb.Struct, error) {
	m, err := structpb.NewStruct(map[string]any{
		"node_name": p.Node,
		"namespace": p.Namespace,
		"partition": p.Partition,
	})
	if err != nil {
		return nil, fmt.Errorf("bootstrap of proxy %q: node metadata: %w", p.ProxyID, err)
	}
	return m, nil
}

func (p Params) node(metadata *structpb.Struct) *corev3.Node {
	return &corev3.Node{Id: p.ProxyID, Cluster: p.Cluster, Metadata: metadata}
}

// admin is Envoy's admin interface, without an access log.
func admin(at netip.AddrPort) (*bootstrapv3.Admin, error) {
	log, err := pack(&filelogv3.FileAccessLog{Path: "/dev/null"})
	if err != nil {
		return nil, err
	}
	return &bootstrapv3.Admin{
		Address: socketAddress(at),
		AccessLog: []*accesslogv3.AccessLog{{
			Name:       "envoy.access_loggers.file",
			ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: log},
		}},
	}, nil
}

// socketAddress is a TCP address in Envoy's terms.
func socketAddress(ap netip.AddrPort) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address:       ap.Addr().Unmap().String(),
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(ap.Port())},
	}}}
}
