package lone

import (
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// Kubernetes stands in for the part of a Kubernetes API that Consul asks when
// somebody logs in: reviews of tokens and the service accounts. It is a stand-in
// because a real API server is not needed to inject the faults that matter here.
type Kubernetes struct {
	*httptest.Server

	mu       sync.Mutex
	accounts map[string]string // bearer → service account in the namespace default
}

// NewKubernetes starts one; it ends with its test.
func NewKubernetes(t testing.TB) *Kubernetes {
	k := &Kubernetes{accounts: map[string]string{}}
	k.Server = httptest.NewTLSServer(k)
	t.Cleanup(k.Close)
	return k
}

// Know makes a bearer that of a service account; an empty account ends that.
func (k *Kubernetes) Know(bearer, account string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.accounts[bearer] = account
}

// ServeHTTP answers what Consul asks.
func (k *Kubernetes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if account, ok := strings.CutPrefix(r.URL.Path, "/api/v1/namespaces/default/serviceaccounts/"); ok {
		answer(w, map[string]any{
			"kind": "ServiceAccount", "apiVersion": "v1", "metadata": map[string]any{"name": account, "namespace": "default"},
		})
		return
	}
	var review struct{ Spec struct{ Token string } }
	if !strings.HasSuffix(r.URL.Path, "/tokenreviews") || json.NewDecoder(r.Body).Decode(&review) != nil {
		http.NotFound(w, r)
		return
	}
	k.mu.Lock()
	account := k.accounts[review.Spec.Token]
	k.mu.Unlock()
	status := map[string]any{"authenticated": false}
	if account != "" {
		status = map[string]any{"authenticated": true, "user": map[string]any{
			"username": "system:serviceaccount:default:" + account, "uid": "uid-of-" + account,
		}}
	}
	w.WriteHeader(http.StatusCreated)
	answer(w, map[string]any{"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "status": status})
}

func answer(w http.ResponseWriter, v any) {
	_ = json.NewEncoder(w).Encode(v) // the peer is Consul, which says what it misses
}

// KubernetesMethod makes an auth method of type kubernetes that asks k, with a
// binding rule that gives a service account the identity of its name. reviewer
// is the bearer with which Consul itself would ask.
func (s *Server) KubernetesMethod(name string, k *Kubernetes, reviewer string) {
	s.t.Helper()
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: k.Certificate().Raw}))
	s.Put("/v1/acl/auth-method", map[string]any{
		"Name": name, "Type": "kubernetes",
		"Config": map[string]any{"Host": k.URL, "CACert": ca, "ServiceAccountJWT": reviewer},
	}, nil)
	s.Put("/v1/acl/binding-rule", map[string]any{
		"AuthMethod": name, "BindType": "service", "BindName": "${serviceaccount.name}",
	}, nil)
}
