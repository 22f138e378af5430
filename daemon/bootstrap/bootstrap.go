// Package bootstrap writes the document that an Envoy starts from.
//
// It is made of Envoy's own types and validated by their rules before it is
// handed out, and the same parameters always give the same bytes.
package bootstrap

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
)

// Params is what differs from proxy to proxy.
type Params struct {
	ProxyID string         // as registered in Consul: Envoy's node id
	Node    string         // the node in Consul's catalog that the proxy is registered on
	XDS     netip.AddrPort // the proxy's VIP, IPv4 or IPv6, and the VIP port

	Namespace  string // "" means default, as for Consul
	Partition  string // likewise
	Datacenter string // for the tags of metrics; "" leaves that tag out
	// Service is the name of the service that the proxy stands for, for the tags
	// of metrics; "" leaves that tag out.
	Service string
	// Cluster is Envoy's node cluster; "" means Service, and without one ProxyID.
	Cluster string
	// Admin is where Envoy's admin interface listens; zero means 127.0.0.1:19000.
	// Port 0 lets Envoy choose one.
	Admin netip.AddrPort
}

// DefaultAdmin is where Envoy's admin interface listens unless told otherwise,
// as consul-dataplane has it.
var DefaultAdmin = netip.MustParseAddrPort("127.0.0.1:19000")

// Build makes the bootstrap as indented JSON. An error names what is missing,
// or the rule of Envoy's that would be broken.
func Build(p Params) ([]byte, error) {
	p, err := p.complete()
	if err != nil {
		return nil, err
	}
	metadata, err := p.metadata()
	if err != nil {
		return nil, err
	}
	admin, err := admin(p.Admin)
	if err != nil {
		return nil, err
	}
	xds, err := xdsCluster(p.XDS)
	if err != nil {
		return nil, err
	}
	b := &bootstrapv3.Bootstrap{
		Node:             p.node(metadata),
		Admin:            admin,
		StaticResources:  &bootstrapv3.Bootstrap_StaticResources{Clusters: []*clusterv3.Cluster{xds}},
		DynamicResources: dynamicResources(),
		StatsConfig:      statsConfig(p),
		LayeredRuntime:   layeredRuntime(),
	}
	if err := b.ValidateAll(); err != nil {
		return nil, fmt.Errorf("validate bootstrap of proxy %q: %w", p.ProxyID, err)
	}
	return marshal(b)
}

// complete fills in what has a default, and refuses what cannot work.
func (p Params) complete() (Params, error) {
	switch {
	case p.ProxyID == "":
		return p, fmt.Errorf("bootstrap: no proxy id")
	case p.Node == "":
		return p, fmt.Errorf("bootstrap of proxy %q: no node name: Consul finds a proxy by its node and id", p.ProxyID)
	case !p.XDS.Addr().IsValid() || p.XDS.Port() == 0:
		return p, fmt.Errorf("bootstrap of proxy %q: %v is no address and port of a VIP", p.ProxyID, p.XDS)
	}
	if p.Namespace == "" {
		p.Namespace = "default"
	}
	if p.Partition == "" {
		p.Partition = "default"
	}
	if p.Cluster == "" {
		p.Cluster = p.Service
	}
	if p.Cluster == "" {
		p.Cluster = p.ProxyID
	}
	if !p.Admin.IsValid() {
		p.Admin = DefaultAdmin
	}
	return p, nil
}

// layeredRuntime lets through what Consul sends: its route regexes are bigger
// programs than Envoy's limit allows.
func layeredRuntime() *bootstrapv3.LayeredRuntime {
	return &bootstrapv3.LayeredRuntime{Layers: []*bootstrapv3.RuntimeLayer{{
		Name: "base",
		LayerSpecifier: &bootstrapv3.RuntimeLayer_StaticLayer{StaticLayer: &structpb.Struct{
			Fields: map[string]*structpb.Value{
				// The value of Consul's own bootstrap.
				"re2.max_program_size.error_level": structpb.NewNumberValue(1 << 20),
			},
		}},
	}}}
}

// marshal writes JSON that is the same for the same message. protojson alone
// varies its white space on purpose.
func marshal(b *bootstrapv3.Bootstrap) ([]byte, error) {
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("marshal bootstrap: %w", err)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, raw, "", "  "); err != nil {
		return nil, fmt.Errorf("indent bootstrap: %w", err)
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

// validator is what every Envoy message has.
type validator interface {
	proto.Message
	ValidateAll() error
}

// pack wraps a message for one of Envoy's extension points. The rules of the
// message itself are checked here, for the bootstrap's do not look inside.
func pack(m validator) (*anypb.Any, error) {
	if err := m.ValidateAll(); err != nil {
		return nil, fmt.Errorf("validate %s: %w", m.ProtoReflect().Descriptor().FullName(), err)
	}
	a := new(anypb.Any)
	// Deterministic, so that what is handed out never depends on a map's order.
	if err := anypb.MarshalFrom(a, m, proto.MarshalOptions{Deterministic: true}); err != nil {
		return nil, fmt.Errorf("pack %s: %w", m.ProtoReflect().Descriptor().FullName(), err)
	}
	return a, nil
}
