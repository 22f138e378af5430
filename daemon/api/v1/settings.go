package v1

import (
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/lictor-mesh/lictor/state"
)

// Limits of settings and credentials, in bytes where nothing else is said.
const (
	MaxGrace = 24 * 60 * 60 // seconds
	MaxURL   = 2048         // of a URL and of the path of one
	MaxName  = 253          // of a host's name
	MaxToken = 4096         // of an ACL token; Consul's own have 36
	MaxMeta  = 64           // entries of a login's meta, each of at most MaxID
	// MaxBearer is of a bearer token. A Kubernetes one has about 1,000 bytes.
	MaxBearer = 32 << 10
)

// LogValue keeps the secrets out of logs.
func (c Credential) LogValue() slog.Value { return slog.StringValue(c.String()) }

// String leaves the secrets out.
func (c Credential) String() string {
	if c.Type == state.CredentialNone {
		return "no credential"
	}
	return "credential of type " + string(c.Type)
}

// GoString leaves the secrets out.
func (c Credential) GoString() string { return c.String() }

// Check says what is wrong with the credential by itself, naming the field and
// never the secret.
func (c Credential) Check() error {
	allowed := map[state.CredentialType][]string{
		state.CredentialNone:   nil,
		state.CredentialStatic: {"token"},
		state.CredentialFile:   {"token_file"},
		state.CredentialLogin:  {"login", "bearer_token"},
	}
	own, known := allowed[c.Type]
	if !known {
		return fmt.Errorf(`credential.type %q is unknown; it is "static", "file" or "login"`, c.Type)
	}
	for name, given := range map[string]bool{
		"token": c.Token != "", "token_file": c.TokenFile != "", "login": c.Login != nil, "bearer_token": c.BearerToken != "",
	} {
		if given && !slices.Contains(own, name) {
			return fmt.Errorf("credential.%s does not belong to a credential of type %q", name, c.Type)
		}
	}
	switch c.Type {
	case state.CredentialStatic:
		return checkSecret("credential.token", c.Token, MaxToken)
	case state.CredentialFile:
		return checkPath("credential.token_file", c.TokenFile)
	case state.CredentialLogin:
		return c.checkLogin()
	}
	return nil
}

func (c Credential) checkLogin() error {
	l := c.Login
	if l == nil || l.AuthMethod == "" {
		return fmt.Errorf("credential.login.auth_method is empty; name the auth method to log in with")
	}
	for _, f := range []struct{ name, value string }{
		{"auth_method", l.AuthMethod}, {"datacenter", l.Datacenter}, {"namespace", l.Namespace}, {"partition", l.Partition},
	} {
		if f.value == "" {
			continue
		}
		if err := CheckID("credential.login."+f.name, f.value); err != nil {
			return err
		}
	}
	if err := checkMeta(l.Meta); err != nil {
		return err
	}
	switch {
	case l.BearerTokenFile != "" && c.BearerToken != "":
		return fmt.Errorf("credential.bearer_token and credential.login.bearer_token_file exclude each other")
	case l.BearerTokenFile != "":
		return checkPath("credential.login.bearer_token_file", l.BearerTokenFile)
	}
	return checkSecret("credential.bearer_token", c.BearerToken, MaxBearer)
}

func checkMeta(meta map[string]string) error {
	if len(meta) > MaxMeta {
		return fmt.Errorf("credential.login.meta has %d entries; at most %d are allowed", len(meta), MaxMeta)
	}
	for key, value := range meta {
		if key == "" {
			return fmt.Errorf("credential.login.meta has an entry without a name")
		}
		for _, text := range []string{key, value} {
			if err := checkText("credential.login.meta", text, MaxID); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkSecret does not repeat what it checks.
func checkSecret(what, secret string, most int) error {
	switch {
	case secret == "":
		return fmt.Errorf("%s is empty", what)
	case len(secret) > most:
		return fmt.Errorf("%s is %d bytes long; at most %d are allowed", what, len(secret), most)
	case strings.ContainsFunc(secret, func(r rune) bool { return r <= ' ' || r > '~' }):
		return fmt.Errorf("%s has a character that no token has: a space, a newline or one beyond ASCII", what)
	}
	return nil
}

// checkSettings says what is wrong with settings by themselves, naming the field.
func checkSettings(s EnvoySettings) error {
	admin, err := checkBind("envoy.admin_bind", s.AdminBind)
	if err == nil && admin.IsValid() && !admin.Addr().Unmap().IsLoopback() {
		err = fmt.Errorf("envoy.admin_bind %s is not a loopback address: whoever reaches Envoy's admin interface can stop it and read its certificates", s.AdminBind)
	}
	if err != nil {
		return err
	}
	for _, f := range []struct{ name, value string }{{"ready_bind", s.ReadyBind}, {"graceful_bind", s.GracefulBind}} {
		if _, err := checkBind("envoy."+f.name, f.value); err != nil {
			return err
		}
	}
	for _, f := range []struct{ name, value string }{
		{"secrets_dir", s.SecretsDir}, {"ca_certs", s.CACerts}, {"cert", s.Cert}, {"key", s.Key},
	} {
		if f.value == "" {
			continue
		}
		if err := checkPath("envoy."+f.name, f.value); err != nil {
			return err
		}
	}
	if (s.Cert == "") != (s.Key == "") {
		return fmt.Errorf("envoy.cert and envoy.key belong together; give both or neither")
	}
	if err := checkText("envoy.server_name", s.ServerName, MaxName); err != nil {
		return err
	}
	for _, f := range []struct{ name, value string }{
		{"graceful_startup_path", s.GracefulStartupPath}, {"graceful_shutdown_path", s.GracefulShutdownPath},
	} {
		if err := checkURLPath("envoy."+f.name, f.value); err != nil {
			return err
		}
	}
	if startup, shutdown := s.GracefulPaths(); startup == shutdown {
		return fmt.Errorf("envoy.graceful_startup_path and envoy.graceful_shutdown_path are both %s; give each its own", startup)
	}
	for _, f := range []struct {
		name  string
		value int
	}{{"startup_grace_seconds", s.StartupGraceSeconds}, {"shutdown_grace_seconds", s.ShutdownGraceSeconds}} {
		if f.value < 0 || f.value > MaxGrace {
			return fmt.Errorf("envoy.%s is %d; it is 0 to %d", f.name, f.value, MaxGrace)
		}
	}
	if s.Prometheus == nil {
		return nil
	}
	return checkPrometheus(*s.Prometheus)
}

func checkPrometheus(p PrometheusSettings) error {
	if err := checkURLPath("envoy.prometheus.scrape_path", p.ScrapePath); err != nil {
		return err
	}
	if p.MergePort < 0 || p.MergePort > 65535 {
		return fmt.Errorf("envoy.prometheus.merge_port %d is no port", p.MergePort)
	}
	if p.ServiceMetricsURL != "" {
		const what = "envoy.prometheus.service_metrics_url"
		if err := checkText(what, p.ServiceMetricsURL, MaxURL); err != nil {
			return err
		}
		u, err := url.Parse(p.ServiceMetricsURL)
		if err != nil || u.Scheme != "http" || u.Host == "" || u.User != nil {
			return fmt.Errorf("%s %q is no URL of the form http://host:port/path", what, p.ServiceMetricsURL)
		}
	}
	for _, f := range []struct{ name, value string }{
		{"ca_certs_file", p.CACertsFile}, {"ca_certs_path", p.CACertsPath}, {"cert_file", p.CertFile}, {"key_file", p.KeyFile},
	} {
		if f.value == "" {
			continue
		}
		if err := checkPath("envoy.prometheus."+f.name, f.value); err != nil {
			return err
		}
	}
	return nil
}

// checkBind reads the address of a listener, the zero value for "".
func checkBind(what, value string) (netip.AddrPort, error) {
	if value == "" {
		return netip.AddrPort{}, nil
	}
	at, err := netip.ParseAddrPort(value)
	if err != nil || at.Port() == 0 || at.Addr().Zone() != "" {
		return at, fmt.Errorf("%s %q is no address and port such as 127.0.0.1:19000 or [::1]:19000", what, value)
	}
	return at, nil
}

// checkURLPath allows "" or an absolute path that means itself.
func checkURLPath(what, value string) error {
	if value == "" {
		return nil
	}
	if err := checkText(what, value, MaxURL); err != nil {
		return err
	}
	if value[0] != '/' || path.Clean(value) != value || strings.ContainsAny(value, "?#%{} ") {
		return fmt.Errorf("%s %q is no path such as /metrics", what, value)
	}
	return nil
}

// checkText allows what can be printed, "" as well.
func checkText(what, value string, most int) error {
	switch {
	case len(value) > most:
		return fmt.Errorf("%s is %d bytes long; at most %d are allowed", what, len(value), most)
	case !utf8.ValidString(value) || strings.ContainsFunc(value, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fmt.Errorf("%s %q has a character that cannot be printed", what, value)
	}
	return nil
}
