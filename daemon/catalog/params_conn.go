package catalog

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// ProxyTLS is what a proxy's own TLS files hold, where they are not those of
// the daemon. A zero field means the daemon's own.
type ProxyTLS struct {
	CACerts    []byte // PEM
	Cert, Key  []byte // PEM, of the client
	ServerName string
}

// config lays the proxy's own over the daemon's. Its errors are sentences.
func (p *ProxyTLS) config(daemon TLS, host string) (*tls.Config, error) {
	if p == nil {
		return daemon.config(host)
	}
	if len(p.CACerts) > 0 {
		daemon.CACerts = ""
	}
	if len(p.Cert) > 0 || len(p.Key) > 0 {
		daemon.Cert, daemon.Key = "", ""
	}
	if p.ServerName != "" {
		daemon.ServerName = p.ServerName
	}
	c, err := daemon.config(host)
	if err != nil {
		return nil, err
	}
	if len(p.CACerts) > 0 {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(p.CACerts) {
			return nil, &Problem{Sentence: "the CA certificates of the proxy cannot be used: there is no PEM certificate in them"}
		}
	}
	if len(p.Cert) > 0 || len(p.Key) > 0 {
		pair, err := tls.X509KeyPair(p.Cert, p.Key)
		if err != nil {
			return nil, &Problem{Sentence: "the client certificate of the proxy and its key cannot be used", Err: err}
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// connLife bounds how long a connection is used again. It is short, for the
// servers count the connections of an address; and a replaced CA is to be seen.
const connLife = time.Minute

// connKey tells connections apart: the server, and what we show it and ask of it.
type connKey struct {
	target string
	tls    [sha256.Size]byte
}

func keyOf(target string, p *ProxyTLS) connKey {
	k := connKey{target: target}
	if p != nil {
		h := sha256.New()
		for _, part := range [][]byte{p.CACerts, p.Cert, p.Key, []byte(p.ServerName)} {
			h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part)))) // never fails
			h.Write(part)
		}
		h.Sum(k.tls[:0])
	}
	return k
}

// grpcConns are connections to servers, each used by all questions of a while:
// the pods of a host that starts ask within the same second. Safe for
// concurrent use; the zero value has none.
type grpcConns struct {
	mu     sync.Mutex
	conns  map[connKey]*grpcConn
	closed bool
}

// grpcConn is one of them.
type grpcConn struct {
	target string
	dialer *paramDialer
	client *grpc.ClientConn

	key   connKey
	began time.Time
	users int  // guarded by grpcConns.mu
	stale bool // likewise: closed when the last user leaves
}

// take gives a connection out until release, and says whether others have used
// it before.
func (g *grpcConns) take(c *Catalog, target string, own *ProxyTLS) (conn *grpcConn, again bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, false, errors.New("ask for the parameters of a proxy: the catalog has stopped")
	}
	now := time.Now()
	for _, conn := range g.conns {
		if now.Sub(conn.began) > connLife {
			g.retire(conn)
		}
	}
	key := keyOf(target, own)
	if conn := g.conns[key]; conn != nil {
		conn.users++
		return conn, true, nil
	}
	d := &paramDialer{c: c, own: own}
	client, err := grpc.NewClient("passthrough:///"+target, grpc.WithContextDialer(d.dial),
		// The dialer does TLS, as for WatchServers.
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry())
	if err != nil {
		return nil, false, explainGRPC(target, err)
	}
	conn = &grpcConn{target: target, dialer: d, client: client, key: key, began: now, users: 1}
	if g.conns == nil {
		g.conns = map[connKey]*grpcConn{}
	}
	g.conns[key] = conn
	return conn, false, nil
}

// release gives a connection back.
func (g *grpcConns) release(conn *grpcConn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	conn.users--
	if conn.stale && conn.users == 0 {
		_ = conn.client.Close() // nothing is buffered that could be lost
	}
}

// retire keeps a connection from being given out again. The caller holds mu.
func (g *grpcConns) retire(conn *grpcConn) {
	if g.conns[conn.key] == conn {
		delete(g.conns, conn.key)
	}
	if !conn.stale && conn.users == 0 {
		_ = conn.client.Close() // as above
	}
	conn.stale = true
}

// drop is retire, after a failure: the next question makes a connection anew.
func (g *grpcConns) drop(conn *grpcConn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.retire(conn)
}

// close ends all that nobody uses, and gives none out any more.
func (g *grpcConns) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	for _, conn := range g.conns {
		g.retire(conn)
	}
}

// paramDialer connects for one grpcConn, for gRPC tells of a failed connect only
// its text.
type paramDialer struct {
	c   *Catalog
	own *ProxyTLS

	mu   sync.Mutex
	err  error             // of the last dial
	leaf *x509.Certificate // of the server, where it was not verified by a name; nil without TLS
}

func (d *paramDialer) dial(ctx context.Context, addr string) (net.Conn, error) {
	conn, leaf, err := d.connect(ctx, addr)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err, d.leaf = err, leaf
	return conn, err
}

func (d *paramDialer) connect(ctx context.Context, addr string) (net.Conn, *x509.Certificate, error) {
	if d.c.cfg.TLS.Disabled {
		conn, err := d.c.dial(ctx, "tcp", addr)
		return conn, nil, err
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, nil, err
	}
	config, err := d.own.config(d.c.cfg.TLS, host)
	if err != nil {
		return nil, nil, err
	}
	config.NextProtos = []string{"h2"}
	conn, err := d.c.handshakeWith(ctx, addr, config)
	if err != nil {
		return nil, nil, err
	}
	var leaf *x509.Certificate
	if config.ServerName == host {
		leaf = conn.ConnectionState().PeerCertificates[0]
	}
	return conn, leaf, nil
}

// unnamed is the certificate of a server that was verified by its address, and
// nil without TLS or with a server name.
func (d *paramDialer) unnamed() *x509.Certificate {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.leaf
}

// explain finds the sentence for a question that the server has not answered.
func (conn *grpcConn) explain(ctx context.Context, err error) error {
	d := conn.dialer
	d.c.grpcConns.drop(conn)
	d.mu.Lock()
	dialErr := d.err
	d.mu.Unlock()
	if dialErr != nil {
		return explainGRPC(conn.target, dialErr)
	}
	var (
		what  string
		alert error
	)
	switch code := status.Code(err); {
	case code == codes.DeadlineExceeded:
		what = notInTime
	case code == codes.Unavailable && d.c.cfg.TLS.Disabled && d.c.speaksTLS(ctx, conn.target):
		what, err = "wants TLS on this port: do not set --tls-disabled, or give the plain port by --consul-grpc-port", fmt.Errorf("%w: %w", ErrWantsTLS, err)
	case code == codes.Unavailable && !d.c.cfg.TLS.Disabled && d.alert(ctx, conn.target, &alert):
		return explainGRPC(conn.target, fmt.Errorf("%w: %w", alert, err))
	case code == codes.Unavailable, code == codes.Unimplemented:
		what = "ended the connection, or does not speak gRPC here: check --consul-grpc-port"
	default:
		what = cannotBeAsked
	}
	return &Problem{Sentence: "the Consul server at " + conn.target + " " + what, Err: err}
}

// alert tries, to name the cause of a failure, and keeps the alert. In TLS 1.3 a
// server refuses a client's certificate after the client's handshake has ended
// well; and what a client that writes at once reads of it is a matter of luck.
func (d *paramDialer) alert(ctx context.Context, addr string, is *error) bool {
	conn, _, err := d.connect(ctx, addr)
	if err == nil {
		if err = conn.SetReadDeadline(time.Now().Add(d.c.timing.dial)); err == nil {
			_, err = conn.Read(make([]byte, 1)) // a server that is content speaks first, too
		}
		_ = conn.Close() // nothing was written to it
	}
	*is = err
	return isAlert(err)
}

// isAlert says whether an error is a TLS alert of the other side, which
// crypto/tls calls a remote error.
func isAlert(err error) bool {
	var alert *net.OpError
	return errors.As(err, &alert) && alert.Op == "remote error"
}

// speaksTLS tries, to name the cause of a failure. Nothing is sent over the
// connection, so there is nothing to verify.
func (c *Catalog) speaksTLS(ctx context.Context, addr string) bool {
	conn, err := c.handshakeWith(ctx, addr, &tls.Config{
		InsecureSkipVerify: true,
		MinVersion:         tls.VersionTLS12, NextProtos: []string{"h2"},
	})
	if err == nil {
		_ = conn.Close() // nothing was written to it
		return true
	}
	return isAlert(err)
}
