package catalog

import (
	"context"
	"errors"
	"fmt"
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
	token, err := c.token()
	if err != nil {
		return a, err
	}
	a.header, err = c.do(ctx, a.target, question{method: method, path: path, query: query, token: token, body: body, into: into})
	if refused := (statusError{}); errors.As(err, &refused) {
		a.notFound = refused.status == http.StatusNotFound
		return a, explainCall(a.target, refused, token)
	}
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, ErrNoServer) {
		return a, cause
	}
	return a, err
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
func explainCall(target string, refused statusError, token string) error {
	err := explainStatus(target, refused, token)
	switch {
	case refused.status == http.StatusForbidden:
		sentence := SentenceOf(err)
		if _, lacks, ok := strings.Cut(refused.said, " lacks permission "); ok {
			lacks, _, _ = strings.Cut(lacks, ". The anonymous token") // what follows explains that to nobody
			sentence = fmt.Sprintf("the token of --consul-token-file lacks %s", strings.ReplaceAll(lacks, "'", ""))
		}
		return &Problem{Sentence: sentence, Err: errors.Join(ErrDenied, refused)}
	case strings.Contains(refused.said, "invalid session"):
		return &Problem{Sentence: "the session of this host in Consul has ended", Err: errors.Join(ErrSession, refused)}
	}
	return err
}

// lostLeader says that a server's answer may be old.
func lostLeader(target string) error {
	return &Problem{Sentence: fmt.Sprintf("the Consul server at %s has lost its leader, so what it knows may be old", target)}
}
