package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/state"
)

// defaultMergePort is consul-dataplane's.
const defaultMergePort = 20100

// proxyID is the id of the proxy, from the argument, a flag or a file.
func (o *execOptions) proxyID(args []string) (string, error) {
	id := cmp.Or(o.proxy.id, o.service.id)
	if len(args) > 0 {
		if id != "" && id != args[0] {
			return "", usageError{fmt.Errorf("the proxy's id is given twice, as %q and as %q", args[0], id)}
		}
		id = args[0]
	}
	if id == "" {
		path := cmp.Or(o.proxy.idPath, o.service.idPath)
		if path == "" {
			return "", usageError{fmt.Errorf("lictor exec needs ID, or --proxy-id-path; see lictor exec --help")}
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("read the proxy's id: %w", err)
		}
		if id = strings.TrimSpace(string(content)); id == "" {
			return "", fmt.Errorf("read the proxy's id: %s is empty", path)
		}
	}
	return id, checkID("proxy id", id)
}

// request is the registration that the flags ask for.
func (o *execOptions) request() (v1.RegisterRequest, error) {
	req := v1.RegisterRequest{
		NodeName:  cmp.Or(o.proxy.node, o.service.node, o.own.node),
		Namespace: cmp.Or(o.proxy.namespace, o.service.namespace, o.own.namespace),
		Partition: cmp.Or(o.proxy.partition, o.service.partition, o.own.partition),
		Process:   true,
	}
	switch {
	case req.NodeName == "" && cmp.Or(o.proxy.nodeID, o.service.nodeID) != "":
		return req, fmt.Errorf("the node's id alone does not do: lictor knows nodes by name; give --proxy-node-name")
	case o.mode != "sidecar":
		return req, fmt.Errorf("--mode %s is not offered: lictor exec starts an Envoy, and lictor serves no DNS", o.mode)
	case o.insecure:
		return req, fmt.Errorf("--tls-insecure-skip-verify is refused: the proxy's token would go to whoever answers; give --ca-certs, and --tls-server-name where the servers' certificates have another name")
	case o.broker != "":
		return req, fmt.Errorf("--credential-broker-bind-addr is refused: lictor has no credential broker")
	}
	settings, err := o.settings()
	if err != nil {
		return req, err
	}
	credential, err := o.credential()
	if err != nil {
		return req, err
	}
	req.Envoy, req.Credential = &settings, &credential
	return req, req.Check()
}

// settings are the part of the request that the bootstrap and Envoy's end
// depend on. What is as usual is left out.
func (o *execOptions) settings() (v1.EnvoySettings, error) {
	usual := newExecOptions()
	s := o.envoy
	if o.admin != usual.admin {
		s.AdminBind = o.admin.String()
	}
	if o.ready.port != 0 {
		s.ReadyBind = o.ready.String()
	} else if o.ready.host != "" {
		return s, fmt.Errorf("--envoy-ready-bind-address needs --envoy-ready-bind-port")
	}
	s.NoCentralTelemetry = !o.central
	p := o.prometheus
	if p.ServiceMetricsURL != "" && p.MergePort == 0 {
		p.MergePort = defaultMergePort
	}
	if p != (v1.PrometheusSettings{}) {
		s.Prometheus = &p
	}
	asked := o.graceful != usual.graceful || o.shutdownPath != "" || o.startupPath != "" ||
		s.ShutdownGraceSeconds > 0 || s.StartupGraceSeconds > 0 || s.ShutdownDrain
	if asked && o.graceful.port != 0 {
		s.GracefulBind = o.graceful.String()
		s.GracefulStartupPath, s.GracefulShutdownPath = o.startupPath, o.shutdownPath
		s.GracefulStartupPath, s.GracefulShutdownPath = s.GracefulPaths()
	}
	paths := []*string{&s.SecretsDir, &s.CACerts, &s.Cert, &s.Key}
	if q := s.Prometheus; q != nil {
		paths = append(paths, &q.CACertsFile, &q.CACertsPath, &q.CertFile, &q.KeyFile)
	}
	return s, absolute(paths...)
}

// credential is how the proxy gets its token. Its type follows from what is
// given where --credential-type does not say it.
func (o *execOptions) credential() (v1.Credential, error) {
	kind := state.CredentialType(o.credentialType)
	if kind == state.CredentialNone {
		switch {
		case o.login.AuthMethod != "":
			kind = state.CredentialLogin
		case o.token != "":
			kind = state.CredentialStatic
		case o.tokenFile != "":
			kind = state.CredentialFile
		}
	}
	c := v1.Credential{Credential: state.Credential{Type: kind}}
	switch kind {
	case state.CredentialNone:
	case state.CredentialStatic:
		if c.Token = o.token; c.Token == "" {
			return c, fmt.Errorf("--credential-type=static needs --static-token, or DP_CREDENTIAL_STATIC_TOKEN in the environment")
		}
	case state.CredentialFile:
		if c.TokenFile = o.tokenFile; c.TokenFile == "" {
			return c, fmt.Errorf("--credential-type=file needs --credential-token-file")
		}
	case state.CredentialLogin:
		login := o.login
		c.Login = &login
		switch {
		case login.AuthMethod == "":
			return c, fmt.Errorf("--credential-type=login needs --login-auth-method")
		case login.BearerTokenFile == "" && o.bearer == "":
			return c, fmt.Errorf("--credential-type=login needs --login-bearer-token-path, or --login-bearer-token")
		case login.BearerTokenFile == "": // as consul-dataplane has it, the file wins
			c.BearerToken = o.bearer
		}
		return c, absolute(&login.BearerTokenFile)
	default:
		return c, fmt.Errorf("--credential-type %q is unknown; it is static, login or file", o.credentialType)
	}
	return c, absolute(&c.TokenFile)
}

// absolute makes paths mean the same to lictord, which runs elsewhere.
func absolute(paths ...*string) error {
	for _, path := range paths {
		if *path == "" {
			continue
		}
		full, err := filepath.Abs(*path)
		if err != nil {
			return fmt.Errorf("find %s: %w", *path, err)
		}
		*path = full
	}
	return nil
}

// Formats of Envoy's log lines, which are consul-dataplane's, so that what
// reads logs goes on to.
const (
	logFormatPlain = "%Y-%m-%dT%T.%eZ%z [%l] envoy.%n(%t) %v"
	logFormatJSON  = `{"@timestamp":"%Y-%m-%dT%T.%fZ%z","@module":"envoy.%n","@level":"%l","@message":"%j","thread":%t}`
)

// envoyArgs are Envoy's arguments behind the one that names the bootstrap: those
// that consul-dataplane gives it, but where the user's own say otherwise.
func (o *execOptions) envoyArgs(own []string) ([]string, error) {
	level := strings.ToLower(o.logLevel)
	if !slices.Contains([]string{"trace", "debug", "info", "warn", "error"}, level) {
		return nil, fmt.Errorf("--log-level %q is none of trace, debug, info, warn and error", o.logLevel)
	}
	if o.drainStrategy != "gradual" && o.drainStrategy != "immediate" {
		return nil, fmt.Errorf("--envoy-drain-strategy %q is neither gradual nor immediate", o.drainStrategy)
	}
	if o.drainSeconds < 0 || o.concurrency < 0 {
		return nil, fmt.Errorf("--envoy-drain-time-seconds and --envoy-concurrency are not negative")
	}
	format := logFormatPlain
	if o.logJSON {
		format = logFormatJSON
	}
	if given(own, "--config-path", "-c") {
		return nil, fmt.Errorf("envoy's --config-path is for lictor to give; --config-yaml adds to the bootstrap")
	}
	var args []string
	for _, arg := range []struct{ long, short, value string }{
		{"--log-format", "", format},
		{"--log-level", "-l", level},
		{"--concurrency", "", strconv.Itoa(o.concurrency)},
		{"--drain-time-s", "", strconv.Itoa(o.drainSeconds)},
		{"--drain-strategy", "", o.drainStrategy},
		{"--disable-hot-restart", "", ""}, // without it no two Envoys of a host need base ids
	} {
		if given(own, arg.long, arg.short) {
			continue
		}
		args = append(args, arg.long)
		if arg.value != "" {
			args = append(args, arg.value)
		}
	}
	return append(args, own...), nil
}

// given says whether arguments for Envoy contain a flag.
func given(args []string, long, short string) bool {
	return slices.ContainsFunc(args, func(arg string) bool {
		return arg == long || strings.HasPrefix(arg, long+"=") || short != "" && strings.HasPrefix(arg, short) && !strings.HasPrefix(arg, "--")
	})
}
