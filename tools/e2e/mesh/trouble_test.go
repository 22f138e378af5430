package mesh

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"golang.org/x/sys/unix"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/tools/testbed/bed"
	"github.com/lictor-mesh/lictor/tools/testbed/pki"
)

// A lictord that cannot verify the servers says why, each time in another
// sentence, and lets nothing through: neither a connection nor a bootstrap.
func TestServersThatCannotBeVerified(t *testing.T) {
	w := newWorld(t, 60*time.Second, bed.ClusterOptions{
		Servers: 1, TLS: bed.MutualTLS, ACL: true,
		Config: map[string]any{"addresses": map[string]any{"http": "0.0.0.0"}}, // plain HTTP beside HTTPS
	})
	foreign, err := pki.NewCA("foreign")
	w.must(err)
	files, err := w.cluster.ClientFiles(filepath.Join(w.host.Dir, "other"), "lictor.other")
	w.must(err)
	wrong := filepath.Join(w.host.Dir, "foreign.pem")
	w.must(os.WriteFile(wrong, foreign.PEM(), 0o644))
	port := fmt.Sprintf("--consul-http-port=%d", bed.HTTPSPort)
	show := []string{"--tls-cert=" + files.Cert(), "--tls-key=" + files.Key()}

	for _, tt := range []struct {
		name   string
		args   []string
		says   string
		reason string // in the metrics
	}{
		{"no-token", append(show, port, "--ca-certs="+files.CA(), "--tls-server-name="+bed.ServerName), "token", "no-servers"},
		{"another-ca", append(show, port, "--ca-certs="+wrong, "--tls-server-name="+bed.ServerName), "unknown authority", "wrong-ca"},
		{"another-name", append(show, port, "--ca-certs="+files.CA(), "--tls-server-name=server.dc2.consul"), "certificate for other names than server.dc2.consul", "wrong-name"},
		{"no-certificate", []string{port, "--ca-certs=" + files.CA(), "--tls-server-name=" + bed.ServerName}, "may want a client certificate", "tls-refused"},
		{"no-tls", append(show, "--consul-http-port=8500", "--ca-certs="+files.CA(), "--tls-server-name="+bed.ServerName), "does not speak TLS", "no-tls"},
		{"tls-is-disabled", []string{"--tls-disabled", port}, "wants TLS on this port", "wants-tls"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := w.in(t)
			host := w.newHost(tt.name)
			l := w.startLictor(host, bed.LictorOptions{Cluster: w.cluster, NoTLS: true, NoToken: tt.name == "no-token", Args: tt.args})
			t.Cleanup(func() { _ = l.Kill() })
			w.troubled(l, tt.says)
			w.metric(l, `^lictor_consul_query_errors_total\{reason="`+tt.reason+`"\} `, 1)
			if w.sum(l, `^lictor_consul_contact `) != 0 {
				t.Error("the metrics say that there is contact")
			}
			w.nothingPasses(l, host)
		})
	}
}

// Tokens that the servers know, and that lack a right which xDS wants: Consul
// says nothing to such an Envoy, so lictord does.
func TestTokensThatXDSWillNotHave(t *testing.T) {
	w := newWorld(t, 90*time.Second, bed.ClusterOptions{Servers: 1, TLS: bed.ServerTLS, ACL: true})
	s := &secure{world: w}
	token := func(service string) string {
		made, err := w.cluster.NewToken(w.ctx, bed.TokenOptions{Services: []string{service}})
		w.must(err)
		return made.SecretID
	}

	web := w.deploy("web")
	own := token("web")
	file := w.file(web, "token", token("api"))
	w.exec(web, bed.ExecOptions{Credential: bed.Credential{TokenFile: file}})
	w.troubled(w.lictor, web.proxy.ID, "has no right service:write for web")
	s.state(web, "refused")
	w.metric(w.lictor, `^lictor_proxy_credentials\{.*state="refused".*\} `, 1)
	w.eventually(10*time.Second, func() error { // Envoy is there, and waits
		_, err := web.envoy.Updates(w.ctx)
		return err
	})
	if n, err := web.envoy.Updates(w.ctx); n != 0 || err != nil {
		t.Errorf("Envoy has taken %d updates of its listeners with the token of another service: %v", n, err)
	}
	history, err := w.lictor.CLI(w.ctx, w.host.Node, "history", web.proxy.ID)
	w.must(err)
	if n := strings.Count(string(history), "CredentialChanged"); n != 1 {
		t.Errorf("it is %d times in the history:\n%s", n, history)
	}
	w.file(web, "token", own)
	w.must(web.envoy.WaitUp(w.ctx))
	s.state(web, "ok")

	gateway := w.gateway(bed.Gateway{Kind: api.ServiceKindAPIGateway}, "gateway-1")
	w.exec(gateway, bed.ExecOptions{Credential: bed.Credential{Token: token("api-gateway")}})
	w.troubled(w.lictor, gateway.proxy.ID, "has no right mesh:read")
	s.state(gateway, "refused")

	mesh := w.gateway(bed.Gateway{Kind: api.ServiceKindMeshGateway}, "gateway-2") // needs none
	w.start(mesh, bed.ExecOptions{Credential: bed.Credential{Token: token("mesh-gateway")}})
	s.state(mesh, "ok")
	w.sameProcess(web)
}

// troubled waits until a daemon's status and its log have words for what is wrong.
func (w *world) troubled(l *bed.Lictor, words ...string) {
	w.Helper()
	has := func(what, text string) error {
		for _, word := range words {
			if !strings.Contains(text, word) {
				return fmt.Errorf("%s lacks %q:\n%s", what, word, text)
			}
		}
		return nil
	}
	w.eventually(15*time.Second, func() error {
		status, err := l.CLI(w.ctx, l.Host.Node, "status")
		if err != nil && len(status) == 0 {
			return err
		}
		log, err := os.ReadFile(l.Process().Log)
		if err != nil {
			return err
		}
		return errors.Join(has("lictor status", string(status)), has("the log", string(log)))
	})
}

// metric waits until the samples whose lines match add up to so much at least.
func (w *world) metric(l *bed.Lictor, pattern string, least float64) {
	w.Helper()
	w.eventually(10*time.Second, func() error {
		if sum := w.sum(l, pattern); sum < least {
			return fmt.Errorf("the samples of %s add up to %v, want %v", pattern, sum, least)
		}
		return nil
	})
}

// sum adds up the samples of a daemon's metrics whose lines match.
func (w *world) sum(l *bed.Lictor, pattern string) (sum float64) {
	w.Helper()
	page, err := l.Get(w.ctx, "/metrics")
	w.must(err)
	for _, line := range regexp.MustCompile(`(?m)`+pattern+`.*$`).FindAllString(string(page), -1) {
		n, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
		w.must(err)
		sum += n
	}
	return sum
}

// nothingPasses fails the test when a proxy of that host gets a connection to a
// server, or a bootstrap.
func (w *world) nothingPasses(l *bed.Lictor, host *bed.Host) {
	w.Helper()
	client := l.Client()
	defer client.Close()
	pod, err := host.NewPod(host.Name + "-pod")
	w.must(err)
	r, err := client.Register(w.ctx, "web-sidecar-proxy", v1.RegisterRequest{NodeName: host.Name + "-virtual", Netns: pod.Netns.Path})
	w.must(err)
	got, err := pod.Connect(w.ctx, bed.Connect{To: netip.AddrPortFrom(netip.MustParseAddr(r.VIP), r.Port)})
	w.must(err)
	if got.Errno != unix.ECONNREFUSED && got.Errno != unix.EPERM {
		w.Errorf("a connect to the VIP ends with errno %v at %v", got.Errno, got.Server)
	}
	ctx, cancel := context.WithTimeout(w.ctx, 5*time.Second)
	defer cancel()
	if doc, err := client.Bootstrap(ctx, "web-sidecar-proxy"); err == nil {
		w.Errorf("a bootstrap is handed out: %s", doc)
	}
}
