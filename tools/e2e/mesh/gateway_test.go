package mesh

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// An API gateway and a mesh gateway are proxies like the others. Requests from
// outside the mesh go through the one, and through the other what one service
// sends to another by its name in the mesh. Each has a token of its own service,
// and servers show certificates, but ask for none.
func TestGatewaysAreProxiesToo(t *testing.T) {
	w := newWorld(t, 60*time.Second, bed.ClusterOptions{Servers: 1, TLS: bed.ServerTLS, ACL: true})
	backend := w.deploy("api")
	w.start(backend, w.identified("api"))

	t.Run("api gateway", func(t *testing.T) { w.in(t).apiGateway(backend) })
	t.Run("mesh gateway", func(t *testing.T) { w.in(t).meshGateway(backend) })
}

// gateway makes a pod with a gateway.
func (w *world) gateway(g bed.Gateway, name string) *member {
	w.Helper()
	pod, err := w.host.NewPod(name)
	w.must(err)
	g.Pod = pod
	proxy, err := w.cluster.RegisterGateway(w.ctx, g)
	w.must(err)
	return &member{pod: pod, proxy: proxy}
}

// identified starts an Envoy with a token for the proxies of that service, which
// may also see what gateways need to: listeners, routes, the mesh's settings.
func (w *world) identified(service string) bed.ExecOptions {
	w.Helper()
	token, err := w.cluster.NewToken(w.ctx, bed.TokenOptions{Services: []string{service}, Rules: `mesh = "read"`})
	w.must(err)
	return bed.ExecOptions{Credential: bed.Credential{Token: token.SecretID}}
}

func (w *world) apiGateway(backend *member) {
	const port = 8088
	w.must(w.cluster.SetRawConfig(w.ctx, map[string]any{ // whose Go type is newer than this Consul
		"Kind": api.APIGateway, "Name": "api-gateway",
		"Listeners": []any{map[string]any{"Name": "http", "Port": port, "Protocol": "http"}},
	}))
	w.must(w.cluster.SetConfig(w.ctx, &api.HTTPRouteConfigEntry{
		Kind: api.HTTPRoute, Name: "all",
		Parents: []api.ResourceReference{{Kind: api.APIGateway, Name: "api-gateway", SectionName: "http"}},
		Rules:   []api.HTTPRouteRule{{Services: []api.HTTPService{{Name: "api"}}}},
	}))
	w.intend("api-gateway", "api", api.IntentionActionAllow)
	gateway := w.gateway(bed.Gateway{Kind: api.ServiceKindAPIGateway, Port: port}, "gateway-1")
	w.start(gateway, w.identified("api-gateway"))
	outside, err := w.bed.NewHost("outside")
	w.must(err)
	from := &bed.Pod{Node: outside.Node}
	url := fmt.Sprintf("http://%s:%d/", gateway.pod.Addr(), port)
	w.eventually(10*time.Second, func() error {
		status, body, err := w.get(from, url)
		if err == nil && (status != http.StatusOK || body != "hello from api\n") {
			err = fmt.Errorf("through the API gateway the answer is %d %s", status, body)
		}
		return err
	})
	w.intend("api-gateway", "api", api.IntentionActionDeny)
	w.eventually(10*time.Second, func() error {
		status, _, err := w.get(from, url)
		if err == nil && status != http.StatusForbidden {
			err = fmt.Errorf("through the API gateway the answer is %d, though it is denied", status)
		}
		return err
	})
	w.throughTheVIP(gateway)
	w.sameProcess(gateway)
}

// meshGateway speaks as the service web, with its certificate, to a mesh gateway
// that it asks by SNI for the service api: what another datacenter's Envoy does.
func (w *world) meshGateway(backend *member) {
	w.intend("web", "api", api.IntentionActionAllow)
	gateway := w.gateway(bed.Gateway{Kind: api.ServiceKindMeshGateway}, "gateway-2")
	w.start(gateway, w.identified("mesh-gateway"))
	client, err := w.cluster.Client(w.ctx)
	w.must(err)
	leaf, _, err := client.Agent().ConnectCALeaf("web", nil)
	w.must(err)
	pair, err := tls.X509KeyPair([]byte(leaf.CertPEM), []byte(leaf.PrivateKeyPEM))
	w.must(err)
	roots, _, err := client.Agent().ConnectCARoots(nil)
	w.must(err)
	pool := x509.NewCertPool()
	for _, root := range roots.Roots {
		pool.AppendCertsFromPEM([]byte(root.RootCertPEM))
	}
	conf := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{pair},
		ServerName:   "api.default.dc1.internal." + roots.TrustDomain,
		// The certificate is for a SPIFFE id, not for the name that was asked for.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			if _, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: pool}); err != nil {
				return err
			}
			want := fmt.Sprintf("spiffe://%s/ns/default/dc/dc1/svc/api", roots.TrustDomain)
			if uris := s.PeerCertificates[0].URIs; len(uris) != 1 || uris[0].String() != want {
				return fmt.Errorf("the peer is %v, not %s", uris, want)
			}
			return nil
		},
	}
	web := w.newHost("far-away")
	w.eventually(10*time.Second, func() error {
		c := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{
			DialContext: web.DialContext, TLSClientConfig: conf, DisableKeepAlives: true,
		}}
		req, err := http.NewRequestWithContext(w.ctx, http.MethodGet, fmt.Sprintf("https://%s:8443/", gateway.pod.Addr()), nil)
		if err != nil {
			return err
		}
		resp, err := c.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("through the mesh gateway the answer is %s", resp.Status)
		}
		return nil
	})
	stats, err := backend.envoy.Stats(w.ctx, `^http\.public_listener\.downstream_rq_2xx$`)
	w.must(err)
	if len(stats) == 0 || stats["http.public_listener.downstream_rq_2xx"] == 0 {
		w.Errorf("the request did not go through the Envoy of api: %v", stats)
	}
	w.throughTheVIP(gateway)
	w.sameProcess(gateway)
}
