package mesh

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
)

// Two services, a pod each. What is allowed flows through both Envoys, what is
// denied does not, and the change between the two comes through the VIP: an
// Envoy knows no other address of a server.
func TestIntentionsReachEnvoysThroughTheVIP(t *testing.T) {
	w := newWorld(t, 60*time.Second, bed.ClusterOptions{Servers: 1})
	web, api1 := w.deploy("web", "api"), w.deploy("api")
	w.intend("web", "api", api.IntentionActionAllow)
	w.start(api1, bed.ExecOptions{})
	w.start(web, bed.ExecOptions{})

	w.answers(web, api1)
	w.through(web, api1)
	w.intend("web", "api", api.IntentionActionDeny)
	w.denied(web)
	w.intend("web", "api", api.IntentionActionAllow)
	w.answers(web, api1)

	for _, m := range []*member{web, api1} {
		w.throughTheVIP(m)
		w.noOtherProcess(m)
		w.sameProcess(m)
	}
}

// through fails the test unless requests of from's have gone through both Envoys.
func (w *world) through(from, to *member) {
	w.Helper()
	for m, filter := range map[*member]string{from: `^cluster\.api\..*\.upstream_rq_200$`, to: `^http\.public_listener\.downstream_rq_2xx$`} {
		stats, err := m.envoy.Stats(w.ctx, filter)
		w.must(err)
		n := uint64(0)
		for _, v := range stats {
			n += v
		}
		if n == 0 {
			w.Errorf("the Envoy of %s has had no request that was answered: %v", m.pod.Name, stats)
		}
	}
}

// throughTheVIP fails the test unless the member's Envoy has its VIP for its one
// and only control plane, and one connection to a server, which lictord counts.
func (w *world) throughTheVIP(m *member) {
	w.Helper()
	p := w.assignment(m.proxy.ID)
	want := []string{fmt.Sprintf("%s:%d", p.VIP, p.Port)}
	if got := controlPlanes(w, m); !slices.Equal(got, want) {
		w.Errorf("the control plane of %s is %v, want its VIP %v", m.pod.Name, got, want)
	}
	servers, err := w.cluster.XDSServers(m.pod.Node)
	w.must(err)
	n := 0
	for _, streams := range servers {
		n += streams
	}
	if n != 1 || p.Active != 1 || p.Total == 0 {
		w.Errorf("%s has %d connections to servers, of which lictord counts %d and %d ever; want 1, 1 and more than 0",
			m.pod.Name, n, p.Active, p.Total)
	}
}

// controlPlanes are the addresses of the cluster from which an Envoy is configured.
func controlPlanes(w *world, m *member) (found []string) {
	w.Helper()
	bootstrap, err := m.envoy.Admin(w.ctx, http.MethodGet, "/config_dump?resource=bootstrap")
	if err != nil { // it is no repeated field
		bootstrap, err = m.envoy.Admin(w.ctx, http.MethodGet, "/config_dump?mask=bootstrap")
	}
	w.must(err)
	var dump struct {
		Configs []struct {
			Bootstrap struct {
				Dynamic struct {
					ADS struct {
						Services []struct {
							Envoy struct {
								Cluster string `json:"cluster_name"`
							} `json:"envoy_grpc"`
						} `json:"grpc_services"`
					} `json:"ads_config"`
				} `json:"dynamic_resources"`
			}
		}
	}
	w.must(json.Unmarshal(bootstrap, &dump))
	names := map[string]bool{}
	for _, c := range dump.Configs {
		for _, s := range c.Bootstrap.Dynamic.ADS.Services {
			names[s.Envoy.Cluster] = true
		}
	}
	text, err := m.envoy.Admin(w.ctx, http.MethodGet, "/clusters?format=json")
	w.must(err)
	var clusters struct {
		Statuses []struct {
			Name  string
			Hosts []struct {
				Address struct {
					Socket struct {
						Address string
						Port    int `json:"port_value"`
					} `json:"socket_address"`
				}
			} `json:"host_statuses"`
		} `json:"cluster_statuses"`
	}
	w.must(json.Unmarshal(text, &clusters))
	for _, c := range clusters.Statuses {
		for _, h := range c.Hosts {
			if names[c.Name] {
				found = append(found, fmt.Sprintf("%s:%d", h.Address.Socket.Address, h.Address.Socket.Port))
			}
		}
	}
	return found
}
