// Package bootstrap writes the document that an Envoy starts from.
//
// It is made of Envoy's own types and of what Consul's central configuration
// adds, validated by their rules before it is handed out; and the same
// parameters always give the same bytes. There is no secret in it.
package bootstrap

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"

	"github.com/lictor-mesh/lictor/state"
)

// Params is what differs from proxy to proxy. ProxyID, Node and XDS are required.
type Params struct {
	ProxyID string         // as registered in Consul: Envoy's node id
	Node    string         // the node in Consul's catalog that the proxy is registered on
	XDS     netip.AddrPort // the proxy's VIP, IPv4 or IPv6, and the VIP port

	Namespace string // "" means default, as for Consul
	Partition string // likewise

	// Settings are those of the proxy's owner; their zero value has Envoy's admin
	// interface at 127.0.0.1:19000 and no listeners of Envoy's own.
	Settings state.EnvoySettings
	// Central is what Consul says of the proxy; its zero value adds nothing.
	Central Central

	// TLS to the servers; nil means none at all, as with --tls-disabled.
	TLS *TLS
	// TokenFile is the path of the document that TokenSecret made, as the proxy
	// sees it; "" means that Envoy sends no token.
	TokenFile string
	// PrometheusCAs are the certificates, as PEM, of Settings.Prometheus.CACertsPath,
	// which may be a directory: Envoy cannot read one.
	PrometheusCAs []byte
	// Env looks up a variable of the proxy's environment, which the URLs of stats
	// sinks may name; nil: it has none.
	Env func(name string) (value string, ok bool)
}

// Central is what Consul tells of a proxy, by GetEnvoyBootstrapParams.
type Central struct {
	// Service that the proxy stands for, in the tags of metrics and as Envoy's
	// node cluster; "" leaves the tag out and has ProxyID as the cluster.
	Service    string
	Identity   string // instead of Service, when not ""
	Datacenter string // "" leaves that tag out
	Namespace  string // "" means that of Params
	Partition  string // likewise
	NodeName   string // likewise, Node
	// Config is Proxy.Config over Config of proxy-defaults; the keys that mean
	// something here begin with envoy_, others are passed over.
	Config map[string]any
	// AccessLogs are for Envoy's admin interface, each as JSON.
	AccessLogs []string
}

// TLS is how Envoy verifies the servers. Paths are as the proxy sees them.
type TLS struct {
	CAFile     string // document that CASecret made, required
	ClientFile string // document that ClientSecret made; "" means no client certificate
	// ServerName that the servers' certificates must have; "" means
	// server.<datacenter>.consul, as Consul itself makes them. It is also the SNI.
	ServerName string
}

// DefaultAdmin is where Envoy's admin interface listens unless told otherwise,
// as consul-dataplane has it.
var DefaultAdmin = netip.MustParseAddrPort("127.0.0.1:19000")

// Build makes the bootstrap as indented JSON. An error names what is missing, or
// the rule of Envoy's that would be broken; one that is the central
// configuration's fault is a *ConfigError.
func Build(p Params) ([]byte, error) {
	b, err := newBuilder(p)
	if err != nil {
		return nil, err
	}
	doc, err := b.document()
	if err != nil {
		return nil, err
	}
	if b.knobs.template != "" {
		return b.fromTemplate(doc)
	}
	text, err := indent(doc)
	if err != nil {
		return nil, err
	}
	// The parts are valid; this finds what is wrong between them.
	if err := validate(text, newBootstrap()); err != nil {
		return nil, fmt.Errorf("validate bootstrap of proxy %q: %w", p.ProxyID, err)
	}
	return text, nil
}

// builder is Params with everything in it filled in.
type builder struct {
	Params
	knobs   knobs
	admin   netip.AddrPort
	ready   netip.AddrPort // zero: no such listener
	cluster string         // Envoy's node cluster
	source  string         // the service in the tags of metrics
}

// newBuilder fills in what has a default, and refuses what cannot work.
func newBuilder(p Params) (*builder, error) {
	switch {
	case p.ProxyID == "":
		return nil, fmt.Errorf("bootstrap: no proxy id")
	case p.Node == "":
		return nil, fmt.Errorf("bootstrap of proxy %q: no node name: Consul finds a proxy by its node and id", p.ProxyID)
	case !p.XDS.Addr().IsValid() || p.XDS.Port() == 0:
		return nil, fmt.Errorf("bootstrap of proxy %q: %v is no address and port of a VIP", p.ProxyID, p.XDS)
	}
	p.Node = cmp.Or(p.Central.NodeName, p.Node)
	p.Namespace = cmp.Or(p.Central.Namespace, p.Namespace, "default")
	p.Partition = cmp.Or(p.Central.Partition, p.Partition, "default")
	b := &builder{Params: p, source: cmp.Or(p.Central.Identity, p.Central.Service)}
	b.cluster = cmp.Or(b.source, p.ProxyID)

	var err error
	if b.admin, err = b.bind("the admin interface", p.Settings.AdminBind, DefaultAdmin); err != nil {
		return nil, err
	}
	if b.ready, err = b.bind("the ready listener", p.Settings.ReadyBind, netip.AddrPort{}); err != nil {
		return nil, err
	}
	if err := b.completeTLS(); err != nil {
		return nil, err
	}
	if err := b.checkPrometheus(); err != nil {
		return nil, err
	}
	if !p.Settings.NoCentralTelemetry {
		b.knobs, err = readKnobs(p.ProxyID, p.Central.Config)
	}
	return b, err
}

// completeTLS fills in the name of the servers.
func (b *builder) completeTLS() error {
	if b.TLS == nil {
		return nil
	}
	t := *b.TLS
	if t.CAFile == "" {
		return fmt.Errorf("bootstrap of proxy %q: no CA: without one Envoy would trust any server", b.ProxyID)
	}
	if t.ServerName == "" {
		if b.Central.Datacenter == "" {
			return fmt.Errorf("bootstrap of proxy %q: neither the datacenter nor --tls-server-name is known, so Envoy could not verify a server", b.ProxyID)
		}
		t.ServerName = "server." + b.Central.Datacenter + ".consul"
	}
	b.TLS = &t
	return nil
}

// checkPrometheus refuses half of a TLS configuration.
func (b *builder) checkPrometheus() error {
	s := b.prometheus()
	switch {
	case (s.CertFile == "") != (s.KeyFile == ""):
		return fmt.Errorf("bootstrap of proxy %q: the certificate and the key of the Prometheus listener belong together: give both or none", b.ProxyID)
	case s.CertFile == "" && (s.CACertsFile != "" || s.CACertsPath != ""):
		return fmt.Errorf("bootstrap of proxy %q: the Prometheus listener has a CA but no certificate, so it would not speak TLS: give its certificate and key too", b.ProxyID)
	case s.CACertsFile == "" && s.CACertsPath != "" && len(b.PrometheusCAs) == 0:
		return fmt.Errorf("bootstrap of proxy %q: there is no CA certificate at %s for the Prometheus listener", b.ProxyID, s.CACertsPath)
	case s.MergePort < 0 || s.MergePort > 65535:
		return fmt.Errorf("bootstrap of proxy %q: %d is no port of merged metrics", b.ProxyID, s.MergePort)
	}
	return nil
}

// prometheus are the settings of the Prometheus listener, with their defaults.
func (b *builder) prometheus() state.PrometheusSettings {
	var s state.PrometheusSettings
	if b.Settings.Prometheus != nil {
		s = *b.Settings.Prometheus
	}
	s.ScrapePath = cmp.Or(s.ScrapePath, "/metrics")
	return s
}

// bind reads a host:port of the owner's; "" means otherwise. Envoy listens on
// addresses, not on names.
func (b *builder) bind(what, text string, otherwise netip.AddrPort) (netip.AddrPort, error) {
	if text == "" {
		return otherwise, nil
	}
	at, err := parseBind(text)
	if err != nil {
		return at, fmt.Errorf("bootstrap of proxy %q: %s cannot listen on %q: %w", b.ProxyID, what, text, err)
	}
	return at, nil
}

func parseBind(text string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("it is no address and port, as in 127.0.0.1:19000")
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	at, err := netip.ParseAddrPort(net.JoinHostPort(host, port))
	if err != nil || at.Addr().Zone() != "" {
		return netip.AddrPort{}, fmt.Errorf("it is no address and port, as in 127.0.0.1:19000")
	}
	return at, nil
}
