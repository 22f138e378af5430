package v1

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/lictor-mesh/lictor/state"
)

func TestSettingsCheck(t *testing.T) {
	for _, tc := range []struct {
		name string
		s    EnvoySettings
		want string // in the error; "" means none
	}{
		{"defaults", EnvoySettings{}, ""},
		{"everything", EnvoySettings{
			AdminBind: "127.0.0.1:19000", ReadyBind: "0.0.0.0:21000", GracefulBind: "[::1]:20600",
			SecretsDir: "/consul/connect-inject", CACerts: "/a/ca.pem", Cert: "/a/c.pem", Key: "/a/k.pem",
			ServerName: "server.dc1.consul", StartupGraceSeconds: 1, ShutdownGraceSeconds: 30,
			GracefulStartupPath: "/graceful_startup", GracefulShutdownPath: "/graceful_shutdown",
			Prometheus: &PrometheusSettings{
				ScrapePath: "/metrics", MergePort: 20100, ServiceMetricsURL: "http://127.0.0.1:8080/metrics",
				CACertsFile: "/a", CACertsPath: "/b", CertFile: "/c", KeyFile: "/d",
			},
		}, ""},
		{"admin for everybody", EnvoySettings{AdminBind: "0.0.0.0:19000"}, "admin_bind"},
		{"admin on the network", EnvoySettings{AdminBind: "10.0.0.1:19000"}, "loopback"},
		{"admin, mapped", EnvoySettings{AdminBind: "[::ffff:10.0.0.1]:19000"}, "loopback"},
		{"admin by name", EnvoySettings{AdminBind: "localhost:19000"}, "admin_bind"},
		{"no port", EnvoySettings{ReadyBind: "127.0.0.1"}, "ready_bind"},
		{"port 0", EnvoySettings{GracefulBind: "127.0.0.1:0"}, "graceful_bind"},
		{"relative directory", EnvoySettings{SecretsDir: "run"}, "secrets_dir"},
		{"newline in a path", EnvoySettings{CACerts: "/a\nb"}, "ca_certs"},
		{"certificate without key", EnvoySettings{Cert: "/c"}, "envoy.key"},
		{"newline in a name", EnvoySettings{ServerName: "a\nb"}, "server_name"},
		{"long name", EnvoySettings{ServerName: strings.Repeat("a", 254)}, "server_name"},
		{"negative grace", EnvoySettings{ShutdownGraceSeconds: -1}, "shutdown_grace_seconds"},
		{"a week of grace", EnvoySettings{StartupGraceSeconds: 7 * 86400}, "startup_grace_seconds"},
		{"path without a slash", EnvoySettings{GracefulStartupPath: "go"}, "graceful_startup_path"},
		{"a path that climbs", EnvoySettings{GracefulShutdownPath: "/a/../b"}, "graceful_shutdown_path"},
		{"one path for both", EnvoySettings{GracefulStartupPath: "/x", GracefulShutdownPath: "/x"}, "both /x"},
		{"the other's usual path", EnvoySettings{GracefulStartupPath: "/graceful_shutdown"}, "graceful_shutdown_path"},
		{"a query", EnvoySettings{Prometheus: &PrometheusSettings{ScrapePath: "/m?a=b"}}, "scrape_path"},
		{"no port either", EnvoySettings{Prometheus: &PrometheusSettings{MergePort: 70000}}, "merge_port"},
		{"a file's URL", EnvoySettings{Prometheus: &PrometheusSettings{ServiceMetricsURL: "file:///etc/shadow"}}, "service_metrics_url"},
		{"a URL with a password", EnvoySettings{Prometheus: &PrometheusSettings{ServiceMetricsURL: "http://a:b@c/"}}, "service_metrics_url"},
		{"relative key", EnvoySettings{Prometheus: &PrometheusSettings{KeyFile: "k"}}, "key_file"},
	} {
		err := RegisterRequest{Envoy: &tc.s}.Check()
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: Check() = %v, want %q", tc.name, err, tc.want)
		}
	}
}

func TestCredentialCheck(t *testing.T) {
	login := func(change func(*Credential)) Credential {
		c := Credential{Credential: state.Credential{Type: state.CredentialLogin, Login: &Login{AuthMethod: "m"}}, BearerToken: "b"}
		change(&c)
		return c
	}
	of := func(c state.Credential) Credential { return Credential{Credential: c} }
	for _, tc := range []struct {
		name string
		c    Credential
		want string
	}{
		{"none", Credential{}, ""},
		{"static", Credential{Credential: state.Credential{Type: "static"}, Token: "t"}, ""},
		{"file", of(state.Credential{Type: "file", TokenFile: "/t"}), ""},
		{"login", login(func(*Credential) {}), ""},
		{"login by a file", login(func(c *Credential) { c.BearerToken, c.Login.BearerTokenFile = "", "/b" }), ""},
		{"unknown type", of(state.Credential{Type: "magic"}), "credential.type"},
		{"token without a type", Credential{Token: "t"}, "credential.token does not belong"},
		{"static without a token", of(state.Credential{Type: "static"}), "credential.token is empty"},
		{"static with a file", Credential{Credential: state.Credential{Type: "static", TokenFile: "/t"}, Token: "t"}, "token_file"},
		{"a token with a newline", Credential{Credential: state.Credential{Type: "static"}, Token: "t\n"}, "credential.token"},
		{"a long token", Credential{Credential: state.Credential{Type: "static"}, Token: strings.Repeat("x", MaxToken+1)}, "bytes long"},
		{"relative file", of(state.Credential{Type: "file", TokenFile: "t"}), "token_file"},
		{"no file", of(state.Credential{Type: "file"}), "token_file"},
		{"login without a method", login(func(c *Credential) { c.Login.AuthMethod = "" }), "auth_method"},
		{"login without anything", of(state.Credential{Type: "login"}), "auth_method"},
		{"login with nothing to show", login(func(c *Credential) { c.BearerToken = "" }), "bearer_token is empty"},
		{"login with two", login(func(c *Credential) { c.Login.BearerTokenFile = "/b" }), "exclude each other"},
		{"a slash in a namespace", login(func(c *Credential) { c.Login.Namespace = "a/b" }), "login.namespace"},
		{"meta without a name", login(func(c *Credential) { c.Login.Meta = map[string]string{"": "b"} }), "without a name"},
		{"meta with a newline", login(func(c *Credential) { c.Login.Meta = map[string]string{"a": "b\n"} }), "login.meta"},
		{"much meta", login(func(c *Credential) {
			c.Login.Meta = map[string]string{}
			for i := range MaxMeta + 1 {
				c.Login.Meta[fmt.Sprint(i)] = "x"
			}
		}), "entries"},
	} {
		err := RegisterRequest{Credential: &tc.c}.Check()
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: Check() = %v, want %q", tc.name, err, tc.want)
		}
	}
}

// TestSecretsAreNotPrinted, whoever prints a request and however.
func TestSecretsAreNotPrinted(t *testing.T) {
	const secret = "3f0c-secret"
	c := Credential{Credential: state.Credential{Type: "static"}, Token: secret, BearerToken: secret}
	req := RegisterRequest{Credential: &c}
	var text strings.Builder
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		fmt.Fprintf(&text, format+format, c, &c)
		fmt.Fprintf(&text, format, req)
	}
	slog.New(slog.NewTextHandler(&text, nil)).Info("m", "credential", c, "pointer", &c)
	fmt.Fprint(&text, c.Check(), Credential{Credential: state.Credential{Type: "static"}, Token: secret + " "}.Check())
	if strings.Contains(text.String(), secret) {
		t.Errorf("printed: %s", text.String())
	}
}
