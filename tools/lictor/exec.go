package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/daemon/version"
)

const execName = "exec"

// identity is how one family of flags names the proxy.
type identity struct{ id, idPath, node, nodeID, namespace, partition string }

// bind is an address and a port, which consul-dataplane takes apart.
type bind struct {
	host string
	port int
}

func (b bind) String() string {
	return net.JoinHostPort(cmp.Or(b.host, "127.0.0.1"), strconv.Itoa(b.port))
}

// execOptions are what the flags of lictor exec say.
type execOptions struct {
	proxy, service, own identity // by --proxy-…, by their old names, and by lictor's

	credentialType, token, tokenFile, bearer string
	login                                    v1.Login

	envoy        v1.EnvoySettings // those fields that have a flag each
	prometheus   v1.PrometheusSettings
	central      bool
	admin, ready bind
	graceful     bind
	shutdownPath string
	startupPath  string

	executable, binary string // Envoy's path
	concurrency        int
	drainSeconds       int
	drainStrategy      string
	logLevel           string
	logJSON            bool

	waitTimeout time.Duration
	configFile  string
	mode        string
	broker      string
	insecure    bool
	dnsPort     int
	checkHealth bool
	version     bool
}

// newExecOptions are the defaults, which are those of consul-dataplane 2.0.
func newExecOptions() *execOptions {
	return &execOptions{
		central: true,
		admin:   bind{"127.0.0.1", 19000}, graceful: bind{"127.0.0.1", 20300},
		concurrency: 2, drainSeconds: 30, drainStrategy: "immediate", logLevel: "info",
		mode: "sidecar", dnsPort: -1,
	}
}

func (a *app) execCommand() *cobra.Command {
	o := newExecOptions()
	c := &cobra.Command{
		Use: execName + " [ID] [flags] -- [ENVOY ARGUMENTS]", Short: "register a proxy and become its Envoy",
		Long: `Registers a proxy, waits until its VIP is in force and Consul knows the proxy, writes the
bootstrap and becomes Envoy, under the same pid: no process stays beside it. When Envoy
ends, lictord notices, and ends the registration unless another takes its place in a
minute.

It takes the flags of consul-dataplane, the DP_… variables of its environment and its
config file; tools/docs/exec.md says of each whether it does the same here. Where lictord,
Consul or the proxy's registration in Consul are not there yet it waits, and says for what.

  lictor exec web-1-sidecar-proxy --proxy-node-name=web-pod -- -l info`,
		ValidArgsFunction: a.completeProxies,
		Args: func(c *cobra.Command, args []string) error {
			before := args
			if dash := c.ArgsLenAtDash(); dash >= 0 {
				before = args[:dash]
			}
			if len(before) > 1 {
				return fmt.Errorf("%s takes one ID, not %q; Envoy's own arguments stand behind --", c.CommandPath(), before)
			}
			return nil
		},
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		a.started = true
		if err := o.read(c.Flags(), a.getenv); err != nil {
			return err
		}
		var forEnvoy []string
		if dash := c.ArgsLenAtDash(); dash >= 0 {
			args, forEnvoy = args[:dash], args[dash:]
		}
		switch {
		case o.version:
			a.printf("lictor   %s\n", version.String())
			return nil
		case o.checkHealth:
			return a.checkEnvoy(c.Context(), o.admin)
		}
		id, err := o.proxyID(args)
		if err != nil {
			return err
		}
		return a.becomeEnvoy(c.Context(), o, id, forEnvoy)
	}
	for _, f := range o.flags() {
		usage := f.usage
		if f.env != "" && usage != "" {
			usage += " [" + f.env + "]"
		}
		f.bind(c.Flags(), f.name, usage)
	}
	c.Flags().SortFlags = false
	return c
}

// becomeEnvoy does what the command is for. It returns when it cannot.
func (a *app) becomeEnvoy(ctx context.Context, o *execOptions, id string, forEnvoy []string) error {
	req, err := o.request()
	if err != nil {
		return usageError{err}
	}
	args, err := o.envoyArgs(forEnvoy)
	if err != nil {
		return usageError{err}
	}
	envoy, err := findEnvoy(cmp.Or(o.binary, o.executable))
	if err != nil {
		return err
	}
	if o.dnsPort > 0 {
		a.warn("nobody will answer DNS on port %d: lictor serves none; leave --consul-dns-bind-port out, and point the resolver at Consul's own DNS", o.dnsPort)
	}
	document, dir, err := a.obtainBootstrap(ctx, o.waitTimeout, id, req)
	if err != nil {
		return err
	}
	path, err := bootstrapPath(dir, id)
	if err != nil {
		return err
	}
	if err := writeFile(path, document); err != nil {
		return fmt.Errorf("%w; give a directory that uid %d may write to as --secrets-dir", err, os.Getuid())
	}
	return a.become(program{
		path: envoy,
		args: append([]string{envoy, "--config-path", path}, args...),
		env:  withoutSecrets(os.Environ()),
		hold: req.Envoy.HoldsTerm(),
	})
}

// withoutSecrets takes out of an environment what Envoy has no use for, and
// who looks at its environment should not find.
func withoutSecrets(environ []string) (out []string) {
	for _, v := range environ {
		if !strings.HasPrefix(v, "DP_CREDENTIAL_STATIC_TOKEN=") && !strings.HasPrefix(v, "DP_CREDENTIAL_LOGIN_BEARER_TOKEN=") {
			out = append(out, v)
		}
	}
	return out
}

// bootstrapPath is where the bootstrap goes: into the proxy's directory of
// secrets, or where there is none into a file of this user's. It holds no
// secret itself.
func bootstrapPath(dir, id string) (string, error) {
	if dir != "" {
		return filepath.Join(dir, "bootstrap.json"), nil
	}
	dir = filepath.Join(os.TempDir(), fmt.Sprintf("lictor-%d", os.Getuid()))
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("make a directory for the bootstrap: %w; name one as --secrets-dir", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return "", fmt.Errorf("look at %s: %w", dir, err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !info.IsDir() || !ok || int(st.Uid) != os.Getuid() || info.Mode().Perm()&0o022 != 0 {
		return "", fmt.Errorf("%s is there and not a directory that only uid %d may write to; remove it, or name another as --secrets-dir", dir, os.Getuid())
	}
	return filepath.Join(dir, id+".json"), nil
}

// findEnvoy gives the path of the Envoy to become.
func findEnvoy(given string) (string, error) {
	if given == "" {
		path, err := exec.LookPath("envoy")
		if err != nil {
			return "", fmt.Errorf("there is no envoy on PATH; name it with --envoy, or as ENVOY in the environment")
		}
		return filepath.Abs(path)
	}
	path, err := exec.LookPath(given)
	if err != nil {
		if cause := errors.Unwrap(err); cause != nil {
			err = cause
		}
		return "", fmt.Errorf("use %s as Envoy: %w; give --envoy the path of its program", given, err)
	}
	return filepath.Abs(path)
}

// checkEnvoy asks Envoy whether it is ready, for a probe.
func (a *app) checkEnvoy(ctx context.Context, admin bind) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if addr, err := netip.ParseAddr(admin.host); err == nil && addr.IsUnspecified() {
		admin.host = map[bool]string{true: "127.0.0.1", false: "::1"}[addr.Is4()]
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin.String()+"/ready", nil)
	if err != nil {
		return usageError{fmt.Errorf("the address of Envoy's admin interface, %s, is none", admin)}
	}
	client := http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true}, // and no proxy of the environment's
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	answer, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("ask Envoy at %s whether it is ready: %w", admin, errors.Unwrap(err))
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("envoy at %s is not ready: %s", admin, answer.Status)
	}
	a.printf("envoy is ready\n")
	return nil
}

// warn says something on stderr that does not end the command.
func (a *app) warn(format string, args ...any) {
	_, _ = fmt.Fprintf(a.stderr, "lictor: %s\n", clean(fmt.Sprintf(format, args...)))
}
