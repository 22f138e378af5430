package bootstrap

import (
	"encoding/json"
	"fmt"
	"net/netip"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filelogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

// keyAccessLogs stands for what Consul makes of AccessLogs of proxy-defaults.
const keyAccessLogs = "AccessLogs"

// metadata is how Consul finds the proxy, beside the node's id.
func (b *builder) metadata() (*structpb.Struct, error) {
	m, err := structpb.NewStruct(map[string]any{
		"node_name": b.Node,
		"namespace": b.Namespace,
		"partition": b.Partition,
	})
	if err != nil {
		return nil, fmt.Errorf("bootstrap of proxy %q: node metadata: %w", b.ProxyID, err)
	}
	return m, nil
}

func (b *builder) node(metadata *structpb.Struct) *corev3.Node {
	return &corev3.Node{Id: b.ProxyID, Cluster: b.cluster, Metadata: metadata}
}

// accessLog is that of Envoy's admin interface: none, unless Consul says so.
func (b *builder) accessLog(p *parts) ([]json.RawMessage, error) {
	var all []json.RawMessage
	for i, text := range b.Central.AccessLogs {
		if err := checkObject([]byte(text), new(accesslogv3.AccessLog)); err != nil {
			return nil, &ConfigError{Proxy: b.ProxyID, Key: keyAccessLogs, Err: fmt.Errorf("makes a logger, number %d, which %w", i+1, err)}
		}
		all = append(all, json.RawMessage(text))
	}
	if all != nil {
		return all, nil
	}
	log, err := pack(&filelogv3.FileAccessLog{Path: "/dev/null"})
	if err != nil {
		return nil, err
	}
	return []json.RawMessage{p.of(&accesslogv3.AccessLog{
		Name:       "envoy.access_loggers.file",
		ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: log},
	})}, nil
}

// socketAddress is an address and port in Envoy's terms.
func socketAddress(ap netip.AddrPort) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address:       ap.Addr().Unmap().String(),
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(ap.Port())},
	}}}
}
