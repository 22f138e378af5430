package catalog

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/consul/proto-public/pbdataplane"
	"github.com/hashicorp/consul/proto-public/pbserverdiscovery"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// watchStream follows the servers on one server by the gRPC stream
// WatchServers, which any valid token may read, until that fails.
func (c *Catalog) watchStream(ctx context.Context, target string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)

	token, err := c.token()
	if err != nil {
		return err
	}
	if token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "x-consul-token", token)
	}
	d := &grpcDialer{c: c, target: target, token: token}
	conn, err := grpc.NewClient("passthrough:///"+target, grpc.WithContextDialer(d.dial),
		// The dialer does TLS: so its errors are those of http.go, and the files
		// are read for each connection.
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig())
	if err != nil {
		return explain(target, err)
	}
	defer func() { _ = conn.Close() }() // nothing is buffered that could be lost

	// The first answer must come in time; how long it is until the next one says
	// nothing.
	first := time.AfterFunc(c.timing.answer, func() { cancel(explain(target, context.DeadlineExceeded)) })
	defer first.Stop()
	stream, err := pbserverdiscovery.NewServerDiscoveryServiceClient(conn).
		WatchServers(ctx, &pbserverdiscovery.WatchServersRequest{})
	for started := false; err == nil; started = true {
		var resp *pbserverdiscovery.WatchServersResponse
		if resp, err = stream.Recv(); err != nil {
			break
		}
		first.Stop()
		if err := c.applyStream(target, resp.GetServers()); err != nil {
			return err
		}
		if !started {
			wg.Go(func() { cancel(c.ping(ctx, conn, d)) })
		}
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return d.explain(err)
}

// ping asks a server something small, again and again, for a stopped server
// does not end its stream. It cannot be an HTTP/2 ping, of which Consul allows
// one in 15 s.
func (c *Catalog) ping(ctx context.Context, conn *grpc.ClientConn, d *grpcDialer) error {
	client := pbdataplane.NewDataplaneServiceClient(conn)
	for {
		sleep(ctx, c.heartbeatPause())
		rctx, cancel := context.WithTimeout(ctx, c.timing.heartbeat)
		_, err := client.GetSupportedDataplaneFeatures(rctx, &pbdataplane.GetSupportedDataplaneFeaturesRequest{})
		cancel()
		switch status.Code(err) {
		case codes.OK:
			c.contact(d.target)
		case codes.ResourceExhausted: // alive
		default:
			return d.explain(err)
		}
	}
}

// applyStream hands on what WatchServers sent: addresses without ports, and
// node ids in place of names.
func (c *Catalog) applyStream(target string, list []*pbserverdiscovery.Server) error {
	var servers []Server
	for _, s := range list {
		host := s.GetAddress()
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		a, err := netip.ParseAddr(host)
		if a = a.Unmap(); err != nil || s.GetId() == "" || !usable(a) {
			continue
		}
		server := Server{ID: s.GetId(), NodeID: s.GetId(), Port: c.cfg.GRPCPort, Version: s.GetVersion()}
		if a.Is4() {
			server.Addr4 = a
		} else {
			server.Addr6 = a
		}
		servers = append(servers, server)
	}
	if len(servers) == 0 {
		return &Problem{Sentence: fmt.Sprintf("%s names no Consul server that is ready: check the servers' autopilot state", target)}
	}
	slices.SortFunc(servers, func(a, b Server) int { return cmp.Compare(a.ID, b.ID) })
	c.targets.setCatalog(servers, c.cfg.GRPCPort)
	c.contact(target)
	if c.publish(servers) {
		c.log.Info("consul servers changed", "servers", len(servers), "from", target)
	}
	return nil
}

// grpcDialer connects for one gRPC client, which tells of a failed connect only
// its text.
type grpcDialer struct {
	c      *Catalog
	target string
	token  string // sent with each call

	mu  sync.Mutex
	err error // of the last dial
}

func (d *grpcDialer) dial(ctx context.Context, addr string) (conn net.Conn, err error) {
	if d.c.cfg.TLS.Disabled {
		conn, err = d.c.dial(ctx, "tcp", addr)
	} else {
		conn, err = d.c.handshake(ctx, addr, "h2")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
	return conn, err
}

// explain finds the sentence for a failed call.
func (d *grpcDialer) explain(err error) error {
	d.mu.Lock()
	dialErr := d.err
	d.mu.Unlock()
	if dialErr != nil {
		return explainGRPC(d.target, dialErr)
	}
	var what string
	switch status.Code(err) {
	case codes.Unauthenticated, codes.PermissionDenied:
		what = refusesToken(d.token)
	case codes.ResourceExhausted:
		what = limitsUs
	case codes.DeadlineExceeded:
		what = notInTime
	case codes.Unimplemented:
		what = "does not know WatchServers: check --consul-grpc-port, and that it is a Consul server of 1.14 or later"
	case codes.Unavailable:
		what = "ended the connection, or does not speak gRPC here: check --consul-grpc-port, and --tls-disabled"
	default:
		what = cannotBeAsked
	}
	return &Problem{Sentence: "the Consul server at " + d.target + " " + what, Err: err}
}
