package catalog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// asked is what a call was answered with.
type asked struct {
	target   string
	header   http.Header
	notFound bool // status 404, whose header says as much as any
}

// followedEvery is how soon a call notices that another server is followed.
const followedEvery = time.Second

// ask makes a call of the server that is followed, with a body of bytes or of
// JSON, and decodes its answer, unless into is nil. Its errors are *Problems.
func (c *Catalog) ask(ctx context.Context, limit time.Duration, method, path string, query url.Values, body, into any) (asked, error) {
	a := asked{target: c.Status().Server}
	if a.target == "" || c.cfg.WatchDisabled || c.cfg.GRPCOnly {
		return a, &Problem{Sentence: "no Consul server answers", Err: ErrNoServer}
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if limit > c.timing.answer { // a server that hangs would let it block for minutes
		var left func()
		ctx, left = c.whileFollowed(ctx, a.target)
		defer left()
	}
	req, token, err := c.request(ctx, a.target, method, path, query, body)
	if err != nil {
		return a, err
	}
	resp, err := c.client.Do(req)
	if err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, ErrNoServer) {
			err = cause
		}
		return a, explain(a.target, err)
	}
	defer resp.Body.Close()
	a.header, a.notFound = resp.Header, resp.StatusCode == http.StatusNotFound
	if resp.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(resp.Body, 512)) // only to be quoted
		return a, explainCall(a.target, resp.StatusCode, strings.TrimSpace(string(said)), token)
	}
	answer := io.LimitReader(resp.Body, maxBody)
	if into != nil {
		if err := json.NewDecoder(answer).Decode(into); err != nil {
			return a, explain(a.target, fmt.Errorf("read answer of %s: %w", path, err))
		}
	}
	_, _ = io.Copy(io.Discard, answer) // so that the connection is used again
	return a, nil
}

func (c *Catalog) request(ctx context.Context, target, method, path string, query url.Values, body any) (_ *http.Request, token string, err error) {
	var content []byte
	switch body := body.(type) {
	case nil:
	case []byte:
		content = body
	default:
		if content, err = json.Marshal(body); err != nil {
			return nil, "", &Problem{Sentence: "a question to Consul cannot be written as JSON", Err: err}
		}
	}
	where := c.scheme() + "://" + target + path + "?" + query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, where, bytes.NewReader(content))
	if err != nil {
		return nil, "", &Problem{Sentence: fmt.Sprintf("%s is no address of a Consul server", target), Err: err}
	}
	if token, err = c.token(); err != nil {
		return nil, "", err
	}
	if token != "" {
		req.Header.Set("X-Consul-Token", token)
	}
	return req, token, nil
}

func (c *Catalog) scheme() string {
	if c.cfg.TLS.Disabled {
		return "http"
	}
	return "https"
}

// whileFollowed is ctx until another server is followed, or none.
func (c *Catalog) whileFollowed(ctx context.Context, target string) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			sleep(ctx, followedEvery)
			if c.Status().Server != target {
				cancel(&Problem{Sentence: fmt.Sprintf("the Consul server at %s is no longer followed", target), Err: ErrNoServer})
			}
		}
	}()
	return ctx, func() { cancel(nil); <-done }
}

// explainCall finds the sentence for an answer that is a refusal. What a token
// lacks Consul says itself.
func explainCall(target string, code int, said, token string) error {
	if _, lacks, ok := strings.Cut(said, " lacks permission "); ok && code == http.StatusForbidden {
		lacks, _, _ = strings.Cut(lacks, ". The anonymous token") // what follows explains that to nobody
		return &Problem{
			Sentence: fmt.Sprintf("the token of --consul-token-file lacks %s", strings.ReplaceAll(lacks, "'", "")),
			Err:      errors.Join(ErrDenied, statusError{code, said}),
		}
	}
	err := explainStatus(target, code, said, token)
	switch {
	case code == http.StatusForbidden:
		err = &Problem{Sentence: sentenceOf(err), Err: errors.Join(ErrDenied, statusError{code, said})}
	case strings.Contains(said, "invalid session"):
		err = &Problem{Sentence: "the session of this host in Consul has ended", Err: errors.Join(ErrSession, statusError{code, said})}
	}
	return err
}

// sentenceOf is an error's sentence for people.
func sentenceOf(err error) string {
	if p := (*Problem)(nil); errors.As(err, &p) {
		return p.Sentence
	}
	return err.Error()
}

// lostLeader says that a server's answer may be old.
func lostLeader(target string) error {
	return &Problem{Sentence: fmt.Sprintf("the Consul server at %s has lost its leader, so what it knows may be old", target)}
}
