package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// execFlag is a flag of lictor exec. Those that consul-dataplane has bear its
// names, in the environment and in its config file too, so that what was
// written for it goes on to work. tools/docs/exec.md says of each what it does
// here; a test compares the two.
type execFlag struct {
	name  string
	env   string // "" when there is none
	key   string // in a config file of consul-dataplane; "" when there is none
	bind  func(flags *pflag.FlagSet, name, usage string)
	usage string
}

// flags is the table of the flags, which set the fields of o. What o has before
// are the defaults.
func (o *execOptions) flags() []execFlag {
	return []execFlag{
		{"envoy", "ENVOY", "", text(&o.binary), "path of Envoy (default: envoy on PATH)"},
		{"proxy-id", "DP_PROXY_ID", "proxy.id", text(&o.proxy.id), "id of the proxy in Consul, instead of the argument"},
		{"proxy-id-path", "DP_PROXY_ID_PATH", "proxy.idPath", text(&o.proxy.idPath), "file that holds the id of the proxy"},
		{"proxy-node-name", "DP_PROXY_NODE_NAME", "proxy.nodeName", text(&o.proxy.node), "node that Consul lists the proxy on (default: lictord's own)"},
		{"proxy-node-id", "DP_PROXY_NODE_ID", "proxy.nodeID", unlisted(text(&o.proxy.nodeID)), "not enough by itself: give the node's name"},
		{"proxy-namespace", "DP_PROXY_NAMESPACE", "proxy.namespace", text(&o.proxy.namespace), "Consul namespace of the proxy"},
		{"proxy-partition", "DP_PROXY_PARTITION", "proxy.partition", text(&o.proxy.partition), "Consul partition of the proxy"},
		{"proxy-service-id", "DP_PROXY_SERVICE_ID", "service.serviceID", unlisted(text(&o.service.id)), "old name of --proxy-id"},
		{"proxy-service-id-path", "DP_PROXY_SERVICE_ID_PATH", "service.serviceIDPath", unlisted(text(&o.service.idPath)), "old name of --proxy-id-path"},
		{"service-node-name", "DP_SERVICE_NODE_NAME", "service.nodeName", unlisted(text(&o.service.node)), "old name of --proxy-node-name"},
		{"service-node-id", "DP_SERVICE_NODE_ID", "service.nodeID", unlisted(text(&o.service.nodeID)), "old name of --proxy-node-id"},
		{"service-namespace", "DP_SERVICE_NAMESPACE", "service.namespace", unlisted(text(&o.service.namespace)), "old name of --proxy-namespace"},
		{"service-partition", "DP_SERVICE_PARTITION", "service.partition", unlisted(text(&o.service.partition)), "old name of --proxy-partition"},
		{"node-name", "", "", text(&o.own.node), "as --proxy-node-name, the name that lictor register has for it"},
		{"namespace", "", "", text(&o.own.namespace), "as --proxy-namespace"},
		{"partition", "", "", text(&o.own.partition), "as --proxy-partition"},

		{"credential-type", "DP_CREDENTIAL_TYPE", "consul.credentials.type", text(&o.credentialType), "static, login, or file (default: as the other flags tell)"},
		{"static-token", "DP_CREDENTIAL_STATIC_TOKEN", "consul.credentials.static.token", text(&o.token), "ACL token of the proxy; better in the environment than here, where every user sees it"},
		{"credential-token-file", "LICTOR_CREDENTIAL_TOKEN_FILE", "", text(&o.tokenFile), "file with the ACL token of the proxy, followed when it changes"},
		{"login-auth-method", "DP_CREDENTIAL_LOGIN_AUTH_METHOD", "consul.credentials.login.authMethod", text(&o.login.AuthMethod), "auth method to log in with"},
		{"login-namespace", "DP_CREDENTIAL_LOGIN_NAMESPACE", "consul.credentials.login.namespace", text(&o.login.Namespace), "namespace of the auth method"},
		{"login-partition", "DP_CREDENTIAL_LOGIN_PARTITION", "consul.credentials.login.partition", text(&o.login.Partition), "partition of the auth method"},
		{"login-datacenter", "DP_CREDENTIAL_LOGIN_DATACENTER", "consul.credentials.login.datacenter", text(&o.login.Datacenter), "datacenter of the auth method"},
		{"login-bearer-token", "DP_CREDENTIAL_LOGIN_BEARER_TOKEN", "consul.credentials.login.bearerToken", text(&o.bearer), "bearer token to log in with; better a file"},
		{"login-bearer-token-path", "DP_CREDENTIAL_LOGIN_BEARER_TOKEN_PATH", "consul.credentials.login.bearerTokenPath", text(&o.login.BearerTokenFile), "file with the bearer token, read at every login"},
		{"login-meta", "DP_CREDENTIAL_LOGIN_META", "consul.credentials.login.meta", pairs(&o.login.Meta), "KEY=VALUE to attach to the token; may be given again"},

		{"ca-certs", "DP_CA_CERTS", "consul.tls.caCertsPath", text(&o.envoy.CACerts), "CA certificates of the Consul servers (default: lictord's own)"},
		{"tls-cert", "DP_TLS_CERT", "consul.tls.certFile", text(&o.envoy.Cert), "client certificate for the Consul servers (default: lictord's own)"},
		{"tls-key", "DP_TLS_KEY", "consul.tls.keyFile", text(&o.envoy.Key), "key of --tls-cert"},
		{"tls-server-name", "DP_TLS_SERVER_NAME", "consul.tls.serverName", text(&o.envoy.ServerName), "name in the servers' certificates (default: lictord's own)"},
		{"tls-insecure-skip-verify", "DP_TLS_INSECURE_SKIP_VERIFY", "consul.tls.insecureSkipVerify", unlisted(truth(&o.insecure)), "refused: a token would go to whoever answers"},

		{"telemetry-use-central-config", "DP_TELEMETRY_USE_CENTRAL_CONFIG", "telemetry.useCentralConfig", truth(&o.central), "apply what Consul's central configuration says of metrics"},
		{"telemetry-prom-scrape-path", "DP_TELEMETRY_PROM_SCRAPE_PATH", "telemetry.prometheus.scrapePath", text(&o.prometheus.ScrapePath), "path at which Envoy serves metrics to Prometheus (default /metrics)"},
		{"telemetry-prom-merge-port", "DP_TELEMETRY_PROM_MERGE_PORT", "telemetry.prometheus.mergePort", number(&o.prometheus.MergePort), "port on 127.0.0.1 for Envoy's metrics merged with the service's (default 20100 where they are merged)"},
		{"telemetry-prom-service-metrics-url", "DP_TELEMETRY_PROM_SERVICE_METRICS_URL", "telemetry.prometheus.serviceMetricsURL", text(&o.prometheus.ServiceMetricsURL), "URL of the service's own metrics, to be merged with Envoy's"},
		{"telemetry-prom-ca-certs-file", "", "", text(&o.prometheus.CACertsFile), "CA certificates that Prometheus must be of"},
		{"telemetry-prom-ca-certs-path", "DP_TELEMETRY_PROM_CA_CERTS_PATH", "telemetry.prometheus.caCertsPath", text(&o.prometheus.CACertsPath), "the same, a file or a directory"},
		{"telemetry-prom-cert-file", "DP_TELEMETRY_PROM_CERT_FILE", "telemetry.prometheus.certFile", text(&o.prometheus.CertFile), "certificate with which metrics are served"},
		{"telemetry-prom-key-file", "DP_TELEMETRY_PROM_KEY_FILE", "telemetry.prometheus.keyFile", text(&o.prometheus.KeyFile), "key of it"},
		{"telemetry-prom-retention-time", "DP_TELEMETRY_PROM_RETENTION_TIME", "telemetry.prometheus.retentionTime", unneeded("60s"), ""},

		{"envoy-executable-path", "DP_ENVOY_EXECUTABLE_PATH", "envoy.executablePath", unlisted(text(&o.executable)), "as --envoy, consul-dataplane's name for it"},
		{"envoy-admin-bind-address", "DP_ENVOY_ADMIN_BIND_ADDRESS", "envoy.adminBindAddress", text(&o.admin.host), "loopback address of Envoy's admin interface"},
		{"envoy-admin-bind-port", "DP_ENVOY_ADMIN_BIND_PORT", "envoy.adminBindPort", number(&o.admin.port), "port of Envoy's admin interface"},
		{"envoy-ready-bind-address", "DP_ENVOY_READY_BIND_ADDRESS", "envoy.readyBindAddress", text(&o.ready.host), "address of a listener that answers /ready"},
		{"envoy-ready-bind-port", "DP_ENVOY_READY_BIND_PORT", "envoy.readyBindPort", number(&o.ready.port), "port of it"},
		{"envoy-concurrency", "DP_ENVOY_CONCURRENCY", "envoy.concurrency", number(&o.concurrency), "worker threads of Envoy"},
		{"envoy-drain-time-seconds", "DP_ENVOY_DRAIN_TIME", "envoy.drainTimeSeconds", number(&o.drainSeconds), "seconds over which Envoy drains a listener"},
		{"envoy-drain-strategy", "DP_ENVOY_DRAIN_STRATEGY", "envoy.drainStrategy", text(&o.drainStrategy), "gradual, or immediate"},
		{"log-level", "DP_LOG_LEVEL", "logging.logLevel", text(&o.logLevel), "log level of Envoy: trace, debug, info, warn or error"},
		{"log-json", "DP_LOG_JSON", "logging.logJSON", truth(&o.logJSON), "let Envoy log in JSON"},

		{"shutdown-drain-listeners", "DP_SHUTDOWN_DRAIN_LISTENERS", "envoy.shutdownDrainListenersEnabled", truth(&o.envoy.ShutdownDrain), "on SIGTERM let inbound requests end before Envoy does; needs a grace period"},
		{"shutdown-grace-period-seconds", "DP_SHUTDOWN_GRACE_PERIOD_SECONDS", "envoy.shutdownGracePeriodSeconds", number(&o.envoy.ShutdownGraceSeconds), "seconds that Envoy goes on after SIGTERM"},
		{"startup-grace-period-seconds", "DP_STARTUP_GRACE_PERIOD_SECONDS", "envoy.startupGracePeriodSeconds", number(&o.envoy.StartupGraceSeconds), "seconds that the startup endpoint waits for Envoy to be ready"},
		{"graceful-addr", "DP_GRACEFUL_ADDR", "envoy.gracefulAddr", text(&o.graceful.host), "address of the graceful endpoints"},
		{"graceful-port", "DP_GRACEFUL_PORT", "envoy.gracefulPort", number(&o.graceful.port), "port of the graceful endpoints, which are there when a graceful flag or a grace is given"},
		{"graceful-shutdown-path", "DP_GRACEFUL_SHUTDOWN_PATH", "envoy.gracefulShutdownPath", text(&o.shutdownPath), "path that begins the shutdown"},
		{"graceful-startup-path", "DP_GRACEFUL_STARTUP_PATH", "envoy.gracefulStartupPath", text(&o.startupPath), "path that answers when Envoy is ready"},
		{"dump-envoy-config-on-exit", "DP_DUMP_ENVOY_CONFIG_ON_EXIT", "envoy.dumpEnvoyConfigOnExitEnabled", truth(&o.envoy.DumpConfigOnExit), "write Envoy's configuration to its stdout when it is shut down"},

		{"secrets-dir", "LICTOR_SECRETS_DIR", "", text(&o.envoy.SecretsDir), "directory for the bootstrap and the secrets that Envoy reads, best on a tmpfs (default: one of lictord's)"},
		{"wait-timeout", "LICTOR_WAIT_TIMEOUT", "", duration(&o.waitTimeout), "give up when lictord or Consul are not ready after so long, such as 2m (default: never)"},
		{"check-proxy-health", "", "", truth(&o.checkHealth), "only ask Envoy whether it is ready: exit status 0 or 1"},
		{"version", "", "", truth(&o.version), "only print the version"},
		{"config-file", "", "", text(&o.configFile), "config file of consul-dataplane, JSON; flags and environment win over it"},
		{"mode", "DP_MODE", "mode", text(&o.mode), "only sidecar"},
		{"credential-broker-bind-addr", "DP_CREDENTIAL_BROKER_BIND_ADDR", "credentialBroker.bindAddress", unlisted(text(&o.broker)), "refused: there is no credential broker"},

		{"addresses", "DP_CONSUL_ADDRESSES", "consul.addresses", unneeded(""), ""},
		{"grpc-port", "DP_CONSUL_GRPC_PORT", "consul.grpcPort", unneeded("8502"), ""},
		{"server-watch-disabled", "DP_SERVER_WATCH_DISABLED", "consul.serverWatchDisabled", unneeded("false"), ""},
		{"tls-disabled", "DP_TLS_DISABLED", "consul.tls.disabled", unneeded("false"), ""},
		{"xds-bind-addr", "DP_XDS_BIND_ADDR", "xdsServer.bindAddress", unneeded("127.0.0.1"), ""},
		{"xds-bind-port", "DP_XDS_BIND_PORT", "xdsServer.bindPort", unneeded("0"), ""},
		{"consul-dns-bind-addr", "DP_CONSUL_DNS_BIND_ADDR", "dnsServer.bindAddress", unneeded("127.0.0.1"), ""},
		{"consul-dns-bind-port", "DP_CONSUL_DNS_BIND_PORT", "dnsServer.bindPort", number(&o.dnsPort), "no DNS is served: -1, or a warning"},
		{"credential-broker-refresh-fraction", "DP_CREDENTIAL_BROKER_REFRESH_FRACTION", "credentialBroker.refreshFraction", unneeded("0.2"), ""},
	}
}

// read completes what the command line says by the environment, and that by the
// config file; o's own fields hold the result.
func (o *execOptions) read(flags *pflag.FlagSet, getenv func(string) string) error {
	fromFile := map[string][]string{}
	if o.configFile != "" {
		var err error
		if fromFile, err = readDataplaneConfig(o.configFile, o.flags()); err != nil {
			return err
		}
	}
	for _, f := range o.flags() {
		given := flags.Changed(f.name)
		values, where := fromEnvironment(getenv, f)
		file := fromFile[f.name]
		switch {
		case f.name == "login-meta": // entry by entry, the last wins
			values = slices.Concat(file, values, pairList(o.login.Meta))
		case given:
			continue
		case len(values) == 0 && len(file) > 0:
			values, where = file, f.key+" in "+o.configFile
		}
		for _, value := range values {
			if err := flags.Set(f.name, value); err != nil {
				return usageError{fmt.Errorf("%s: %w", where, err)}
			}
		}
	}
	return nil
}

// fromEnvironment gives what the environment has for a flag. An empty variable
// is none, as consul-dataplane has it. There may be nine entries of meta.
func fromEnvironment(getenv func(string) string, f execFlag) (values []string, where string) {
	if f.env == "" {
		return nil, ""
	}
	names := []string{f.env}
	if f.name == "login-meta" {
		for i := range 9 {
			names = append(names, fmt.Sprintf("%s%d", f.env, i+1))
		}
	}
	for _, name := range names {
		if value := getenv(name); value != "" {
			values, where = append(values, value), name
		}
	}
	return values, where
}

// readDataplaneConfig reads a config file of consul-dataplane: values by flag.
// A key that it does not have is an error that names it.
func readDataplaneConfig(path string, flags []execFlag) (map[string][]string, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read --config-file: %w", err)
	}
	decoder := json.NewDecoder(strings.NewReader(string(content)))
	decoder.UseNumber()
	var tree map[string]any
	if err := decoder.Decode(&tree); err != nil {
		return nil, fmt.Errorf("read --config-file %s: it is not the JSON that consul-dataplane takes: %w", path, err)
	}
	values := map[string][]string{}
	var walk func(key string, value any) error
	walk = func(key string, value any) error {
		at := slices.IndexFunc(flags, func(f execFlag) bool { return f.key != "" && strings.EqualFold(f.key, key) })
		object, inner := value.(map[string]any)
		switch {
		case value == nil, strings.EqualFold(key, "logging.name"):
			return nil
		case at >= 0 && inner: // meta
			for k, v := range object {
				values[flags[at].name] = append(values[flags[at].name], fmt.Sprintf("%s=%v", k, v))
			}
			return nil
		case at >= 0:
			values[flags[at].name] = []string{fmt.Sprint(value)}
			return nil
		case !inner:
			return fmt.Errorf("read --config-file %s: consul-dataplane has no key %s", path, key)
		}
		for k, v := range object {
			if err := walk(strings.TrimPrefix(key+"."+k, "."), v); err != nil {
				return err
			}
		}
		return nil
	}
	return values, walk("", tree)
}
