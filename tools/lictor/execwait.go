package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"
	"time"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

// What is not there yet is asked for again after a pause that grows from the
// first to the second.
const (
	askAgainFirst = 100 * time.Millisecond
	askAgainLast  = time.Second
)

// obtainBootstrap registers the proxy, by which its VIP is in force, and gets its
// bootstrap, which is there when Consul knows the proxy and its secrets are in
// dir. It waits for what is not there yet, for ever when timeout is 0.
func (a *app) obtainBootstrap(ctx context.Context, timeout time.Duration, id string, req v1.RegisterRequest) (document []byte, dir string, err error) {
	wait := &waiting{app: a, pause: askAgainFirst}
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	for registered := false; ; {
		if !registered {
			var answer v1.Registered
			answer, err = ask(a, func(c *v1.Client) (v1.Registered, error) { return c.Register(ctx, id, req) })
			registered, dir = err == nil, answer.SecretsDir
			if registered {
				wait.pause = askAgainFirst
			}
		}
		if registered {
			document, err = a.askBootstrap(ctx, id)
			if err == nil {
				return document, dir, nil
			}
			// lictord may have lost its state directory meanwhile.
			registered = !isProblem(err, v1.ProblemNotFound)
		}
		if !passing(err) {
			return nil, "", err
		}
		if err := wait.again(ctx, err); err != nil {
			return nil, "", err
		}
	}
}

func (a *app) askBootstrap(ctx context.Context, id string) ([]byte, error) {
	return ask(a, func(c *v1.Client) ([]byte, error) { return c.Bootstrap(ctx, id) })
}

// waitForBootstrap gets the bootstrap of a registered proxy.
func (a *app) waitForBootstrap(ctx context.Context, id string) ([]byte, error) {
	wait := &waiting{app: a, pause: askAgainFirst}
	for {
		document, err := a.askBootstrap(ctx, id)
		if err == nil || isProblem(err, v1.ProblemNotFound) || !passing(err) {
			return document, err
		}
		if err := wait.again(ctx, err); err != nil {
			return nil, err
		}
	}
}

// waiting says once what is waited for, and paces the questions.
type waiting struct {
	app   *app
	pause time.Duration
	said  string
}

// again says why, if that is new, and waits. When ctx ends, its error says what
// was waited for last.
func (w *waiting) again(ctx context.Context, why error) error {
	sentence := why.Error()
	if ctx.Err() == nil && sentence != w.said {
		w.said = sentence
		w.app.warn("waiting: %s", strings.ReplaceAll(sentence, "\n", "; "))
	}
	select {
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			if w.said == "" {
				w.said = sentence
			}
			return fmt.Errorf("gave up waiting after --wait-timeout: %s", w.said)
		}
		return ctx.Err()
	case <-time.After(w.pause):
		w.pause = min(2*w.pause, askAgainLast)
		return nil
	}
}

// passing says whether an error may be over when asked again.
func passing(err error) bool {
	if isProblem(err, v1.ProblemNotYet, v1.ProblemUnavailable, v1.ProblemTimeout, v1.ProblemTooMany, v1.ProblemTooOften, v1.ProblemNotFound) {
		return true
	}
	var connect *v1.ConnectError
	if errors.As(err, &connect) { // it may only not have been started yet
		return !errors.Is(connect.Err, syscall.EACCES) && !errors.Is(connect.Err, syscall.EPERM)
	}
	// lictord ended, or did not answer in time.
	return slices.ContainsFunc([]error{
		io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE, context.DeadlineExceeded,
	}, func(cause error) bool { return errors.Is(err, cause) })
}

func isProblem(err error, types ...v1.ProblemType) bool {
	var problem *v1.ProblemError
	return errors.As(err, &problem) && slices.Contains(types, problem.Type)
}
