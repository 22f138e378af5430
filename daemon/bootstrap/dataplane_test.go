package bootstrap

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"

	"github.com/lictor-mesh/lictor/state"
	"github.com/lictor-mesh/lictor/tools/testbed/binaries"
)

// The same with a consul-dataplane that is given: what it would start its Envoy
// with is what we make, but for what is different on purpose.
func TestEqualsDataplane(t *testing.T) {
	binary, err := binaries.Dataplane()
	if errors.Is(err, binaries.ErrNoDataplane) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	c := startConsul(t)
	dir := writeSecrets(t)
	for _, name := range slices.Sorted(maps.Keys(cases)) {
		p := cases[name]
		switch name {
		case "minimal", "strange names", "tenancy": // nothing that a server of the open-source edition could answer
			continue
		case "ipv6": // it splits its own listener's address at the first colon
			continue
		}
		t.Run(name, func(t *testing.T) {
			c.register(t, p)
			p.Central = c.params(t, p)
			p.Settings.Prometheus = onDisk(p.Settings.Prometheus, dir)
			equalTo := read(t, p)
			theirs := c.dataplane(t, binary, p)
			equal(t, theirs, equalTo, allow(t, p, theirs, equalTo))
		})
	}
}

// onDisk has files that exist, which consul-dataplane looks for, and merges
// metrics, as it always does.
func onDisk(s *state.PrometheusSettings, dir string) *state.PrometheusSettings {
	var there state.PrometheusSettings
	if s != nil {
		there = *s
	}
	for _, path := range []*string{&there.CACertsFile, &there.CertFile, &there.KeyFile} {
		*path = strings.Replace(*path, strings.TrimSuffix(secretsDir, "/"), dir, 1)
	}
	if there.CACertsPath != "" {
		there.CACertsPath = dir
	}
	there.MergePort = cmp.Or(there.MergePort, 20100)
	return &there
}

// dataplane starts one with an "envoy" that keeps what it is given.
func (c *consulServer) dataplane(t *testing.T, binary string, p Params) *bootstrapv3.Bootstrap {
	t.Helper()
	dir := t.TempDir()
	out := filepath.Join(dir, "bootstrap.json")
	script := "#!/bin/sh\nwhile [ $# -gt 0 ]; do\n" +
		"  case $1 in --config-path) cat \"$2\" > " + out + ".part && mv " + out + ".part " + out + "; exec sleep 60;; esac\n  shift\ndone\n"
	if err := os.WriteFile(filepath.Join(dir, "envoy"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	_, grpcPort, err := net.SplitHostPort(c.grpc)
	if err != nil {
		t.Fatal(err)
	}
	s := p.Settings.Prometheus
	adminHost, adminPort, err := net.SplitHostPort(cmp.Or(p.Settings.AdminBind, DefaultAdmin.String()))
	if err != nil {
		t.Fatal(err)
	}
	args := []string{
		"-addresses=127.0.0.1", "-grpc-port=" + grpcPort, "-server-watch-disabled", "-tls-disabled",
		"-proxy-service-id=" + p.ProxyID, "-service-node-name=" + p.Node,
		"-envoy-admin-bind-address=" + adminHost, "-envoy-admin-bind-port=" + adminPort,
		"-telemetry-prom-scrape-path=" + cmp.Or(s.ScrapePath, "/metrics"), fmt.Sprintf("-telemetry-prom-merge-port=%d", s.MergePort),
		fmt.Sprintf("-telemetry-use-central-config=%t", !p.Settings.NoCentralTelemetry),
	}
	if host, port, err := net.SplitHostPort(p.Settings.ReadyBind); err == nil {
		args = append(args, "-envoy-ready-bind-address="+host, "-envoy-ready-bind-port="+port)
	}
	if s.CertFile != "" {
		args = append(args, "-telemetry-prom-ca-certs-path="+cmp.Or(s.CACertsFile, s.CACertsPath),
			"-telemetry-prom-cert-file="+s.CertFile, "-telemetry-prom-key-file="+s.KeyFile)
	}
	var log bytes.Buffer
	cmd := exec.Command(binary, args...)
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.WaitDelay = time.Second // its envoy holds the pipe
	cmd.Env = []string{"PATH=" + dir + ":/usr/bin:/bin", "TMPDIR=" + dir}
	for _, name := range []string{"STATSD", "HOST_IP"} {
		if p.Env == nil {
			break
		}
		if value, ok := p.Env(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Signal(os.Interrupt) // it ends its envoy
		_ = cmd.Wait()                       // interrupted
	}()
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		doc, err := os.ReadFile(out)
		if err == nil {
			b := new(bootstrapv3.Bootstrap)
			if err := validate(doc, b); err != nil {
				t.Fatalf("%v\n%s", err, doc)
			}
			return b
		}
		if time.Now().After(deadline) {
			_ = cmd.Process.Kill()
			_ = cmd.Wait() // killed
			t.Fatalf("no bootstrap: %v\n%s", err, log.String())
		}
	}
}
