package catalog

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/proto-public/pbdataplane"
	"github.com/hashicorp/consul/proto-public/pbserverdiscovery"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// streamFake is the gRPC side of a Consul server.
type streamFake struct {
	pbserverdiscovery.UnimplementedServerDiscoveryServiceServer
	pbdataplane.UnimplementedDataplaneServiceServer

	addr string
	stop func()
	sets chan []*pbserverdiscovery.Server

	mu    sync.Mutex
	token string
	deaf  bool // answers nothing, as a stopped process
}

func newStreamFake(t *testing.T) *streamFake {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	f := &streamFake{addr: l.Addr().String(), stop: s.Stop, sets: make(chan []*pbserverdiscovery.Server, 8)}
	pbserverdiscovery.RegisterServerDiscoveryServiceServer(s, f)
	pbdataplane.RegisterDataplaneServiceServer(s, f)
	go func() { _ = s.Serve(l) }() // ends with Stop
	t.Cleanup(s.Stop)
	return f
}

// silent blocks while the fake is to be deaf.
func (f *streamFake) silent(ctx context.Context) {
	f.mu.Lock()
	deaf := f.deaf
	f.mu.Unlock()
	if deaf {
		<-ctx.Done()
	}
}

func (f *streamFake) WatchServers(_ *pbserverdiscovery.WatchServersRequest, s pbserverdiscovery.ServerDiscoveryService_WatchServersServer) error {
	md, _ := metadata.FromIncomingContext(s.Context())
	f.mu.Lock()
	want := f.token
	f.mu.Unlock()
	if want != strings.Join(md.Get("x-consul-token"), "") {
		return status.Error(codes.Unauthenticated, "ACL not found")
	}
	f.silent(s.Context())
	for {
		select {
		case <-s.Context().Done():
			return nil
		case set := <-f.sets:
			if err := s.Send(&pbserverdiscovery.WatchServersResponse{Servers: set}); err != nil {
				return err
			}
		}
	}
}

func (f *streamFake) GetSupportedDataplaneFeatures(ctx context.Context, _ *pbdataplane.GetSupportedDataplaneFeaturesRequest) (*pbdataplane.GetSupportedDataplaneFeaturesResponse, error) {
	f.silent(ctx)
	return &pbdataplane.GetSupportedDataplaneFeaturesResponse{}, nil
}

func ready(id, addr string) *pbserverdiscovery.Server {
	return &pbserverdiscovery.Server{Id: id, Address: addr, Version: "1.20.1"}
}

func grpcOnly(fakes ...*streamFake) Config {
	cfg := Config{TLS: TLS{Disabled: true}, GRPCOnly: true, Dial: dialLoopback}
	for i, f := range fakes {
		if i > 0 {
			cfg.Addresses += ","
		}
		cfg.Addresses += f.addr
	}
	return cfg
}

func TestStream(t *testing.T) {
	f := newStreamFake(t)
	c := start(t, grpcOnly(f))
	f.sets <- []*pbserverdiscovery.Server{ready("b", "fd00::2"), ready("a", "10.0.0.1"), ready("bad", "name.example")}
	got := want(t, c, "a", "b")
	if got[0] != (Server{ID: "a", NodeID: "a", Addr4: netip.MustParseAddr("10.0.0.1"), Port: 8502, Version: "1.20.1"}) || !got[1].Addr6.Is6() {
		t.Errorf("servers %+v", got)
	}
	f.sets <- []*pbserverdiscovery.Server{ready("c", "10.0.0.3")}
	want(t, c, "c")
	if s := c.Status(); s.Server != f.addr || s.Problem != "" {
		t.Errorf("status %+v", s)
	}
	f.sets <- nil
	s := eventually(t, c, "empty", func(s Status) bool { return s.Problem != "" })
	if !strings.Contains(s.Problem, "names no Consul server") {
		t.Errorf("problem %q", s.Problem)
	}
	none(t, c)
}

func TestStreamToken(t *testing.T) {
	f := newStreamFake(t)
	f.token = "right"
	cfg := grpcOnly(f)
	cfg.TokenFile = t.TempDir() + "/token"
	writeFile(t, cfg.TokenFile, "wrong")
	c := start(t, cfg)
	eventually(t, c, "refused", func(s Status) bool { return strings.Contains(s.Problem, "refuses the token") })
	writeFile(t, cfg.TokenFile, "right\n")
	f.sets <- []*pbserverdiscovery.Server{ready("a", "10.0.0.1")}
	want(t, c, "a")
}

func TestStreamRotation(t *testing.T) {
	for name, fault := range map[string]func(*streamFake){
		"killed": func(f *streamFake) { f.stop() },
		"stopped": func(f *streamFake) {
			f.mu.Lock()
			f.deaf = true
			f.mu.Unlock()
		},
	} {
		t.Run(name, func(t *testing.T) {
			one, two := newStreamFake(t), newStreamFake(t)
			for _, f := range []*streamFake{one, two} { // whichever is asked first
				f.sets <- []*pbserverdiscovery.Server{ready("a", "10.0.0.1")}
			}
			c := start(t, grpcOnly(one, two))
			want(t, c, "a")
			if c.Status().Server == two.addr {
				one, two = two, one
			}
			two.sets <- []*pbserverdiscovery.Server{ready("b", "10.0.0.2")}
			fault(one)
			want(t, c, "b")
			if s := c.Status(); s.Server != two.addr {
				t.Errorf("status %+v", s)
			}
		})
	}
}

// What is wrong with a server is told by the same sentences as for HTTP.
func TestStreamProblems(t *testing.T) {
	deaf := newStreamFake(t)
	deaf.deaf = true
	plain := newFake(t)
	unimplemented, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	go func() { _ = s.Serve(unimplemented) }() // ends with Stop
	t.Cleanup(s.Stop)
	for problem, cfg := range map[string]Config{
		"refuses the connection":     {Addresses: "127.0.0.1:1", TLS: TLS{Disabled: true}},
		"does not answer in time":    {Addresses: deaf.addr, TLS: TLS{Disabled: true}},
		"does not speak TLS":         {Addresses: deaf.addr},
		"does not speak gRPC here":   {Addresses: plain.addr(), TLS: TLS{Disabled: true}},
		"does not know WatchServers": {Addresses: unimplemented.Addr().String(), TLS: TLS{Disabled: true}},
	} {
		t.Run(problem, func(t *testing.T) {
			cfg.GRPCOnly, cfg.Dial = true, dialLoopback
			c := start(t, cfg)
			if s := eventually(t, c, "problem", func(s Status) bool { return s.Problem != "" }); !strings.Contains(s.Problem, problem) {
				t.Errorf("problem %q", s.Problem)
			}
		})
	}
}

// streamOfRealConsul checks what a real server sends.
func streamOfRealConsul(t *testing.T, addr, token string) {
	t.Helper()
	cfg := Config{Addresses: addr, GRPCPort: 8502, GRPCOnly: true, TLS: TLS{Disabled: true}, Dial: dialLoopback}
	anonymous := start(t, cfg)
	eventually(t, anonymous, "without a token", func(s Status) bool { return strings.Contains(s.Problem, "wants a token") })
	cfg.TokenFile = token
	c := start(t, cfg)
	select {
	case got := <-c.Updates():
		if len(got) != 1 || len(got[0].ID) != len("00000000-0000-0000-0000-000000000000") || got[0].Addr4.String() != "127.0.0.1" {
			t.Errorf("WatchServers: %+v", got)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("WatchServers: no answer; status %+v", c.Status())
	}
	first := c.Status().LastContact
	s := eventually(t, c, "pings answered", func(s Status) bool { return s.LastContact.Sub(first) > 500*time.Millisecond })
	if s.Problem != "" || s.Errors != 0 {
		t.Errorf("status %+v", s)
	}
}
