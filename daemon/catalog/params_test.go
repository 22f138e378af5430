package catalog

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/proto-public/pbdataplane"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
)

// paramFake is a Consul server that is asked for bootstrap parameters.
type paramFake struct {
	pbdataplane.UnimplementedDataplaneServiceServer

	addr     netip.AddrPort
	stop     func()
	accepted atomic.Int32 // connections
	asked    atomic.Int32

	mu     sync.Mutex
	answer func(context.Context, *pbdataplane.GetEnvoyBootstrapParamsRequest) (*pbdataplane.GetEnvoyBootstrapParamsResponse, error)
}

func (f *paramFake) GetEnvoyBootstrapParams(ctx context.Context, r *pbdataplane.GetEnvoyBootstrapParamsRequest) (*pbdataplane.GetEnvoyBootstrapParamsResponse, error) {
	f.asked.Add(1)
	f.mu.Lock()
	answer := f.answer
	f.mu.Unlock()
	return answer(ctx, r)
}

type countingListener struct {
	net.Listener
	n *atomic.Int32
}

func (l countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.n.Add(1)
	}
	return c, err
}

func newParamFake(t *testing.T, conf *tls.Config) *paramFake {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var options []grpc.ServerOption
	if conf != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(conf)))
	}
	s := grpc.NewServer(options...)
	f := &paramFake{addr: netip.MustParseAddrPort(l.Addr().String()), stop: s.Stop}
	f.say(func(context.Context, *pbdataplane.GetEnvoyBootstrapParamsRequest) (*pbdataplane.GetEnvoyBootstrapParamsResponse, error) {
		config, err := structpb.NewStruct(map[string]any{"envoy_stats_tags": []any{"a=b"}})
		return &pbdataplane.GetEnvoyBootstrapParamsResponse{
			Service:  "web", //nolint:staticcheck // what servers before 1.17 tell
			Identity: "web-identity", Datacenter: "dc1", Namespace: "default", Partition: "default",
			NodeName: "pod-virtual", Config: config, AccessLogs: []string{"{}"},
		}, err
	})
	pbdataplane.RegisterDataplaneServiceServer(s, f)
	go func() { _ = s.Serve(countingListener{l, &f.accepted}) }() // ends with Stop
	t.Cleanup(s.Stop)
	return f
}

func (f *paramFake) say(answer func(context.Context, *pbdataplane.GetEnvoyBootstrapParamsRequest) (*pbdataplane.GetEnvoyBootstrapParamsResponse, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = answer
}

// fail answers with an error only.
func (f *paramFake) fail(code codes.Code, text string) {
	f.say(func(context.Context, *pbdataplane.GetEnvoyBootstrapParamsRequest) (*pbdataplane.GetEnvoyBootstrapParamsResponse, error) {
		return nil, status.Error(code, text)
	})
}

// knowing runs a catalog whose servers are the fakes, as when they were given
// with --server-watch-disabled.
func knowing(t *testing.T, conf TLS, fakes ...*paramFake) *Catalog {
	t.Helper()
	cfg := Config{TLS: conf, WatchDisabled: true, Dial: dialLoopback}
	for i, f := range fakes {
		if i > 0 {
			cfg.Addresses += ","
		}
		cfg.Addresses += f.addr.String()
	}
	c := start(t, cfg)
	select {
	case <-c.Updates():
	case <-time.After(5 * time.Second):
		t.Fatal("no servers")
	}
	return c
}

var web = ParamsQuery{Token: "secret", ProxyID: "web-1-sidecar-proxy", Node: "pod-virtual"}

func TestParams(t *testing.T) {
	f := newParamFake(t, nil)
	c := knowing(t, TLS{Disabled: true}, f)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			p, err := c.BootstrapParams(t.Context(), web)
			if err != nil {
				t.Error(err)
				return
			}
			if p.Server != f.addr.String() || p.Service != "web" || p.Identity != "web-identity" || p.Datacenter != "dc1" ||
				p.NodeName != "pod-virtual" || p.Namespace != "default" || p.Partition != "default" || len(p.AccessLogs) != 1 ||
				len(p.Config["envoy_stats_tags"].([]any)) != 1 {
				t.Errorf("parameters %+v", p)
			}
		})
	}
	wg.Wait()
	if n := f.accepted.Load(); n != 1 {
		t.Errorf("50 questions made %d connections", n)
	}
}

// What a server says of the proxy, of its token and of itself is told apart.
func TestParamsRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		code  codes.Code
		text  string
		token string
		is    error
		want  string
	}{
		"unknown":     {codes.NotFound, "Service not found", "secret", ErrProxyUnknown, "does not know the proxy web-1-sidecar-proxy on node pod-virtual yet"},
		"deleted":     {codes.Unauthenticated, "ACL not found", "secret", ErrToken, "does not exist"},
		"no token":    {codes.Unauthenticated, "ACL not found", "", ErrToken, "wants an ACL token"},
		"no rights":   {codes.PermissionDenied, "Permission denied", "secret", ErrToken, "may not read its service"},
		"strange":     {codes.Unauthenticated, "no", "secret", ErrToken, "refuses the ACL token"},
		"rate limit":  {codes.ResourceExhausted, "rate limit reached", "secret", ErrBusy, "limits requests"},
		"bad names":   {codes.InvalidArgument, "Node ID or name required", "secret", nil, "does not take the names"},
		"broken":      {codes.Internal, "Failure looking up service", "secret", nil, "cannot be asked"},
		"no such RPC": {codes.Unimplemented, "unknown service", "secret", nil, "does not speak gRPC here"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newParamFake(t, nil)
			f.fail(tt.code, tt.text)
			ask := web
			ask.Token, ask.Server = tt.token, f.addr
			_, err := knowing(t, TLS{Disabled: true}, f).BootstrapParams(t.Context(), ask)
			for _, is := range []error{ErrProxyUnknown, ErrToken, ErrBusy} {
				if errors.Is(err, is) != (is == tt.is) {
					t.Errorf("%v: is %v: %v", err, is, errors.Is(err, is))
				}
			}
			checkSentence(t, err, tt.want)
		})
	}
}

func checkSentence(t *testing.T, err error, want string) {
	t.Helper()
	p := (*Problem)(nil)
	if !errors.As(err, &p) || !strings.Contains(p.Sentence, want) {
		t.Errorf("error %v, want %q in its sentence", err, want)
	}
	if err != nil && strings.Contains(err.Error(), "secret") {
		t.Errorf("the error shows the token: %v", err)
	}
}

// A namespace and a partition are part of what is not known.
func TestParamsTenancy(t *testing.T) {
	f := newParamFake(t, nil)
	f.say(func(_ context.Context, r *pbdataplane.GetEnvoyBootstrapParamsRequest) (*pbdataplane.GetEnvoyBootstrapParamsResponse, error) {
		return nil, status.Error(codes.NotFound, r.GetNamespace()+r.GetPartition()+r.GetNodeName()+r.GetProxyId())
	})
	ask := web
	ask.Namespace, ask.Partition = "shop", "west"
	_, err := knowing(t, TLS{Disabled: true}, f).BootstrapParams(t.Context(), ask)
	checkSentence(t, err, "in namespace shop, partition west yet")
	if !strings.Contains(err.Error(), "shopwestpod-virtualweb-1-sidecar-proxy") {
		t.Errorf("asked with other names: %v", err)
	}
}

func TestParamsOtherServers(t *testing.T) {
	good, other := newParamFake(t, nil), newParamFake(t, nil)
	c := knowing(t, TLS{Disabled: true}, good, other)
	ask := func(n int) {
		t.Helper()
		for range n {
			if p, err := c.BootstrapParams(t.Context(), web); err != nil || p.Server != good.addr.String() {
				t.Fatalf("%+v, %v, want an answer of the good one", p, err)
			}
		}
	}
	// A follower a moment behind, in what it knows of services and of tokens.
	other.fail(codes.NotFound, "Service not found")
	ask(4)
	other.fail(codes.Unauthenticated, "ACL not found")
	ask(4)
	if n := other.asked.Load(); n != 4 {
		t.Errorf("the other one was asked %d times first in 8, want 4", n)
	}
	other.fail(codes.ResourceExhausted, "rate limit reached")
	ask(4)
	other.stop()
	ask(4)

	// What was said of the proxy counts for more than who did not answer.
	good.fail(codes.NotFound, "Service not found")
	for range 4 {
		if _, err := c.BootstrapParams(t.Context(), web); !errors.Is(err, ErrProxyUnknown) {
			t.Errorf("error %v, want %v", err, ErrProxyUnknown)
		}
	}
	good.stop()
	_, err := c.BootstrapParams(t.Context(), web)
	checkSentence(t, err, "refuses the connection")
}

// A server asked for by name is the only one that is asked.
func TestParamsOfOneServer(t *testing.T) {
	one, two := newParamFake(t, nil), newParamFake(t, nil)
	one.fail(codes.Unauthenticated, "ACL not found")
	ask := web
	ask.Server = one.addr
	if _, err := knowing(t, TLS{Disabled: true}, one, two).BootstrapParams(t.Context(), ask); !errors.Is(err, ErrToken) {
		t.Errorf("error %v, want %v", err, ErrToken)
	}
	if n := two.asked.Load(); n != 0 {
		t.Errorf("the other one was asked %d times", n)
	}
}

func TestParamsUnknownServers(t *testing.T) {
	c, err := New(Config{Addresses: "127.0.0.1:1", TLS: TLS{Disabled: true}, Dial: dialLoopback})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.BootstrapParams(t.Context(), web)
	checkSentence(t, err, "no Consul server is known")
}

// A stopped server costs its time, and is not asked over the dead connection
// again once it is another process.
func TestParamsOfAStoppedServer(t *testing.T) {
	f := newParamFake(t, nil)
	c := knowing(t, TLS{Disabled: true}, f)
	f.say(func(ctx context.Context, _ *pbdataplane.GetEnvoyBootstrapParamsRequest) (*pbdataplane.GetEnvoyBootstrapParamsResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	began := time.Now()
	_, err := c.BootstrapParams(t.Context(), web)
	checkSentence(t, err, "does not answer in time")
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("took %v", took)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.BootstrapParams(ctx, web); err == nil {
		t.Error("no error")
	}
	if n := f.accepted.Load(); n != 2 {
		t.Errorf("%d connections, want a new one after the failure", n)
	}
}

// A server that we verify by its address must also have the name in its
// certificate by which an Envoy verifies it, for that knows the VIP only.
func TestParamsNameForEnvoy(t *testing.T) {
	ca := newAuthority(t)
	for want, names := range map[string][]string{
		"": {"localhost", "server.dc1.consul"}, "by which Envoy verifies it: set --tls-server-name": {"consul.example"},
	} {
		cert, key := ca.sign(&x509.Certificate{
			SerialNumber: big.NewInt(2), DNSNames: names, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		})
		f := newParamFake(t, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}})
		_, err := knowing(t, TLS{CACerts: ca.file(t.TempDir())}, f).BootstrapParams(t.Context(), web)
		if want != "" {
			checkSentence(t, err, want)
		} else if err != nil {
			t.Error(err)
		}
	}
}

// causes are what callers tell the problems of TLS apart by, by the first word
// of the sentence that is wanted.
var causes = map[string]func(error) bool{
	"unknown": func(err error) bool { var is x509.UnknownAuthorityError; return errors.As(err, &is) },
	"other":   func(err error) bool { var is x509.HostnameError; return errors.As(err, &is) },
	"may":     func(err error) bool { var is *net.OpError; return errors.As(err, &is) && is.Op == "remote error" },
	"does":    func(err error) bool { var is tls.RecordHeaderError; return errors.As(err, &is) },
	"wants":   func(err error) bool { return errors.Is(err, ErrWantsTLS) },
}

func TestParamsTLS(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	hour := time.Now().Add(time.Hour)
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	server := func(clients *x509.CertPool, names ...string) *paramFake {
		cert, key := ca.leaf(hour, names...)
		conf := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}}
		if clients != nil {
			conf.ClientAuth, conf.ClientCAs = tls.RequireAndVerifyClientCert, clients
		}
		return newParamFake(t, conf)
	}
	const name = "server.dc1.consul"
	dir := t.TempDir()
	caFile := ca.file(dir)
	named := server(nil, name)
	clientCert, clientKey := ca.leaf(hour)
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: clientCert.Raw})
	der, err := x509.MarshalECPrivateKey(clientKey)
	if err != nil {
		t.Fatal(err)
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
	writeFile(t, filepath.Join(dir, "cert"), string(certPEM))
	writeFile(t, filepath.Join(dir, "key"), string(keyPEM))
	caPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})

	for what, tt := range map[string]struct {
		server *paramFake
		daemon TLS
		proxy  *ProxyTLS
		want   string // in the sentence, "" for an answer
	}{
		"verified":                     {named, TLS{CACerts: caFile, ServerName: name}, nil, ""},
		"client certificate":           {server(roots, name), TLS{CACerts: caFile, ServerName: name, Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key")}, nil, ""},
		"the proxy's own":              {server(roots, name), TLS{CACerts: other.file(t.TempDir()), ServerName: "wrong"}, &ProxyTLS{CACerts: caPEM, Cert: certPEM, Key: keyPEM, ServerName: name}, ""},
		"wrong CA":                     {named, TLS{CACerts: other.file(t.TempDir()), ServerName: name}, nil, "unknown authority"},
		"wrong CA of the proxy":        {named, TLS{CACerts: other.file(t.TempDir()), ServerName: name}, &ProxyTLS{ServerName: name}, "unknown authority"},
		"no CA of the proxy":           {named, TLS{CACerts: caFile, ServerName: name}, &ProxyTLS{CACerts: keyPEM}, "no PEM certificate"},
		"half a pair of the proxy":     {named, TLS{CACerts: caFile, ServerName: name}, &ProxyTLS{Cert: certPEM}, "cannot be used"},
		"wrong name":                   {named, TLS{CACerts: caFile, ServerName: "server.dc2.consul"}, nil, "other names than server.dc2.consul"},
		"wrong name of the proxy":      {named, TLS{CACerts: caFile, ServerName: name}, &ProxyTLS{ServerName: "x"}, "other names than x"},
		"no client certificate":        {server(roots, name), TLS{CACerts: caFile, ServerName: name}, nil, "may want a client certificate"},
		"a server without TLS":         {newParamFake(t, nil), TLS{CACerts: caFile, ServerName: name}, nil, "does not speak TLS on its gRPC port"},
		"TLS wanted":                   {named, TLS{Disabled: true}, nil, "wants TLS on this port"},
		"TLS and a certificate wanted": {server(roots, name), TLS{Disabled: true}, nil, "wants TLS on this port"},
		"no TLS, and nothing there":    {&paramFake{addr: netip.MustParseAddrPort("127.0.0.1:1")}, TLS{Disabled: true}, nil, "refuses the connection: check that it runs, and --consul-grpc-port"},
	} {
		t.Run(what, func(t *testing.T) {
			ask := web
			ask.Server, ask.TLS = tt.server.addr, tt.proxy
			before := tt.server.asked.Load()
			_, err := knowing(t, tt.daemon, tt.server).BootstrapParams(t.Context(), ask)
			if tt.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			checkSentence(t, err, tt.want)
			if is := causes[strings.Fields(tt.want)[0]]; is != nil && !is(err) {
				t.Errorf("error %v does not wrap its cause", err)
			}
			if tt.server.asked.Load() != before {
				t.Error("a server that was not verified was shown the token")
			}
		})
	}
}
