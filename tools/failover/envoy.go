package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// lookEvery is how often an Envoy is looked at, short against what is measured.
const lookEvery = 10 * time.Millisecond

// envoy is an Envoy in a pod, by whatever it was started.
type envoy struct {
	pod    *bed.Pod
	client *http.Client
	before uint64 // listener updates before the loss

	connected time.Time // of the stream that the change came by
	changed   time.Time // the change was there; zero for never
}

func newEnvoy(pod *bed.Pod) *envoy { return &envoy{pod: pod, client: pod.HTTPClient()} }

// updates is how many listener updates it has taken: each change here is one.
func (e *envoy) updates(ctx context.Context) (n uint64, err error) {
	const stat = "listener_manager.lds.update_success"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:19000/stats?filter=^"+stat+"$", nil)
	if err != nil {
		return 0, err
	}
	resp, err := e.client.Do(req)
	if err != nil {
		return 0, fmt.Errorf("ask envoy in %s: %w", e.pod.Name, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	text, ok := strings.CutPrefix(strings.TrimSpace(string(body)), stat+": ")
	if !ok {
		return 0, fmt.Errorf("ask envoy in %s: it says %q", e.pod.Name, body)
	}
	_, err = fmt.Sscan(text, &n)
	return n, err
}

// waitUp waits until it has its listeners.
func (e *envoy) waitUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	last := errors.New("it was not asked")
	for {
		n, err := e.updates(ctx)
		if err == nil && n > 0 {
			return nil
		}
		if ctx.Err() == nil {
			last = err
			if err == nil {
				last = errors.New("it has taken no update")
			}
		}
		if late := sleep(ctx, 20*time.Millisecond); late != nil {
			return fmt.Errorf("envoy in %s has no configuration: %w; last: %w", e.pod.Name, late, last)
		}
	}
}

// server is the server to which the pod has a connection, nil for none or two,
// and socket tells that connection from any other.
func (e *envoy) server(c *bed.Cluster) (on *bed.Server, socket uint64, err error) {
	list, err := e.pod.Sockets()
	if err != nil {
		return nil, 0, err
	}
	found := 0
	for _, sock := range list {
		for _, s := range c.Servers() {
			if sock.Established && sock.Remote == s.XDS() {
				on, socket, found = s, sock.Cookie, found+1
			}
		}
	}
	if found != 1 {
		return nil, 0, nil
	}
	return on, socket, nil
}

// watch looks until the change has come or the context ends, which is no error.
// A stream is up since its socket was first seen: now and then a list of sockets
// lacks one. Before it is up elsewhere an Envoy is not asked for the change: it
// cannot have it, and all of them together would be kept from what is measured.
func (e *envoy) watch(ctx context.Context, c *bed.Cluster, lost *bed.Server) error {
	at := lost
	var known uint64
	for {
		on, socket, err := e.server(c)
		if err != nil {
			return err
		}
		if on != nil && socket != known {
			at, known, e.connected = on, socket, time.Now()
		}
		if at != lost {
			n, err := e.updates(ctx)
			if ctx.Err() != nil {
				return nil //nolint:nilerr // it has not come in time
			}
			if err != nil {
				return err
			}
			if n > e.before {
				e.changed = time.Now()
				return nil
			}
		}
		if sleep(ctx, lookEvery) != nil {
			return nil //nolint:nilerr // likewise
		}
	}
}
