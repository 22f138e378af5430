package catalog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/hashicorp/consul/proto-public/pbdataplane"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// What a server says of a proxy, beside its parameters; for errors.Is. Each comes
// as a *Problem. A *Problem of TLS wraps what crypto/tls and crypto/x509 say:
// x509.UnknownAuthorityError of a wrong CA, x509.HostnameError of a wrong name,
// tls.RecordHeaderError of a server without TLS, and a *net.OpError whose Op is
// "remote error" of one that refuses us.
var (
	// ErrProxyUnknown: the proxy is not in Consul's catalog, or not yet on the
	// server that was asked, which may be a moment behind its leader.
	ErrProxyUnknown = errors.New("proxy not in the catalog")
	// ErrToken: the proxy's token does not exist, has expired, or may not read
	// its service. A token is unknown to some servers for a moment after a login.
	ErrToken = errors.New("token refused")
	// ErrBusy: the server limits requests now. It says nothing of the proxy.
	ErrBusy = errors.New("server limits requests")
	// ErrWantsTLS: we speak plain text to a port of TLS.
	ErrWantsTLS = errors.New("server wants TLS")
)

// ParamsQuery names a proxy, and what is shown to the servers for it.
type ParamsQuery struct {
	// Server is the gRPC address of the one that is asked; zero means any one
	// that is known, and another one when that does not answer.
	Server    netip.AddrPort
	Token     string // of the proxy; "" for none
	ProxyID   string
	Node      string // that it is registered on
	Namespace string // "" means that of the token, or default
	Partition string // likewise
	// TLS of the proxy's own, for this connection; nil means the daemon's.
	TLS *ProxyTLS
}

// Params is what Consul says of a proxy's bootstrap.
type Params struct {
	Server     string // that answered, host:port
	Service    string // that the proxy stands for, or the gateway's own
	Identity   string // "" when the server does not tell one
	Datacenter string // of the server
	Namespace  string
	Partition  string
	NodeName   string
	// Config is the proxy's Proxy.Config over Config of proxy-defaults.
	Config map[string]any
	// AccessLogs are access loggers of Envoy, each as JSON.
	AccessLogs []string
}

// BootstrapParams asks a Consul server for the parameters of a proxy's
// bootstrap, with the proxy's token. An error is ErrProxyUnknown, ErrToken,
// ErrBusy, or a *Problem of the connection. Of several servers that do not
// agree, one that answers is believed; then one that says something about the
// proxy; then the first.
func (c *Catalog) BootstrapParams(ctx context.Context, ask ParamsQuery) (Params, error) {
	targets, err := c.paramTargets(ask.Server)
	if err != nil {
		return Params{}, err
	}
	var refusal, first error
	for _, target := range targets {
		p, err := c.paramsFrom(ctx, target, ask)
		switch {
		case err == nil:
			return p, nil
		case ctx.Err() != nil:
			return Params{}, cmp.Or(refusal, first, err)
		case errors.Is(err, ErrToken) || errors.Is(err, ErrProxyUnknown):
			if refusal != nil {
				// Two servers agree, or nearly so. Asking more of them would only
				// multiply the questions of a host that waits for its services.
				return Params{}, refusal
			}
			refusal = err
		case first == nil:
			first = err
		}
	}
	return Params{}, cmp.Or(refusal, first)
}

// paramTargets are the servers to ask, in turn: each call begins with the next
// one, so that a host's proxies do not all ask one server.
func (c *Catalog) paramTargets(server netip.AddrPort) ([]string, error) {
	if server.IsValid() {
		return []string{server.String()}, nil
	}
	all := c.grpcTargets()
	if len(all) == 0 {
		why := "none has answered yet"
		if p := c.Status().Problem; p != "" {
			why = p
		}
		return nil, &Problem{Sentence: "no Consul server is known to ask: " + why}
	}
	first := int(c.paramTurn.Add(1) % uint64(len(all)))
	return append(all[first:], all[:first]...), nil
}

// grpcTargets are the gRPC addresses of the servers that are known.
func (c *Catalog) grpcTargets() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []string
	for _, s := range c.last {
		addr := s.Addr4
		if !addr.IsValid() {
			addr = s.Addr6
		}
		all = append(all, netip.AddrPortFrom(addr, s.Port).String())
	}
	return all
}

// paramsFrom asks one server.
func (c *Catalog) paramsFrom(ctx context.Context, target string, ask ParamsQuery) (Params, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timing.answer)
	defer cancel()
	p, again, err := c.paramsOnce(ctx, target, ask)
	if again {
		p, _, err = c.paramsOnce(ctx, target, ask)
	}
	return p, err
}

// paramsOnce asks over one connection. again says that this had been used before
// and has ended, maybe while nobody asked, which tells nothing of the server.
func (c *Catalog) paramsOnce(ctx context.Context, target string, ask ParamsQuery) (p Params, again bool, err error) {
	conn, used, err := c.grpcConns.take(c, target, ask.TLS)
	if err != nil {
		return Params{}, false, err
	}
	defer c.grpcConns.release(conn)
	resp, err := conn.params(ctx, ask)
	if err != nil {
		again = used && status.Code(err) == codes.Unavailable
		return Params{}, again, conn.explainParams(ctx, ask, err)
	}
	if err := conn.checkName(resp.GetDatacenter()); err != nil {
		return Params{}, false, err
	}
	return answered(target, resp), false, nil
}

// params puts the question.
func (conn *grpcConn) params(ctx context.Context, ask ParamsQuery) (*pbdataplane.GetEnvoyBootstrapParamsResponse, error) {
	if ask.Token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "x-consul-token", ask.Token)
	}
	return pbdataplane.NewDataplaneServiceClient(conn.client).GetEnvoyBootstrapParams(ctx,
		&pbdataplane.GetEnvoyBootstrapParamsRequest{
			NodeSpec:  &pbdataplane.GetEnvoyBootstrapParamsRequest_NodeName{NodeName: ask.Node},
			ServiceId: ask.ProxyID, //nolint:staticcheck // what servers before 1.17 read
			ProxyId:   ask.ProxyID,
			Namespace: ask.Namespace,
			Partition: ask.Partition,
		})
}

func answered(target string, resp *pbdataplane.GetEnvoyBootstrapParamsResponse) Params {
	return Params{
		Server:     target,
		Service:    resp.GetService(), //nolint:staticcheck // the only one that servers before 1.17 tell
		Identity:   resp.GetIdentity(),
		Datacenter: resp.GetDatacenter(),
		Namespace:  resp.GetNamespace(),
		Partition:  resp.GetPartition(),
		NodeName:   resp.GetNodeName(),
		Config:     resp.GetConfig().AsMap(),
		AccessLogs: resp.GetAccessLogs(),
	}
}

// explainParams finds the sentence for a question that failed.
func (conn *grpcConn) explainParams(ctx context.Context, ask ParamsQuery, err error) error {
	said := status.Convert(err).Message()
	problem := func(is error, format string, args ...any) error {
		return &Problem{Sentence: fmt.Sprintf(format, args...), Err: fmt.Errorf("%w: %.300s", is, said)}
	}
	who := ask.ProxyID
	switch code := status.Code(err); code {
	case codes.NotFound:
		return problem(ErrProxyUnknown, "Consul does not know the proxy %s on node %s%s yet: register it, or check its id and --node-name",
			who, ask.Node, tenancy(ask))
	case codes.Unauthenticated, codes.PermissionDenied:
		switch {
		case ask.Token == "":
			return problem(ErrToken, "Consul wants an ACL token of the proxy %s: give it one, by a token, a token file or a login", who)
		case code == codes.PermissionDenied:
			return problem(ErrToken, "the ACL token of the proxy %s may not read its service: give it a policy with service write for the service and its sidecar", who)
		case strings.Contains(said, "ACL not found"):
			return problem(ErrToken, "the ACL token of the proxy %s does not exist: it was deleted, has expired, or belongs to another datacenter", who)
		}
		return problem(ErrToken, "the Consul server at %s refuses the ACL token of the proxy %s", conn.target, who)
	case codes.ResourceExhausted:
		return problem(ErrBusy, "the Consul server at %s limits requests for now", conn.target)
	case codes.InvalidArgument:
		return &Problem{Sentence: fmt.Sprintf("the Consul server at %s does not take the names of the proxy %s on node %s%s", conn.target, who, ask.Node, tenancy(ask)), Err: err}
	}
	return conn.explain(ctx, err)
}

// tenancy names the namespace and the partition where they are given.
func tenancy(ask ParamsQuery) string {
	var in []string
	if ask.Namespace != "" {
		in = append(in, "namespace "+ask.Namespace)
	}
	if ask.Partition != "" {
		in = append(in, "partition "+ask.Partition)
	}
	if in == nil {
		return ""
	}
	return " in " + strings.Join(in, ", ")
}

// checkName refuses a server whose certificate does not carry the name that the
// proxy's Envoy will ask for: its VIP is in no certificate.
func (conn *grpcConn) checkName(datacenter string) error {
	leaf := conn.dialer.unnamed()
	if leaf == nil {
		return nil
	}
	name := ServerName(datacenter)
	if err := leaf.VerifyHostname(name); err != nil {
		host, _, _ := net.SplitHostPort(conn.target)
		return &Problem{
			Sentence: fmt.Sprintf("the certificate of the Consul server at %s is for %s but not for %s, by which Envoy verifies it: set --tls-server-name to a name that is in it", conn.target, host, name),
			Err:      err,
		}
	}
	return nil
}

// ServerName is the name in servers' certificates, as Consul itself makes and
// verifies them, in a datacenter whose DNS domain is the usual one.
func ServerName(datacenter string) string { return "server." + datacenter + ".consul" }
