package bootstrap

import (
	"bytes"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
)

// Whatever is in the central configuration, it is refused, or the bootstrap is
// one that Envoy can read, whose way to Consul is ours.
func FuzzCentral(f *testing.F) {
	keys := []string{
		keyStatsd, keyDogstatsd, keyStatsTags, keyCollectorDir, keyPrometheusBind, keyStatsBind, keyTemplate,
		keyClusters, keyListeners, keyStatsSinks, keyStatsConfig, keyFlushInterval, keyTracing, keyAccessLogs,
	}
	for i, value := range []string{
		"udp://${HOST_IP}:1", "$X", "a=b", "/run", "[::]:1", "0.0.0.0:1", customTemplate, extraClusters, extraListeners, extraSinks,
		`{"stats_tags":{"tag_name":"x","fixed_value":"y"}}`, "1.5s", tracing, accessLog,
	} {
		f.Add(uint8(i), value)
	}
	f.Fuzz(func(t *testing.T, which uint8, value string) {
		key := keys[int(which)%len(keys)]
		p := configured(map[string]any{key: value}, environment(map[string]string{"HOST_IP": "10.0.0.1", "X": "udp://127.0.0.1:1"}),
			func(p *Params) {
				p.TLS, p.TokenFile = &TLS{CAFile: "/ca.json"}, "/token.json"
				if key == keyAccessLogs {
					p.Central.AccessLogs = []string{value}
				}
			})
		doc, err := Build(p)
		if err != nil {
			return
		}
		b := new(bootstrapv3.Bootstrap)
		if err := validate(doc, b); err != nil {
			t.Fatalf("%v\n%s", err, doc)
		}
		ours := 0
		for _, c := range b.GetStaticResources().GetClusters() {
			if c.GetName() != xdsClusterName {
				continue
			}
			ours++
			options := new(httpv3.HttpProtocolOptions)
			if err := c.GetTypedExtensionProtocolOptions()[httpOptions].UnmarshalTo(options); err != nil {
				t.Fatal(err)
			}
			if c.GetTransportSocket() == nil || len(options.GetHttpFilters()) != 2 {
				t.Errorf("no TLS or no token:\n%s", doc)
			}
		}
		if ours == 0 {
			t.Errorf("no way to Consul:\n%s", doc)
		}
		for _, s := range b.GetDynamicResources().GetAdsConfig().GetGrpcServices() {
			if s.GetEnvoyGrpc().GetClusterName() != xdsClusterName {
				t.Errorf("a stream that goes elsewhere:\n%s", doc)
			}
			for _, h := range s.GetInitialMetadata() {
				if h.GetKey() == tokenHeader {
					t.Errorf("a token in the bootstrap:\n%s", doc)
				}
			}
		}
		if again, err := Build(p); err != nil || !bytes.Equal(doc, again) {
			t.Errorf("the same parameters gave other bytes, %v", err)
		}
	})
}

func BenchmarkBuild(b *testing.B) {
	for _, name := range []string{"sidecar", "everything", "template"} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := Build(cases[name]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
