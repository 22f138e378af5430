package state

import (
	"cmp"
	"maps"
	"time"
)

// EnvoySettings are what a proxy's bootstrap and its end of life depend on
// beyond its identity. Zero values mean the defaults of consul-dataplane 2.0.
// Paths are named as the proxy sees them, in its mount namespace.
type EnvoySettings struct {
	AdminBind  string              `json:"admin_bind,omitempty"` // host:port; "" means 127.0.0.1:19000
	ReadyBind  string              `json:"ready_bind,omitempty"` // host:port of a listener that answers /ready; "": none
	Prometheus *PrometheusSettings `json:"prometheus,omitempty"`
	// NoCentralTelemetry leaves out what Consul's central configuration says of
	// the bootstrap (-telemetry-use-central-config=false).
	NoCentralTelemetry bool `json:"no_central_telemetry,omitempty"`
	// SecretsDir is the directory of the bootstrap and of what it refers to; ""
	// means one of the daemon's own.
	SecretsDir string `json:"secrets_dir,omitempty"`
	// CACerts, Cert, Key and ServerName are of the proxy's xDS connection; ""
	// means the daemon's own.
	CACerts    string `json:"ca_certs,omitempty"`
	Cert       string `json:"cert,omitempty"`
	Key        string `json:"key,omitempty"`
	ServerName string `json:"server_name,omitempty"`

	StartupGraceSeconds  int  `json:"startup_grace_seconds,omitempty"`
	ShutdownGraceSeconds int  `json:"shutdown_grace_seconds,omitempty"`
	ShutdownDrain        bool `json:"shutdown_drain,omitempty"` // drain inbound listeners before the grace
	// GracefulBind is the host:port of a listener in the proxy's network
	// namespace that serves the two paths and merged metrics; "": none.
	GracefulBind         string `json:"graceful_bind,omitempty"`
	GracefulStartupPath  string `json:"graceful_startup_path,omitempty"`  // "": see GracefulPaths
	GracefulShutdownPath string `json:"graceful_shutdown_path,omitempty"` // as above
	DumpConfigOnExit     bool   `json:"dump_config_on_exit,omitempty"`
}

// GracefulPaths are the paths of the graceful endpoints; where none is given,
// consul-dataplane's.
func (s *EnvoySettings) GracefulPaths() (startup, shutdown string) {
	return cmp.Or(s.GracefulStartupPath, "/graceful_startup"), cmp.Or(s.GracefulShutdownPath, "/graceful_shutdown")
}

// HoldsTerm says whether lictord answers a SIGTERM of the proxy: `lictor exec` then
// starts Envoy with that signal blocked, and Envoy ends when lictord tells it to.
func (s *EnvoySettings) HoldsTerm() bool {
	return s.ShutdownDrain || s.ShutdownGraceSeconds > 0 || s.DumpConfigOnExit
}

// PrometheusSettings are those of a proxy's metrics.
type PrometheusSettings struct {
	ScrapePath        string `json:"scrape_path,omitempty"` // "" means /metrics
	MergePort         int    `json:"merge_port,omitempty"`  // of the merged metrics; 0: they are not merged
	ServiceMetricsURL string `json:"service_metrics_url,omitempty"`
	CACertsFile       string `json:"ca_certs_file,omitempty"`
	CACertsPath       string `json:"ca_certs_path,omitempty"`
	CertFile          string `json:"cert_file,omitempty"`
	KeyFile           string `json:"key_file,omitempty"`
}

// Equal reports whether two settings say the same; nil is the zero value.
func (s *EnvoySettings) Equal(o *EnvoySettings) bool {
	a, b := valueOf(s), valueOf(o)
	if valueOf(a.Prometheus) != valueOf(b.Prometheus) {
		return false
	}
	a.Prometheus, b.Prometheus = nil, nil
	return a == b
}

// CredentialType says where a proxy's ACL token comes from.
type CredentialType string

// Types of credentials.
const (
	CredentialNone   CredentialType = ""       // none: the anonymous token
	CredentialStatic CredentialType = "static" // given at registration and kept sealed
	CredentialFile   CredentialType = "file"   // a file of the proxy's, followed when it changes
	CredentialLogin  CredentialType = "login"  // an auth method's, renewed before it expires
)

// Credential says how a proxy gets its ACL token. It is never a secret itself.
type Credential struct {
	Type      CredentialType `json:"type"`
	TokenFile string         `json:"token_file,omitempty"` // of CredentialFile
	Login     *Login         `json:"login,omitempty"`      // of CredentialLogin
}

// Login says how to log in with an auth method of Consul.
type Login struct {
	AuthMethod string `json:"auth_method"`
	Datacenter string `json:"datacenter,omitempty"`
	Namespace  string `json:"namespace,omitempty"`
	Partition  string `json:"partition,omitempty"`
	// BearerTokenFile is read at every login; "" when the token itself was
	// given at registration and is kept sealed.
	BearerTokenFile string            `json:"bearer_token_file,omitempty"`
	Meta            map[string]string `json:"meta,omitempty"`
}

// Equal reports whether two credentials say the same; nil is the zero value.
func (c *Credential) Equal(o *Credential) bool {
	a, b := valueOf(c), valueOf(o)
	return a.Type == b.Type && a.TokenFile == b.TokenFile && a.Login.equal(b.Login)
}

func (l *Login) equal(o *Login) bool {
	if l == nil || o == nil {
		return l == o
	}
	return l.AuthMethod == o.AuthMethod && l.Datacenter == o.Datacenter &&
		l.Namespace == o.Namespace && l.Partition == o.Partition &&
		l.BearerTokenFile == o.BearerTokenFile && maps.Equal(l.Meta, o.Meta)
}

// Process is a proxy's process, told from another that gets the same pid.
type Process struct {
	PID    int    `json:"pid"`
	Start  uint64 `json:"start"` // clock ticks since boot, field 22 of /proc/PID/stat
	BootID string `json:"boot_id"`
	UID    uint32 `json:"uid"`
	GID    uint32 `json:"gid"`
}

// Equal reports whether two processes are the same; nil is the zero value.
func (p *Process) Equal(o *Process) bool { return valueOf(p) == valueOf(o) }

// CredentialState is how a proxy stands with its credential and with the TLS of
// the servers it is for, in a word.
type CredentialState string

// States of a credential. The set is closed: metrics are labelled by it.
const (
	CredentialOK          CredentialState = "ok"
	CredentialRefused     CredentialState = "refused"      // the servers do not know the token, or it may not do this
	CredentialLoginFailed CredentialState = "login-failed" // the auth method refused
	CredentialBadBearer   CredentialState = "bad-bearer"   // the bearer token is expired or not valid
	CredentialExpired     CredentialState = "expired"      // the token's time is over and it could not be renewed
	CredentialUnreadable  CredentialState = "unreadable"   // a file of it is missing, empty or may not be read
	CredentialWrongCA     CredentialState = "wrong-ca"     // the server's certificate is of another CA
	CredentialWrongName   CredentialState = "wrong-name"   // the server's certificate has another name
	CredentialNoTLS       CredentialState = "no-tls"       // the server's port speaks no TLS
	CredentialTLSRefused  CredentialState = "tls-refused"  // the server refuses the client certificate, or asks for one
)

// CredentialStates lists the states that this version knows.
var CredentialStates = []CredentialState{
	CredentialOK, CredentialRefused, CredentialLoginFailed, CredentialBadBearer, CredentialExpired,
	CredentialUnreadable, CredentialWrongCA, CredentialWrongName, CredentialNoTLS, CredentialTLSRefused,
}

// LoginRecord is a token that an auth method issued and that is to be deleted
// in Consul when its proxy is gone. It outlives the proxy until LoggedOut.
type LoginRecord struct {
	Accessor   string    `json:"accessor"`
	ProxyID    string    `json:"proxy_id"`
	AuthMethod string    `json:"auth_method"`
	Datacenter string    `json:"datacenter,omitempty"`
	Namespace  string    `json:"namespace,omitempty"`
	Partition  string    `json:"partition,omitempty"`
	Expires    time.Time `json:"expires,omitzero"` // zero: never
	Key        string    `json:"key"`              // names the sealed file that has the token
	Since      time.Time `json:"since"`            // when it was issued
}

func (l LoginRecord) equal(o LoginRecord) bool {
	sameTimes := l.Expires.Equal(o.Expires) && l.Since.Equal(o.Since)
	l.Expires, l.Since, o.Expires, o.Since = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	return sameTimes && l == o
}

// valueOf is what p points to, the zero value for nil.
func valueOf[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
