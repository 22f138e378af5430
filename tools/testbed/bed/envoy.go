package bed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/lictor-mesh/lictor/tools/testbed/binaries"
)

// EnvoyOptions of an Envoy.
type EnvoyOptions struct {
	Bootstrap []byte   // JSON; its admin address is where the helpers look
	LogLevel  string   // default warning
	Args      []string // more
}

// Envoy is a real Envoy in a pod.
type Envoy struct {
	*Process
	admin string // address, in the pod's namespace
}

// StartEnvoy starts an Envoy with one worker thread and waits for nothing; see
// [Envoy.WaitUp].
func (n *Node) StartEnvoy(ctx context.Context, o EnvoyOptions) (*Envoy, error) {
	binary, err := binaries.Envoy(ctx, n.bed.progress)
	if err != nil {
		return nil, err
	}
	admin, err := adminAddress(o.Bootstrap)
	if err != nil {
		return nil, fmt.Errorf("start envoy on %s: %w", n.Name, err)
	}
	path := filepath.Join(n.Dir, "envoy.json")
	if err := os.WriteFile(path, o.Bootstrap, 0o600); err != nil {
		return nil, fmt.Errorf("start envoy on %s: %w", n.Name, err)
	}
	if o.LogLevel == "" {
		o.LogLevel = "warning"
	}
	// Without hot restart there is no shared memory for which Envoys of one
	// machine, namespaces or not, would need base ids that differ.
	args := []string{"-c", path, "--concurrency", "1", "--disable-hot-restart", "-l", o.LogLevel}
	p, err := n.Start(Command{Name: "envoy", Path: binary, Args: append(args, o.Args...)})
	if err != nil {
		return nil, err
	}
	return &Envoy{Process: p, admin: admin}, nil
}

func adminAddress(bootstrap []byte) (string, error) {
	var b struct {
		Admin struct {
			Address struct {
				SocketAddress struct {
					Address   string `json:"address"`
					PortValue int    `json:"port_value"`
				} `json:"socket_address"`
			} `json:"address"`
		} `json:"admin"`
	}
	if err := json.Unmarshal(bootstrap, &b); err != nil {
		return "", fmt.Errorf("read bootstrap: %w", err)
	}
	a := b.Admin.Address.SocketAddress
	if a.PortValue == 0 {
		return "", errors.New("read bootstrap: it has no admin.address.socket_address")
	}
	return hostPort(a.Address, a.PortValue), nil
}

// Admin sends a request to Envoy's admin listener and returns the body of a 200.
func (e *Envoy) Admin(ctx context.Context, method, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+e.admin+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := e.Node.HTTPClient().Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", e.Name, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	if err != nil {
		return nil, fmt.Errorf("ask %s for %s: %w", e.Name, path, err)
	}
	return body, nil
}

// Stats returns counters and gauges whose names match the regular expression.
func (e *Envoy) Stats(ctx context.Context, filter string) (map[string]uint64, error) {
	body, err := e.Admin(ctx, http.MethodGet, "/stats?filter="+url.QueryEscape(filter))
	if err != nil {
		return nil, err
	}
	stats := map[string]uint64{}
	for line := range strings.Lines(string(body)) {
		name, value, _ := strings.Cut(line, ": ")
		var n uint64
		if _, err := fmt.Sscan(value, &n); err == nil { // histograms are of no interest
			stats[name] = n
		}
	}
	return stats, nil
}

// Updates is how many listener updates Envoy has taken from the control plane.
// It grows with each configuration change that concerns listeners.
func (e *Envoy) Updates(ctx context.Context) (uint64, error) {
	stats, err := e.Stats(ctx, `^listener_manager\.lds\.update_success$`)
	return stats["listener_manager.lds.update_success"], err
}

// WaitUp waits until Envoy has its listeners, which is what being up means:
// control_plane.connected_state is 1 against an address with no host too.
func (e *Envoy) WaitUp(ctx context.Context) error { return e.WaitUpdates(ctx, 1) }

// WaitUpdates waits until Envoy has taken at least n listener updates.
func (e *Envoy) WaitUpdates(ctx context.Context, n uint64) error {
	return until(ctx, fmt.Sprintf("%s has taken %d listener updates", e.Name, n), func() error {
		if err := e.ended(); err != nil {
			return err
		}
		have, err := e.Updates(ctx)
		if err == nil && have < n {
			err = fmt.Errorf("it has taken %d", have)
		}
		return err
	})
}

// Bootstrap makes a plain bootstrap by hand, without lictord: one xDS server, no
// TLS, no token. It is the baseline against which Lictor's own is compared.
func (p Proxy) Bootstrap(xds netip.AddrPort) []byte {
	socket := func(addr string, port uint16) map[string]any {
		return map[string]any{"socket_address": map[string]any{"address": addr, "port_value": port}}
	}
	ads := map[string]any{"ads": map[string]any{}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
	doc := map[string]any{
		"admin": map[string]any{"address": socket("127.0.0.1", 19000)},
		"node": map[string]any{
			"id": p.ID, "cluster": p.Service,
			"metadata": map[string]any{"node_name": p.NodeName, "namespace": "default", "partition": "default"},
		},
		"dynamic_resources": map[string]any{
			"ads_config": map[string]any{
				"api_type": "DELTA_GRPC", "transport_api_version": "V3",
				"grpc_services": map[string]any{"envoy_grpc": map[string]any{
					"cluster_name": "consul",
					"retry_policy": map[string]any{"retry_back_off": map[string]any{"base_interval": "0.05s", "max_interval": "2s"}},
				}},
			},
			"cds_config": ads, "lds_config": ads,
		},
		"static_resources": map[string]any{"clusters": []any{map[string]any{
			"name": "consul", "type": "STATIC", "connect_timeout": "1s",
			"typed_extension_protocol_options": map[string]any{
				"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": map[string]any{
					"@type":                        "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
					"explicit_http_config":         map[string]any{"http2_protocol_options": map[string]any{}},
					"common_http_protocol_options": map[string]any{"max_requests_per_connection": 1},
				},
			},
			"load_assignment": map[string]any{
				"cluster_name": "consul",
				"endpoints": []any{map[string]any{"lb_endpoints": []any{map[string]any{
					"endpoint": map[string]any{"address": socket(xds.Addr().String(), xds.Port())},
				}}}},
			},
		}}},
	}
	text, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		panic(err) // maps, strings and numbers only
	}
	return text
}
