package bootstrap

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Names of clusters, listeners and secrets that Consul's own bootstrap has too:
// people's dashboards and scripts know them.
const (
	selfAdmin         = "self_admin"
	prometheusBackend = "prometheus_backend"

	prometheusName = "envoy_prometheus_metrics"
	statsName      = "envoy_metrics"
	readyName      = "envoy_ready"

	prometheusCert       = "prometheus_cert"
	prometheusValidation = "prometheus_validation_context"
)

// front is a listener of Envoy's own, which lets one thing of the admin
// interface out and nothing else.
type front struct {
	name    string
	at      netip.AddrPort
	match   *routev3.RouteMatch
	cluster string
	rewrite string
	tls     *corev3.TransportSocket
}

// fronts are those that are wanted, in the order in which Consul has them.
func (b *builder) fronts() ([]front, error) {
	var all []front
	if b.knobs.prometheusBind.IsValid() {
		f := front{
			name: prometheusName, at: b.knobs.prometheusBind, cluster: selfAdmin, rewrite: "/stats/prometheus",
			match: exactly(scrapePath(b.prometheus().ScrapePath)),
		}
		if b.prometheus().MergePort != 0 {
			f.cluster = prometheusBackend
		}
		var err error
		if f.tls, err = b.prometheusTLS(); err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	if b.knobs.statsBind.IsValid() {
		all = append(all, front{name: statsName, at: b.knobs.statsBind, match: below("/stats"), cluster: selfAdmin, rewrite: "/stats"})
	}
	if b.ready.IsValid() {
		all = append(all, front{name: readyName, at: b.ready, match: exactly("/ready"), cluster: selfAdmin, rewrite: "/ready"})
	}
	return all, b.checkAddresses()
}

// checkAddresses refuses two listeners at one address: Envoy would not start.
func (b *builder) checkAddresses() error {
	taken := map[netip.AddrPort]string{b.admin: "Envoy's admin interface is"}
	if _, ok := taken[b.ready]; ok && b.ready.Port() != 0 {
		return fmt.Errorf("bootstrap of proxy %q: the ready listener cannot listen on %v, where Envoy's admin interface is", b.ProxyID, b.ready)
	}
	taken[b.ready] = "the ready listener is"
	for _, l := range []struct {
		key, is string
		at      netip.AddrPort
	}{
		{keyPrometheusBind, "the Prometheus listener is", b.knobs.prometheusBind},
		{keyStatsBind, "the stats listener is", b.knobs.statsBind},
	} {
		if is, ok := taken[l.at]; ok && l.at.Port() != 0 { // the zero address, of no listener, has port 0 too
			return &ConfigError{Proxy: b.ProxyID, Key: l.key, Err: fmt.Errorf("is %v, where %s", l.at, is)}
		}
		taken[l.at] = l.is
	}
	return nil
}

// scrapePath is a path that Envoy can match: it never has a query in it.
func scrapePath(path string) string {
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	if u, err := url.ParseRequestURI(path); err == nil && u.RawQuery != "" {
		return u.Path
	}
	return path
}

func exactly(path string) *routev3.RouteMatch {
	return &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Path{Path: path}}
}

func below(prefix string) *routev3.RouteMatch {
	return &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: prefix}}
}

// ownClusters are all of ours, that of the servers first.
func (b *builder) ownClusters(xds *clusterv3.Cluster) []*clusterv3.Cluster {
	clusters := []*clusterv3.Cluster{xds}
	merged := b.knobs.prometheusBind.IsValid() && b.prometheus().MergePort != 0
	if merged {
		clusters = append(clusters, backend(prometheusBackend,
			netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(b.prometheus().MergePort))))
	}
	if b.knobs.prometheusBind.IsValid() && !merged || b.knobs.statsBind.IsValid() || b.ready.IsValid() {
		clusters = append(clusters, backend(selfAdmin, b.admin))
	}
	if b.knobs.collectorDir != "" {
		clusters = append(clusters, b.collectorCluster())
	}
	return clusters
}

// backend is a cluster of one address, by HTTP/1.1.
func backend(name string, at netip.AddrPort) *clusterv3.Cluster {
	c := static(name, 5, socketAddress(at))
	c.TypedExtensionProtocolOptions = map[string]*anypb.Any{httpOptions: plainHTTP1()}
	return c
}

// static is a cluster of one address.
func static(name string, timeoutSeconds int64, at *corev3.Address) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name:                 name,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		ConnectTimeout:       &durationpb.Duration{Seconds: timeoutSeconds},
		LoadAssignment: &endpointv3.ClusterLoadAssignment{
			ClusterName: name,
			Endpoints: []*endpointv3.LocalityLbEndpoints{{
				LbEndpoints: []*endpointv3.LbEndpoint{{
					HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: at}},
				}},
			}},
		},
	}
}

// ownListeners are the listeners of all fronts.
func (b *builder) ownListeners() ([]*listenerv3.Listener, error) {
	fronts, err := b.fronts()
	if err != nil {
		return nil, err
	}
	var all []*listenerv3.Listener
	for _, f := range fronts {
		l, err := f.listener()
		if err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	return all, nil
}

func (f front) listener() (*listenerv3.Listener, error) {
	router, err := pack(&routerv3.Router{})
	if err != nil {
		return nil, err
	}
	manager, err := pack(&hcmv3.HttpConnectionManager{
		StatPrefix: f.name,
		CodecType:  hcmv3.HttpConnectionManager_HTTP1,
		RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{
			Name: "self_admin_route",
			VirtualHosts: []*routev3.VirtualHost{{
				Name:    selfAdmin,
				Domains: []string{"*"},
				Routes: []*routev3.Route{
					{Match: f.match, Action: &routev3.Route_Route{Route: &routev3.RouteAction{
						ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: f.cluster},
						PrefixRewrite:    f.rewrite,
					}}},
					{Match: below("/"), Action: &routev3.Route_DirectResponse{
						DirectResponse: &routev3.DirectResponseAction{Status: 404},
					}},
				},
			}},
		}},
		HttpFilters: []*hcmv3.HttpFilter{{
			Name: "envoy.filters.http.router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: router},
		}},
	})
	if err != nil {
		return nil, err
	}
	return &listenerv3.Listener{
		Name:    f.name + "_listener",
		Address: socketAddress(f.at),
		FilterChains: []*listenerv3.FilterChain{{
			Filters: []*listenerv3.Filter{{
				Name:       "envoy.filters.network.http_connection_manager",
				ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: manager},
			}},
			TransportSocket: f.tls,
		}},
	}, nil
}

// prometheusTLS is for the Prometheus listener alone: what probes /ready, or
// scrapes /stats, has no certificate of it.
func (b *builder) prometheusTLS() (*corev3.TransportSocket, error) {
	if b.prometheus().CertFile == "" {
		return nil, nil
	}
	context := &tlsv3.CommonTlsContext{
		TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{{Name: prometheusCert}},
	}
	if b.prometheusCA() != nil {
		context.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContextSdsSecretConfig{
			ValidationContextSdsSecretConfig: &tlsv3.SdsSecretConfig{Name: prometheusValidation},
		}
	}
	return transportSocket(&tlsv3.DownstreamTlsContext{
		CommonTlsContext: context,
		// As Consul leaves it: a scraper's certificate is verified if it has one.
		// Said aloud, for Envoy is to change its default.
		RequireClientCertificate: wrapperspb.Bool(false),
	})
}

// prometheusCA is where the CA of scrapers comes from, nil for none.
func (b *builder) prometheusCA() *corev3.DataSource {
	s := b.prometheus()
	switch {
	case s.CACertsFile != "":
		return file(s.CACertsFile)
	case s.CACertsPath != "":
		return inline(b.PrometheusCAs)
	}
	return nil
}

// prometheusSecrets are the files of the Prometheus listener, read by Envoy.
func (b *builder) prometheusSecrets() []*tlsv3.Secret {
	s := b.prometheus()
	if !b.knobs.prometheusBind.IsValid() || s.CertFile == "" {
		return nil
	}
	secrets := []*tlsv3.Secret{{Name: prometheusCert, Type: &tlsv3.Secret_TlsCertificate{
		TlsCertificate: &tlsv3.TlsCertificate{CertificateChain: file(s.CertFile), PrivateKey: file(s.KeyFile)},
	}}}
	if ca := b.prometheusCA(); ca != nil {
		secrets = append(secrets, &tlsv3.Secret{Name: prometheusValidation, Type: &tlsv3.Secret_ValidationContext{
			ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: ca},
		}})
	}
	return secrets
}

func file(path string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: path}}
}

func transportSocket(m validator) (*corev3.TransportSocket, error) {
	config, err := pack(m)
	if err != nil {
		return nil, err
	}
	return &corev3.TransportSocket{
		Name: "tls", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: config},
	}, nil
}
