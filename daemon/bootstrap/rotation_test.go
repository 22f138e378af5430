package bootstrap

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/lictor-mesh/lictor/state"
)

// Tokens, CAs and client certificates that are replaced in their files are used
// by the next stream of an Envoy that goes on running, and a server that is not
// ours is shown no token.
func TestEnvoyFollowsSecrets(t *testing.T) {
	binary := envoy(t)
	ca, next := newCA(t), newCA(t)
	dir := t.TempDir()
	write := func(name string, content []byte, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		beside := filepath.Join(dir, "."+name)
		if err := os.WriteFile(beside, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(beside, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	token := func(text string) { content, err := TokenSecret(text); write(TokenFile, content, err) }
	trust := func(of ...*authority) {
		var all []byte
		for _, a := range of {
			all = append(all, a.pem...)
		}
		content, err := CASecret(all)
		write(CAFile, content, err)
	}
	client := func(name string) {
		pair := ca.leaf(t, name)
		key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		content, err := ClientSecret(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]}),
			pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
		write(ClientFile, content, err)
	}
	token("first")
	trust(ca)
	client("one")

	server := newADS(t, ca.leaf(t, "server.dc1.consul"), ca)
	doc, err := Build(Params{
		ProxyID: "web-1-sidecar-proxy", Node: "pod-virtual", XDS: server.addr,
		Settings: state.EnvoySettings{AdminBind: "127.0.0.1:0"}, Central: Central{Datacenter: "dc1"},
		TLS:       &TLS{CAFile: filepath.Join(dir, CAFile), ClientFile: filepath.Join(dir, ClientFile)},
		TokenFile: filepath.Join(dir, TokenFile),
	})
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(doc, []byte("first")) {
		t.Fatal("the token is in the bootstrap")
	}
	config := filepath.Join(dir, "bootstrap.json")
	if err := os.WriteFile(config, doc, 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(binary, "--config-path", config, "--use-dynamic-base-id", "--concurrency", "1", "-l", "warning")
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		if t.Failed() {
			t.Logf("envoy says:\n%.5000s", log.String())
		}
	})

	server.want(t, stream{"first", "one"})
	token("second")
	server.want(t, stream{"second", "one"})
	client("two")
	server.want(t, stream{"second", "two"})

	trust(ca, next)
	server.certificate(next.leaf(t, "server.dc1.consul"))
	server.want(t, stream{"second", "two"})
	trust(next)
	server.want(t, stream{"second", "two"})

	for what, impostor := range map[string]tls.Certificate{
		"another CA":       newCA(t).leaf(t, "server.dc1.consul"),
		"the CA of before": ca.leaf(t, "server.dc1.consul"),
		"another name":     next.leaf(t, "server.dc2.consul"),
		"a client's":       next.leaf(t, "client.dc1.consul"),
	} {
		server.certificate(impostor)
		server.none(t, what)
	}
	server.certificate(next.leaf(t, "server.dc1.consul"))
	server.want(t, stream{"second", "two"})
}

// stream is what a stream came with.
type stream struct{ token, client string }

// ads is a Consul server that accepts streams and ends them soon.
type ads struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	addr netip.AddrPort

	mu      sync.Mutex
	pair    tls.Certificate
	streams chan stream // the newest ones; older ones are dropped
}

func newADS(t *testing.T, pair tls.Certificate, clients *authority) *ads {
	t.Helper()
	a := &ads{pair: pair, streams: make(chan stream, 1)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a.addr = netip.MustParseAddrPort(l.Addr().String())
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(clients.pem)
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			a.mu.Lock()
			defer a.mu.Unlock()
			pair := a.pair // which may be replaced during the handshake
			return &pair, nil
		},
	})))
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(s, a)
	go func() { _ = s.Serve(l) }() // ends with Stop
	t.Cleanup(s.Stop)
	return a
}

func (a *ads) DeltaAggregatedResources(s discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	md, _ := metadata.FromIncomingContext(s.Context())
	p, _ := peer.FromContext(s.Context())
	got := stream{
		token:  strings.Join(md.Get(tokenHeader), "|"),
		client: p.AuthInfo.(credentials.TLSInfo).State.PeerCertificates[0].Subject.CommonName,
	}
	a.mu.Lock()
	select {
	case <-a.streams:
	default:
	}
	a.streams <- got // there is room: only this function sends, and it holds the lock
	a.mu.Unlock()
	select {
	case <-s.Context().Done():
	case <-time.After(100 * time.Millisecond):
	}
	return nil
}

func (a *ads) certificate(pair tls.Certificate) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pair = pair
}

// want waits for a stream that came with these.
func (a *ads) want(t *testing.T, want stream) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var last stream
	for {
		select {
		case last = <-a.streams:
			if last == want {
				return
			}
		case <-ctx.Done():
			t.Fatalf("the last stream was %+v, want %+v", last, want)
		}
	}
}

// none fails on a stream, but for one that was accepted before.
func (a *ads) none(t *testing.T, what string) {
	t.Helper()
	time.Sleep(200 * time.Millisecond) // what was open ends
	select {
	case <-a.streams:
	default:
	}
	select {
	case got := <-a.streams:
		t.Errorf("%s: stream %+v", what, got)
	case <-time.After(700 * time.Millisecond): // more than Envoy's longest backoff
	}
}

// authority is a CA made for a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newCA(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "test CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// leaf is a certificate for a server or a client of that name.
func (a *authority) leaf(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
