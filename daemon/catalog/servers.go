package catalog

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
)

// Server is a Consul server that proxies may use.
type Server struct {
	// ID is the name of its node, unique in a datacenter; host:port with
	// Config.WatchDisabled, NodeID with Config.GRPCOnly.
	ID      string
	NodeID  string     // Consul's own id of the node, a UUID; "" with WatchDisabled
	Addr4   netip.Addr // zero when it has no IPv4 address
	Addr6   netip.Addr // zero when it has no IPv6 address
	Port    uint16     // gRPC: with TLS unless TLS is disabled
	Version string     // of Consul, "" when unknown
}

// entry is what we read of an element of /v1/health/service/consul.
type entry struct {
	Node struct {
		ID              string
		Node            string
		Address         string
		TaggedAddresses map[string]string
	}
	Service struct {
		Address         string
		TaggedAddresses map[string]struct{ Address string }
		Meta            map[string]string
	}
}

// parseEntries makes servers of the catalog's answer, sorted by id, and names
// those that nobody can use for want of an address or a gRPC port. Non-voters
// and read replicas serve xDS as well as voters do.
func parseEntries(entries []entry, tls bool, port uint16) (servers []Server, unusable []string) {
	for _, e := range entries {
		s := Server{ID: e.Node.Node, NodeID: e.Node.ID, Port: port, Version: e.Service.Meta["version"]}
		s.Addr4 = e.address(netip.Addr.Is4, "lan_ipv4")
		s.Addr6 = e.address(netip.Addr.Is6, "lan_ipv6")
		if port == 0 {
			s.Port = e.grpcPort(tls)
		}
		if s.ID == "" || s.Port == 0 || !s.Addr4.IsValid() && !s.Addr6.IsValid() {
			unusable = append(unusable, e.Node.Node)
			continue
		}
		servers = append(servers, s)
	}
	slices.SortFunc(servers, func(a, b Server) int { return cmp.Compare(a.ID, b.ID) })
	slices.Sort(unusable)
	return slices.CompactFunc(servers, func(a, b Server) bool { return a.ID == b.ID }), unusable
}

// address is the server's address of one family: the one it is known by, or
// else the one tagged with that family.
func (e entry) address(family func(netip.Addr) bool, tag string) netip.Addr {
	for _, s := range []string{
		cmp.Or(e.Service.Address, e.Node.Address),
		e.Service.TaggedAddresses[tag].Address,
		e.Node.TaggedAddresses[tag],
	} {
		if a, err := netip.ParseAddr(s); err == nil && usable(a.Unmap()) && family(a.Unmap()) {
			return a.Unmap()
		}
	}
	return netip.Addr{}
}

// usable says whether an address can be a server's, for every process of the host.
// 0.0.0.0 leads each to whoever listens in its own namespace, and a zone means
// another link in each.
func usable(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && a.Zone() == ""
}

// grpcPort is the port that the server itself tells, 0 when it has none.
func (e entry) grpcPort(tls bool) uint16 {
	key := "grpc_port"
	if tls {
		key = "grpc_tls_port"
	}
	port, err := strconv.ParseUint(e.Service.Meta[key], 10, 16)
	if err != nil {
		return 0
	}
	return uint16(port)
}
