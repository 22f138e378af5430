package v1

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
	"time"
)

// DefaultSocket is where lictord listens unless told otherwise.
const DefaultSocket = "/run/lictor/lictor.sock"

// callTimeout bounds a call whose context has no deadline. It is longer than
// the daemon's own limit of 30 s for an answer, so that the daemon's reason
// arrives.
const callTimeout = 35 * time.Second

// maxAnswer bounds what the client reads of an answer, in bytes: 100,000
// proxies are about 60 MB.
const maxAnswer = 256 << 20

// Client speaks to one daemon. It is safe for concurrent use; the zero value
// is not ready to use. Calls return a *ProblemError for what the daemon
// refused and a *ConnectError when there is no daemon.
type Client struct {
	socket string
	http   http.Client
}

// NewClient makes a client of the daemon that listens on the unix socket, ""
// meaning DefaultSocket. It does not connect yet.
func NewClient(socket string) *Client {
	if socket == "" {
		socket = DefaultSocket
	}
	c := &Client{socket: socket}
	c.http.Transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
		MaxIdleConnsPerHost: 16,
		IdleConnTimeout:     10 * time.Second,
		DisableCompression:  true,
	}
	// The API redirects nowhere; following one would hide a wrong path.
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return c
}

// Close ends idle connections. The client may be used again.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// ConnectError says that no daemon answered on the socket.
type ConnectError struct {
	Socket string
	Err    error
}

// Error says what to do as well.
func (e *ConnectError) Error() string {
	reason, advice := e.Err, "is lictord running? start it, or set --socket to where it listens"
	var errno syscall.Errno
	if errors.As(e.Err, &errno) {
		reason = errno
	}
	if errno == syscall.EACCES || errno == syscall.EPERM {
		advice = "run as a user that may write to the socket"
	}
	return fmt.Sprintf("connect to lictord at %s: %v; %s", e.Socket, reason, advice)
}

// Unwrap gives the cause, such as fs.ErrNotExist.
func (e *ConnectError) Unwrap() error { return e.Err }

// Register registers a proxy, or repeats its registration.
func (c *Client) Register(ctx context.Context, id string, req RegisterRequest) (Registered, error) {
	return call[Registered](ctx, c, http.MethodPut, proxyPath(id), req)
}

// Deregister ends a proxy's registration. An absent one is success.
func (c *Client) Deregister(ctx context.Context, id string) error {
	_, err := c.do(ctx, http.MethodDelete, proxyPath(id), nil)
	return err
}

// Proxies lists the assignments that the caller may see, by id.
func (c *Client) Proxies(ctx context.Context) ([]Proxy, error) {
	answer, err := call[Proxies](ctx, c, http.MethodGet, "/v1/proxies", nil)
	return answer.Proxies, err
}

// Proxy gives one assignment.
func (c *Client) Proxy(ctx context.Context, id string) (Proxy, error) {
	return call[Proxy](ctx, c, http.MethodGet, proxyPath(id), nil)
}

// History gives a proxy's retained events, oldest first.
func (c *Client) History(ctx context.Context, id string) (History, error) {
	return call[History](ctx, c, http.MethodGet, proxyPath(id)+"/history", nil)
}

// Bootstrap gives the Envoy bootstrap of a proxy, JSON.
func (c *Client) Bootstrap(ctx context.Context, id string) ([]byte, error) {
	return c.do(ctx, http.MethodGet, proxyPath(id)+"/bootstrap", nil)
}

// Servers lists the Consul servers, by id.
func (c *Client) Servers(ctx context.Context) ([]Server, error) {
	answer, err := call[Servers](ctx, c, http.MethodGet, "/v1/servers", nil)
	return answer.Servers, err
}

// Drain moves this host's proxies away from a server and keeps them away.
func (c *Client) Drain(ctx context.Context, server string) error {
	_, err := c.do(ctx, http.MethodPost, "/v1/servers/"+url.PathEscape(server)+"/drain", nil)
	return err
}

// Undrain ends a drain.
func (c *Client) Undrain(ctx context.Context, server string) error {
	_, err := c.do(ctx, http.MethodPost, "/v1/servers/"+url.PathEscape(server)+"/undrain", nil)
	return err
}

// Status says how the daemon is.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return call[Status](ctx, c, http.MethodGet, "/v1/status", nil)
}

// Journal calls fn for each journaled event after since, in order, and with
// follow goes on as events are journaled. since 0 begins with the oldest event
// that is retained. It returns nil at the end of the events, which with follow
// means that the daemon is stopping, and ctx's error when ctx ended it.
func (c *Client) Journal(ctx context.Context, since uint64, follow bool, fn func(JournalEvent) error) error {
	query := url.Values{}
	if since > 0 {
		query.Set("since", strconv.FormatUint(since, 10))
	}
	if follow {
		query.Set("follow", "true")
	}
	return lines(ctx, c, "/v1/journal?"+query.Encode(), fn)
}

// Connections calls fn for each connection event as it happens, until ctx
// ends, whose error it then returns, or the daemon stops, which is nil.
func (c *Client) Connections(ctx context.Context, fn func(ConnectionEvent) error) error {
	return lines(ctx, c, "/v1/connections?follow=true", fn)
}

// lines reads an answer of JSON lines, one value each.
func lines[T any](ctx context.Context, c *Client, path string, fn func(T) error) error {
	answer, err := c.send(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	decoder := json.NewDecoder(answer.Body)
	for {
		var line T
		switch err := decoder.Decode(&line); {
		case err == io.EOF:
			return ctx.Err()
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return fmt.Errorf("read events from lictord: %w; the stream was cut, call again from the last event seen", err)
		}
		if err := fn(line); err != nil {
			return err
		}
	}
}

// call makes a call and decodes its answer.
func call[T any](ctx context.Context, c *Client, method, path string, body any) (T, error) {
	var answer T
	raw, err := c.do(ctx, method, path, body)
	if err != nil {
		return answer, err
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return answer, fmt.Errorf("decode lictord's answer to %s %s: %w", method, path, err)
	}
	return answer, nil
}

// do makes a call and reads its whole answer.
func (c *Client) do(ctx context.Context, method, path string, body any) ([]byte, error) {
	if _, limited := ctx.Deadline(); !limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, callTimeout)
		defer cancel()
	}
	answer, err := c.send(ctx, method, path, body)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read lictord's answer to %s %s: %w", method, path, err)
	}
	return raw, nil
}

// send makes a request; an answer that is an error becomes one. The caller
// closes the body.
func (c *Client) send(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var content io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encode the body of %s %s: %w", method, path, err)
		}
		content = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://lictord"+path, content)
	if err != nil {
		return nil, fmt.Errorf("make the request %s %s: %w", method, path, err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	answer, err := c.http.Do(req)
	if err != nil {
		return nil, c.explain(ctx, method, path, err)
	}
	if answer.StatusCode/100 != 2 {
		defer answer.Body.Close()
		return nil, problemOf(answer)
	}
	return answer, nil
}

// explain makes an error of the transport say what to do.
func (c *Client) explain(ctx context.Context, method, path string, err error) error {
	if cause := ctx.Err(); errors.Is(cause, context.DeadlineExceeded) {
		return fmt.Errorf("%s %s: lictord at %s does not answer in time; is it stopped or overloaded? see its log: %w",
			method, path, c.socket, cause)
	} else if cause != nil {
		return cause
	}
	var outer *url.Error
	if errors.As(err, &outer) {
		err = outer.Err // its URL names a host that does not exist
	}
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return &ConnectError{Socket: c.socket, Err: dial.Err}
	}
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return fmt.Errorf("%s %s: lictord at %s ended before it answered: %w; see its log, and try again", method, path, c.socket, err)
	}
	return fmt.Errorf("%s %s at %s: %w", method, path, c.socket, err)
}

// problemOf reads the problem document of an error answer; without one, the
// status stands in for it.
func problemOf(answer *http.Response) error {
	raw, err := io.ReadAll(io.LimitReader(answer.Body, MaxBody))
	problem := &ProblemError{}
	if err != nil || json.Unmarshal(raw, &problem.Problem) != nil || problem.Type == "" {
		problem.Problem = Problem{
			Type: ProblemUnknown, Title: http.StatusText(answer.StatusCode), Status: answer.StatusCode,
			Detail: fmt.Sprintf("lictord answered %s without saying why", answer.Status),
		}
	}
	return problem
}

func proxyPath(id string) string { return "/v1/proxies/" + url.PathEscape(id) }
