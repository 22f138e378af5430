package catalog

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
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

// question is a call of the HTTP API.
type question struct {
	method, path string // path is escaped
	query        url.Values
	token        string // that it is asked with, "" for none
	body         any    // bytes, or what becomes JSON; nil for none
	into         any    // what the JSON of the answer is for; nil: it is passed over
}

// errUnreadable is within the *Problem of an answer that is not what was asked
// for.
var errUnreadable = errors.New("read its answer")

// do puts a question to one server. A refusal is a statusError, for which the
// caller has the sentence; every other error is a *Problem that names the server.
// The header is nil when there was no answer.
func (c *Catalog) do(ctx context.Context, target string, q question) (http.Header, error) {
	req, err := c.request(ctx, target, q)
	if err != nil {
		return nil, err
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return nil, explain(target, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(resp.Body, 1024)) // only to be looked at, and quoted
		return resp.Header, statusError{resp.StatusCode, strings.TrimSpace(string(said))}
	}
	body := io.LimitReader(resp.Body, maxBody)
	if q.into != nil {
		if err := json.NewDecoder(body).Decode(q.into); err != nil {
			return resp.Header, explain(target, fmt.Errorf("%w to %s: %w", errUnreadable, q.path, err))
		}
	}
	_, _ = io.Copy(io.Discard, body) // so that the connection is used again
	return resp.Header, nil
}

func (c *Catalog) request(ctx context.Context, target string, q question) (*http.Request, error) {
	content, plain := q.body.([]byte)
	if q.body != nil && !plain {
		var err error
		if content, err = json.Marshal(q.body); err != nil {
			return nil, &Problem{Sentence: "a question to Consul cannot be written as JSON", Err: err}
		}
	}
	where := c.scheme() + "://" + target + q.path
	if len(q.query) > 0 {
		where += "?" + q.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, q.method, where, bytes.NewReader(content))
	if err != nil {
		return nil, &Problem{Sentence: fmt.Sprintf("%s is no address of a Consul server", target), Err: err}
	}
	if q.body != nil && !plain {
		req.Header.Set("Content-Type", "application/json")
	}
	if q.token != "" {
		req.Header.Set("X-Consul-Token", q.token)
	}
	return req, nil
}

func (c *Catalog) scheme() string {
	if c.cfg.TLS.Disabled {
		return "http"
	}
	return "https"
}

// get reads from one server, with the daemon's own token. Every error of it is a
// *Problem, whose sentence names the server.
func (c *Catalog) get(ctx context.Context, target, path string, query url.Values, into any) (http.Header, error) {
	token, err := c.token()
	if err != nil {
		return nil, err
	}
	header, err := c.do(ctx, target, question{method: http.MethodGet, path: path, query: query, token: token, into: into})
	if refused := (statusError{}); errors.As(err, &refused) {
		return nil, explainStatus(target, refused, token)
	}
	return header, err
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
