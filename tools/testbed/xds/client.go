// Package xds is a small client that asks Consul for a proxy's configuration as
// Envoy does: delta xDS over one ADS stream, clusters first, then endpoints and
// listeners, every answer acknowledged; one stream per connection, and after
// its end a new connection, soon. Hundreds of them fit into a process.
package xds

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	envoytype "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
)

// Type URLs of what is subscribed to.
const (
	ClusterType  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	EndpointType = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	ListenerType = "type.googleapis.com/envoy.config.listener.v3.Listener"
)

// Backoff between the end of a stream and the next attempt, as in the
// bootstraps that Lictor makes: a random time below what doubles from the
// first to the second, as Envoy's JitteredExponentialBackOffStrategy has it.
const (
	MinBackoff = 10 * time.Millisecond
	MaxBackoff = 500 * time.Millisecond
)

// Kind says what an event reports.
type Kind string

// Kinds of events.
const (
	Connected Kind = "connected" // a TCP connection is up; nothing was said on it
	Up        Kind = "up"        // the stream's first listeners have arrived: the proxy is configured
	Updated   Kind = "updated"   // listeners, clusters or endpoints have arrived
	Ended     Kind = "ended"     // the stream, or the attempt at one, is over
)

// Event is something that happened to a client.
type Event struct {
	Proxy   string     `json:"proxy"`
	Kind    Kind       `json:"kind"`
	At      time.Time  `json:"at"`
	Attempt uint64     `json:"attempt"` // of connecting, from 1
	Local   string     `json:"local,omitempty"`
	Peer    string     `json:"peer,omitempty"`   // as getpeername says: a VIP stays one
	Server  string     `json:"server,omitempty"` // really connected to, where the caller can tell
	Type    string     `json:"type,omitempty"`   // of Updated
	Version string     `json:"version,omitempty"`
	Changed int        `json:"changed,omitempty"` // resources added, changed or removed by the update
	Code    codes.Code `json:"code,omitempty"`    // of Ended
	Message string     `json:"message,omitempty"`
}

// Proxy is what a client says about itself.
type Proxy struct {
	ID        string `json:"id"`
	Service   string `json:"service"`
	NodeName  string `json:"node_name"`
	Namespace string `json:"namespace,omitempty"` // default "default"
	Partition string `json:"partition,omitempty"` // default "default"
}

// Client keeps one stream up. Run may be called once.
type Client struct {
	Proxy Proxy
	// Dial connects to the server, or to the VIP that stands for one.
	Dial func(ctx context.Context) (net.Conn, error)
	// OnEvent is called for each event, in order, by one goroutine at a time.
	OnEvent func(Event)
	// Server tells the real peer of a connection, "" if unknown; may be nil.
	Server func(net.Conn) string

	attempt uint64
}

// Run connects, and again whenever a stream has ended, until the context ends.
// It returns the context's error.
func (c *Client) Run(ctx context.Context) error {
	backoff := MinBackoff
	for {
		c.attempt++
		up, err := c.stream(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		st := status.Convert(err)
		c.report(Event{Kind: Ended, Code: st.Code(), Message: st.Message()})
		if up {
			backoff = MinBackoff
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(rand.N(backoff)):
		}
		backoff = min(2*backoff, MaxBackoff)
	}
}

func (c *Client) report(e Event) {
	e.Proxy, e.At, e.Attempt = c.Proxy.ID, time.Now(), c.attempt
	c.OnEvent(e)
}

// stream lives as long as one connection, and tells whether it was ever up.
func (c *Client) stream(ctx context.Context) (up bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := c.Dial(ctx)
	if err != nil {
		return false, status.Error(codes.Unavailable, err.Error())
	}
	peer := Event{Kind: Connected, Local: conn.LocalAddr().String(), Peer: conn.RemoteAddr().String()}
	if c.Server != nil {
		peer.Server = c.Server(conn)
	}
	c.report(peer)
	channel, err := overConn(conn)
	if err != nil {
		return false, errors.Join(err, conn.Close())
	}
	defer conn.Close() // the channel closes it too, unless it never took it
	defer channel.Close()
	ads, err := discovery.NewAggregatedDiscoveryServiceClient(channel).DeltaAggregatedResources(ctx)
	if err != nil {
		return false, err
	}
	s := session{client: c, ads: ads, peer: peer}
	err = s.run()
	return s.up, err
}

// overConn is a channel that uses this connection and never makes another: a
// second stream must be a second connect, which is what the kernel sees.
func overConn(conn net.Conn) (*grpc.ClientConn, error) {
	var once sync.Once
	dial := func(context.Context, string) (net.Conn, error) {
		err := errors.New("the connection has ended")
		var first net.Conn
		once.Do(func() { first, err = conn, nil })
		return first, err
	}
	return grpc.NewClient("passthrough:///consul",
		grpc.WithContextDialer(dial),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(50<<20)),
		grpc.WithDisableServiceConfig(),
	)
}

// session is the talk on one stream.
type session struct {
	client  *Client
	ads     discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	peer    Event
	asked   map[string]bool // types subscribed to
	watched map[string]bool // endpoints subscribed to
	up      bool
}

func (s *session) run() error {
	s.asked, s.watched = map[string]bool{}, map[string]bool{}
	first := &discovery.DeltaDiscoveryRequest{Node: s.client.Proxy.node(), TypeUrl: ClusterType}
	if err := s.send(first); err != nil {
		return err
	}
	for {
		resp, err := s.ads.Recv()
		if err != nil {
			return err
		}
		// The acknowledgement comes first: Consul holds back the next type until then.
		if err := s.send(&discovery.DeltaDiscoveryRequest{TypeUrl: resp.TypeUrl, ResponseNonce: resp.Nonce}); err != nil {
			return err
		}
		s.report(resp)
		if err := s.follow(resp); err != nil {
			return err
		}
	}
}

// send turns io.EOF, which says that the stream has ended, into why it did.
func (s *session) send(req *discovery.DeltaDiscoveryRequest) error {
	s.asked[req.TypeUrl] = true
	if s.ads.Send(req) == nil {
		return nil
	}
	for {
		if _, err := s.ads.Recv(); err != nil {
			return err
		}
	}
}

func (s *session) report(resp *discovery.DeltaDiscoveryResponse) {
	e := s.peer
	e.Kind, e.Type, e.Version = Updated, resp.TypeUrl, resp.SystemVersionInfo
	e.Changed = len(resp.Resources) + len(resp.RemovedResources)
	if e.Version == "" {
		e.Version = resp.Nonce
	}
	s.client.report(e)
	if resp.TypeUrl == ListenerType && !s.up {
		s.up = true
		e.Kind = Up
		s.client.report(e)
	}
}

// follow subscribes to what the answer makes an Envoy ask for.
func (s *session) follow(resp *discovery.DeltaDiscoveryResponse) error {
	if resp.TypeUrl != ClusterType {
		return nil
	}
	var names []string
	for _, r := range resp.Resources {
		var c cluster.Cluster
		if err := r.Resource.UnmarshalTo(&c); err != nil {
			return fmt.Errorf("read cluster %s: %w", r.Name, err)
		}
		if c.GetType() != cluster.Cluster_EDS {
			continue
		}
		name := c.GetEdsClusterConfig().GetServiceName()
		if name == "" {
			name = c.Name
		}
		if !s.watched[name] {
			s.watched[name] = true
			names = append(names, name)
		}
	}
	if len(names) > 0 {
		err := s.send(&discovery.DeltaDiscoveryRequest{TypeUrl: EndpointType, ResourceNamesSubscribe: names})
		if err != nil {
			return err
		}
	}
	if s.asked[ListenerType] {
		return nil
	}
	return s.send(&discovery.DeltaDiscoveryRequest{TypeUrl: ListenerType})
}

func (p Proxy) node() *core.Node {
	or := func(v, def string) string {
		if v == "" {
			return def
		}
		return v
	}
	metadata, err := structpb.NewStruct(map[string]any{
		"node_name": p.NodeName, "namespace": or(p.Namespace, "default"), "partition": or(p.Partition, "default"),
	})
	if err != nil {
		panic(err) // only for invalid UTF-8, which Consul would have refused as a name
	}
	return &core.Node{
		Id: p.ID, Cluster: p.Service, Metadata: metadata, UserAgentName: "envoy",
		UserAgentVersionType: &core.Node_UserAgentBuildVersion{UserAgentBuildVersion: &core.BuildVersion{
			Version: &envoytype.SemanticVersion{MajorNumber: 1, MinorNumber: 38, Patch: 2},
		}},
	}
}
