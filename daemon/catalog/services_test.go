package catalog

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// What a node has is told only by an answer that hides nothing: proxies are reaped
// by it.
func TestServices(t *testing.T) {
	const both = `{"Node":{},"Services":[{"ID":"web","Kind":""},{"ID":"web-sidecar-proxy","Kind":"connect-proxy"}]}`
	for name, tt := range map[string]struct {
		node   Node
		status int
		header [2]string
		body   string
		asked  string
		want   string // ids
		fails  string // or this sentence
	}{
		"some":                {Node{Name: "n"}, 200, [2]string{}, both, "/n?stale=", "[web web-sidecar-proxy]", ""},
		"a node that is gone": {Node{Name: "n"}, 200, [2]string{}, `null`, "/n?stale=", "[]", ""},
		"tenancy": {Node{Name: "a/b", Namespace: "ns", Partition: "p"}, 200, [2]string{}, both,
			"/a%2Fb?ns=ns&partition=p&stale=", "[web web-sidecar-proxy]", ""},
		"the tenancy without a name": {Node{Name: "n", Namespace: "default", Partition: "default"}, 200, [2]string{}, both,
			"/n?stale=", "[web web-sidecar-proxy]", ""},
		"hidden by ACLs": {Node{Name: "n"}, 200, [2]string{"X-Consul-Results-Filtered-By-ACLs", "true"}, `{"Services":[]}`,
			"/n?stale=", "", "ACLs hide services of node n"},
		"no leader":   {Node{Name: "n"}, 200, [2]string{"X-Consul-Knownleader", "false"}, both, "/n?stale=", "", "leader"},
		"a refusal":   {Node{Name: "n"}, 403, [2]string{}, "ACL not found", "/n?stale=", "", "wants a token"},
		"half a word": {Node{Name: "n"}, 200, [2]string{}, `{"Services":[`, "/n?stale=", "", "ended the connection"},
	} {
		t.Run(name, func(t *testing.T) {
			var asked string
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked = strings.TrimPrefix(r.URL.String(), strings.TrimSuffix(nodeServicesPath, "/"))
				if tt.header[0] != "" {
					w.Header().Set(tt.header[0], tt.header[1])
				}
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.body)
			}))
			defer server.Close()
			c, err := New(Config{Addresses: "10.0.0.1", TLS: TLS{Disabled: true}})
			if err != nil {
				t.Fatal(err)
			}
			defer c.client.CloseIdleConnections()
			if _, err := c.Services(t.Context(), tt.node); err == nil || !strings.Contains(err.Error(), "no Consul server answers") {
				t.Errorf("without contact: %v", err)
			}
			c.contact(server.Listener.Addr().String())
			ids, err := c.Services(t.Context(), tt.node)
			if asked != tt.asked {
				t.Errorf("asked %s, want %s", asked, tt.asked)
			}
			if tt.fails != "" {
				if err == nil || !strings.Contains(SentenceOf(err), tt.fails) {
					t.Errorf("%v, %v, want %q", ids, err, tt.fails)
				}
				return
			}
			if err != nil || fmt.Sprint(ids) != tt.want {
				t.Errorf("%v, %v, want %s", ids, err, tt.want)
			}
		})
	}
}
