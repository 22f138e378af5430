package bed_test

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
	"github.com/lictor-mesh/lictor/tools/testbed/xds"
)

// Consul's own limit of streams per server, by which a refusal is known: with 15
// proxies and 3 servers, ceil(15/3 × 1.1) = 6.
func TestAFullServerRefusesStreams(t *testing.T) {
	testenv.Privileged(t)
	testenv.NoLeaks(t)
	b := bed.ForTest(t)
	c, err := b.StartCluster(within(t, 60*time.Second), bed.ClusterOptions{Servers: 3, IPv6: true})
	check(t, err)
	host, err := b.NewHost("host-1")
	check(t, err)
	fleet, err := host.StartFleet()
	check(t, err)
	ctx := within(t, 60*time.Second)
	var proxies []bed.Proxy
	for i := range 15 {
		p, err := c.Register(ctx, bed.Service{Name: "web", ID: fmt.Sprintf("web-%d", i)})
		check(t, err)
		proxies = append(proxies, p)
	}
	time.Sleep(2 * time.Second) // the servers count proxies and servers once a second

	server := c.Server(0)
	for _, p := range proxies {
		check(t, fleet.Add(p, server.XDS(), nil))
	}
	refused := map[string]bool{}
	check(t, fleet.Wait(ctx, "9 proxies are refused", func(map[string]bed.ProxyState) bool {
		events, _ := fleet.Events(0)
		for _, e := range events {
			if e.Kind == xds.Ended && e.Code == codes.ResourceExhausted {
				refused[e.Proxy] = true
			}
		}
		return len(refused) >= 9
	}))
	check(t, fleet.WaitUp(ctx, 6))

	t.Log("the refused go elsewhere")
	for _, p := range proxies {
		if s := fleet.State()[p.ID]; s.Up {
			continue
		}
		check(t, fleet.Remove(p.ID))
		check(t, fleet.Add(p, c.Server(1+len(p.ID)%2).XDS(), nil))
	}
	check(t, fleet.WaitUp(ctx, 12))
}
