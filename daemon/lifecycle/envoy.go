package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"
	"unicode"

	"github.com/lictor-mesh/lictor/kernel/netns"
)

const (
	// askTimeout bounds a question to Envoy's admin interface.
	askTimeout = 3 * time.Second
	// maxAnswer bounds what is read of an answer to such a question, in bytes.
	maxAnswer = 64 << 10
)

var defaultAdmin = netip.MustParseAddrPort("127.0.0.1:19000")

// adminAddress is where Envoy's admin interface is. It is on a loopback address,
// or the connection would be to whatever a pod names.
func (s subject) adminAddress() (netip.AddrPort, error) {
	if s.settings.AdminBind == "" {
		return defaultAdmin, nil
	}
	at, err := netip.ParseAddrPort(s.settings.AdminBind)
	if err != nil || !at.Addr().Unmap().IsLoopback() {
		return at, fmt.Errorf("the address of Envoy's admin interface, %s, is no loopback address: nothing is asked of it", s.settings.AdminBind)
	}
	return at, nil
}

// client speaks HTTP inside the process's network namespace, to addresses of
// that namespace alone, as the process's user. It follows no redirect, uses no
// proxy, and keeps no connection.
func (l *life) client(r *running) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
				to, err := netip.ParseAddrPort(address)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", address, netns.ErrNotLocal)
				}
				ns, err := r.netns(l.owner)
				if err != nil {
					return nil, err
				}
				defer ns.Close() // the socket stays inside
				return netns.Dial(ctx, ns, to, l.process.UID)
			},
			DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxAnswer,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// ask sends a request to Envoy's admin interface, whose answer must be 200.
func (l *life) ask(ctx context.Context, r *running, method, path string) error {
	at, err := l.adminAddress()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+at.String()+path, nil)
	if err != nil {
		return fmt.Errorf("make a request to Envoy's admin interface: %w", err)
	}
	answer, err := l.client(r).Do(req)
	if err != nil {
		return explain(at, err)
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(answer.Body, maxAnswer)); err != nil {
		return explain(at, err)
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("envoy's admin interface at %s answers %s with status %d", at, path, answer.StatusCode)
	}
	return nil
}

func explain(at netip.AddrPort, err error) error {
	return fmt.Errorf("envoy's admin interface at %s does not answer: %w", at, innermost(err))
}

// innermost is an error without what the HTTP client says around it: addresses,
// and ports that differ each time.
func innermost(err error) error {
	for {
		cause := errors.Unwrap(err)
		if cause == nil {
			return err
		}
		err = cause
	}
}

// maxSentence bounds what is said of an error, in bytes: a pod's process may
// have written parts of it.
const maxSentence = 300

// sentence is an error on one line.
func sentence(err error) string {
	text := strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) {
			return ' '
		}
		return c
	}, err.Error())
	if len(text) > maxSentence {
		text = strings.ToValidUTF8(text[:maxSentence], "") + "…"
	}
	return text
}
