package bootstrap

import (
	"bytes"
	"cmp"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"

	"github.com/lictor-mesh/lictor/state"
)

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
	_, grpcPort, err := net.SplitHostPort(c.GRPC)
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
	cmd.Env = append(variables(p), "PATH="+dir+":/usr/bin:/bin", "TMPDIR="+dir)
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
