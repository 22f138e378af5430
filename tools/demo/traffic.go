package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// requestsEvery is the pace of each pair.
const requestsEvery = 50 * time.Millisecond

// upstreamPort is where a client's Envoy listens for what goes to its server.
const upstreamPort = 5000

// pair is a service that calls another through both their Envoys, all the time,
// and counts. Its methods may be called concurrently.
type pair struct {
	from, to *member
	client   *http.Client

	mu     sync.Mutex
	counts counts
}

// counts of requests.
type counts struct {
	ok, failed int
	took       time.Duration // of the last one that was answered
	err        error         // of the last one that failed
}

func newPair(from, to *member) *pair {
	client := from.pod.HTTPClient() // a connection for each request: a listener that is gone is noticed
	client.Timeout = 2 * time.Second
	return &pair{from: from, to: to, client: client}
}

// run sends requests until the context ends.
func (p *pair) run(ctx context.Context) {
	tick := time.NewTicker(requestsEvery)
	defer tick.Stop()
	for {
		started := time.Now()
		err := p.request(ctx)
		if ctx.Err() != nil {
			return // it may have failed because of that
		}
		p.mu.Lock()
		if err != nil {
			p.counts.failed++
			p.counts.err = err
		} else {
			p.counts.ok++
			p.counts.took = time.Since(started)
		}
		p.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// request asks once and looks at who answered.
func (p *pair) request(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/", upstreamPort), nil)
	if err != nil {
		return err
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1000))
	if err != nil {
		return err
	}
	if want := greeting(p.to.name); resp.StatusCode != http.StatusOK || string(body) != want {
		return fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(body)))
	}
	return nil
}

// waitAnswer asks until there is an answer.
func (p *pair) waitAnswer(ctx context.Context) error {
	for {
		err := p.request(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s to %s: %w; last: %w", p.from.name, p.to.name, context.Cause(ctx), err)
		case <-time.After(requestsEvery):
		}
	}
}

func (p *pair) now() counts {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counts
}

func greeting(name string) string { return "hello from " + name + "\n" }

// serve runs the application of a pod, behind its Envoy, until it is closed.
func serve(pod *bed.Pod, name string) (io.Closer, error) {
	l, err := pod.Listen("tcp", "127.0.0.1:8080")
	if err != nil {
		return nil, fmt.Errorf("listen as %s: %w", name, err)
	}
	app := &http.Server{
		ReadHeaderTimeout: 5 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, greeting(name))
		}),
	}
	go func() { _ = app.Serve(l) }() // ends with Close
	return app, nil
}
