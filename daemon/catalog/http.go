package catalog

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// maxBody bounds what is read of an answer; 10,000 servers are far below it.
const maxBody = 16 << 20

// newClient makes the HTTP client. It is not that of Consul's api package,
// which takes addresses, tokens and TLS settings from CONSUL_* in the
// environment of the daemon, and reads its files once.
func (c *Catalog) newClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy:               nil, // a proxy for the web is none for servers of this datacenter
			DialContext:         c.dial,
			DialTLSContext:      c.dialTLS,
			MaxIdleConnsPerHost: 2,
			IdleConnTimeout:     30 * time.Second,
		},
		// Consul does not redirect; the token must not be sent elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (c *Catalog) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timing.dial)
	defer cancel()
	return c.cfg.Dial(ctx, network, addr)
}

func (c *Catalog) dialTLS(ctx context.Context, _, addr string) (net.Conn, error) {
	return c.handshake(ctx, addr)
}

// handshake connects with TLS. It reads the certificates' files for each
// connection, for they are rotated.
func (c *Catalog) handshake(ctx context.Context, addr string, protocols ...string) (net.Conn, error) {
	name, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	config, err := c.cfg.TLS.config(name)
	if err != nil {
		return nil, err
	}
	config.NextProtos = protocols
	conn, err := c.handshakeWith(ctx, addr, config)
	if err != nil {
		return nil, err // and no nil *tls.Conn in an interface
	}
	return conn, nil
}

// handshakeWith connects with TLS of one's own.
func (c *Catalog) handshakeWith(ctx context.Context, addr string, config *tls.Config) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timing.dial)
	defer cancel()
	raw, err := c.cfg.Dial(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close() // the handshake's error says more
		return nil, err
	}
	return conn, nil
}

// get asks one server for an escaped path and decodes its JSON answer. Every
// error of it is a *Problem, whose sentence names the server.
func (c *Catalog) get(ctx context.Context, target, path string, query url.Values, into any) (http.Header, error) {
	scheme := "https"
	if c.cfg.TLS.Disabled {
		scheme = "http"
	}
	where := scheme + "://" + target + path + "?" + query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, where, nil)
	if err != nil {
		return nil, &Problem{Sentence: fmt.Sprintf("%s is no address of a Consul server", target), Err: err}
	}
	token, err := c.token()
	if err != nil {
		return nil, err
	}
	if token != "" {
		req.Header.Set("X-Consul-Token", token)
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return nil, explain(target, err)
	}
	defer resp.Body.Close()
	body := io.LimitReader(resp.Body, maxBody)
	if resp.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(body, 512)) // only to be quoted
		return nil, explainStatus(target, resp.StatusCode, strings.TrimSpace(string(said)), token)
	}
	if err := json.NewDecoder(body).Decode(into); err != nil {
		return nil, explain(target, fmt.Errorf("read answer of %s: %w", path, err))
	}
	_, _ = io.Copy(io.Discard, body) // so that the connection is used again
	return resp.Header, nil
}

// token reads the token file anew.
func (c *Catalog) token() (string, error) {
	if c.cfg.TokenFile == "" {
		return "", nil
	}
	b, err := os.ReadFile(c.cfg.TokenFile)
	if err != nil {
		return "", &Problem{
			Sentence: fmt.Sprintf("the token file %s cannot be read: check --consul-token-file and the file's permissions", c.cfg.TokenFile),
			Err:      err,
		}
	}
	return strings.TrimSpace(string(b)), nil
}
