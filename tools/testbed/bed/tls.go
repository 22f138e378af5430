package bed

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"

	"github.com/lictor-mesh/lictor/tools/testbed/pki"
)

// Ports of servers with TLS. Plain HTTP is then open to the server's own
// namespace alone, and plain gRPC to nobody.
const (
	HTTPSPort   = 8501
	GRPCTLSPort = 8503
)

// ServerName is what every server's certificate is for. The addresses are not
// in it, as in certificates that `consul tls cert create` makes.
const ServerName = "server.dc1.consul"

// TLS says how a cluster's servers speak. Between each other they always verify
// both sides when it is on.
type TLS int

// Kinds of TLS.
const (
	NoTLS     TLS = iota
	ServerTLS     // servers show a certificate, clients need none
	MutualTLS     // clients of HTTPS and gRPC need one too: verify_incoming
)

// authority is whom a cluster trusts and by whom its certificates are.
type authority struct {
	issuer *pki.CA
	trust  []*pki.CA
}

// startTLS makes the cluster's CA.
func (c *Cluster) startTLS() error {
	if c.options.TLS == NoTLS {
		return nil
	}
	ca, err := pki.NewCA("testbed CA 1")
	if err != nil {
		return err
	}
	c.authority = authority{issuer: ca, trust: []*pki.CA{ca}}
	return nil
}

// CA signs the certificates of servers and of what [Cluster.ClientFiles] makes;
// nil without TLS.
func (c *Cluster) CA() *pki.CA { return c.trusted().issuer }

func (c *Cluster) trusted() authority {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.authority
}

// ClientFiles makes the bundle of the CAs that are trusted now and a client's
// certificate by the present one. With [ServerTLS] the certificate is there, but
// nobody asks for it.
func (c *Cluster) ClientFiles(dir, name string) (*pki.Files, error) {
	files, err := pki.NewFiles(dir)
	if err != nil {
		return nil, err
	}
	a := c.trusted()
	if err := files.Trust(a.trust...); err != nil {
		return nil, err
	}
	leaf, err := a.issuer.Issue(pki.Request{Name: name, DNS: []string{name}})
	if err != nil {
		return nil, err
	}
	return files, files.Show(leaf)
}

// Trust lets every server verify by these CAs from now on. Their certificates
// stay as they are; no server is restarted.
func (c *Cluster) Trust(ctx context.Context, cas ...*pki.CA) error {
	c.mu.Lock()
	c.authority.trust = cas
	c.mu.Unlock()
	return c.renewTLS(ctx, func(s *Server) error { return s.tls.Trust(cas...) })
}

// Reissue gives every server a new certificate, by that CA, which from now on is
// the cluster's. No server is restarted.
func (c *Cluster) Reissue(ctx context.Context, ca *pki.CA) error {
	c.mu.Lock()
	c.authority.issuer = ca
	c.mu.Unlock()
	return c.renewTLS(ctx, func(s *Server) error { return s.certify(ca) })
}

func (c *Cluster) renewTLS(ctx context.Context, renew func(*Server) error) error {
	for _, s := range c.Servers() {
		if err := renew(s); err != nil {
			return err
		}
		if p := s.Process(); p == nil || !p.Alive() {
			continue // it reads them when it is started
		}
		if err := s.Reload(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Reload lets the server read its configuration and certificates again, and
// returns when it has.
func (s *Server) Reload(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- s.Client().Agent().Reload() }() // it takes no context
	select {
	case err := <-done:
		if err != nil {
			err = fmt.Errorf("reload %s: %w", s.Name, err)
		}
		return err
	case <-ctx.Done():
		return fmt.Errorf("reload %s: %w", s.Name, context.Cause(ctx))
	}
}

// prepareTLS makes a new server's files.
func (s *Server) prepareTLS(a authority) (err error) {
	if a.issuer == nil {
		return nil
	}
	if s.tls, err = pki.NewFiles(filepath.Join(s.Dir, "tls")); err != nil {
		return err
	}
	return errors.Join(s.tls.Trust(a.trust...), s.certify(a.issuer))
}

func (s *Server) certify(ca *pki.CA) error {
	leaf, err := ca.Issue(pki.Request{
		Name: ServerName,
		DNS:  []string{ServerName, "localhost"},
		IPs:  []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})},
	})
	if err != nil {
		return err
	}
	return s.tls.Show(leaf)
}

// tlsConfiguration is what Consul is told about it.
func (s *Server) tlsConfiguration() map[string]any {
	if s.tls == nil {
		return nil
	}
	incoming := s.cluster.options.TLS == MutualTLS
	return map[string]any{
		"tls": map[string]any{
			"defaults": map[string]any{
				"ca_file": s.tls.CA(), "cert_file": s.tls.Cert(), "key_file": s.tls.Key(),
				"verify_incoming": incoming, "verify_outgoing": true,
			},
			"internal_rpc": map[string]any{"verify_incoming": true, "verify_server_hostname": true},
		},
		"ports":     map[string]any{"https": HTTPSPort, "grpc": -1, "grpc_tls": GRPCTLSPort},
		"addresses": map[string]any{"http": "127.0.0.1"},
	}
}
