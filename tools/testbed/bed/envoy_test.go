package bed_test

import (
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

func TestEnvoysCarryARequestFromPodToPod(t *testing.T) {
	testenv.Privileged(t)
	testenv.NoLeaks(t)
	b := bed.ForTest(t)
	c, err := b.StartCluster(within(t, 60*time.Second), bed.ClusterOptions{Servers: 1})
	check(t, err)
	host, err := b.NewHost("host-1")
	check(t, err)
	web, err := host.NewPod("web-1")
	check(t, err)
	backend, err := host.NewPod("backend-1")
	check(t, err)

	l, err := backend.Listen("tcp", "127.0.0.1:8080")
	check(t, err)
	app := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") })}
	go func() { _ = app.Serve(l) }()
	t.Cleanup(func() { app.Close() })

	ctx := within(t, 60*time.Second)
	upstream := api.Upstream{DestinationName: "backend", LocalBindPort: 5000}
	var envoys []*bed.Envoy
	for _, s := range []bed.Service{{Name: "backend", Pod: backend}, {Name: "web", Pod: web, Upstreams: []api.Upstream{upstream}}} {
		proxy, err := c.Register(ctx, s)
		check(t, err)
		started := time.Now()
		e, err := s.Pod.StartEnvoy(ctx, bed.EnvoyOptions{Bootstrap: proxy.Bootstrap(c.Server(0).XDS())})
		check(t, err)
		check(t, e.WaitUp(ctx))
		t.Logf("%s is up after %v", e.Name, time.Since(started))
		envoys = append(envoys, e)
	}

	client := web.HTTPClient()
	get := func() (string, error) {
		resp, err := client.Get("http://127.0.0.1:5000/")
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return string(body), err
	}
	var body string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if body, err = get(); err == nil && body == "hello" {
			break
		}
	}
	if err != nil || body != "hello" {
		t.Fatalf("request through the mesh: %q, %v", body, err)
	}

	t.Log("a configuration change arrives")
	before, err := envoys[1].Updates(ctx)
	check(t, err)
	_, err = c.Register(ctx, bed.Service{Name: "web", Pod: web, Upstreams: []api.Upstream{upstream, {DestinationName: "other", LocalBindPort: 5001}}})
	check(t, err)
	check(t, envoys[1].WaitUpdates(ctx, before+1))

	t.Log("an intention forbids it")
	check(t, c.Intend(ctx, "web", "backend", api.IntentionActionDeny))
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, err = get(); err != nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("requests go on 10 s after the intention")
		}
	}
}
