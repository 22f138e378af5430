package bed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"sync"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/tools/testbed/binaries"
	"github.com/lictor-mesh/lictor/tools/testbed/pki"
)

// LictorHTTP is where a host's lictord serves metrics and health, in the host's
// namespace.
const LictorHTTP = "127.0.0.1:9760"

// LictorOptions of a lictord.
type LictorOptions struct {
	// Cluster whose servers' addresses the daemon is given; nil when Args say it.
	// Where it has TLS or ACLs, the daemon is given [Lictor.TLS] and a token with
	// [LictorPolicy] too.
	Cluster *Cluster
	// NoToken leaves the token out, NoTLS the flags about TLS; Args say it then.
	NoToken, NoTLS bool
	Args           []string // flags after, and so over, the bed's own
	Env            []string
	// Files that the daemon sees in the place of others: /etc/hosts, to resolve a
	// name given by --consul-addresses, or the programs of an `exec=`.
	Files map[string]string
	// Binary is the daemon; default LICTORD in the environment, else
	// bin/lictord of the repository, as `make build` leaves it.
	Binary string
}

// Lictor is a lictord on a host. Its methods may be called concurrently, those
// which start and end it one at a time.
type Lictor struct {
	Host   *Host
	Socket string // path
	State  string // directory
	// TLS is what the daemon was told to trust and to show; nil without TLS.
	TLS *pki.Files
	// Token is the path of its token; "" without ACLs.
	Token string

	mu      sync.Mutex
	options LictorOptions
	proc    *Process
}

// StartLictor starts a lictord whose machine is the host: it attaches to the
// host's cgroup and pins in its bpffs directory. It waits for nothing; see
// [Lictor.WaitReady] and [Lictor.WaitSocket]. The data path outlives it, until
// the bed is closed.
func (h *Host) StartLictor(o LictorOptions) (*Lictor, error) {
	l := &Lictor{
		Host: h, options: o,
		Socket: filepath.Join(h.Dir, "lictor.sock"),
		State:  filepath.Join(h.Dir, "state"),
	}
	if err := l.provide(o); err != nil {
		return nil, fmt.Errorf("start lictord on %s: %w", h.Name, err)
	}
	return l, l.start()
}

// provide makes the files by which the cluster lets the daemon in.
func (l *Lictor) provide(o LictorOptions) (err error) {
	c := o.Cluster
	if c != nil && c.CA() != nil && !o.NoTLS && l.TLS == nil {
		if l.TLS, err = c.ClientFiles(filepath.Join(l.Host.Dir, "tls"), "lictor."+l.Host.Name); err != nil {
			return err
		}
	}
	if c == nil || !c.options.ACL || o.NoToken || l.Token != "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), electionTime)
	defer cancel()
	token, err := c.NewToken(ctx, TokenOptions{Rules: LictorPolicy})
	if err != nil {
		return err
	}
	path := filepath.Join(l.Host.Dir, "consul-token")
	if err := pki.Replace(path, []byte(token.SecretID+"\n"), 0o600); err != nil {
		return err
	}
	l.Token = path
	return nil
}

// access are the flags for what provide made.
func (l *Lictor) access() []string {
	args := []string{"--tls-disabled"}
	switch {
	case l.options.NoTLS:
		args = nil
	case l.TLS != nil:
		args = []string{
			"--ca-certs=" + l.TLS.CA(), "--tls-server-name=" + ServerName, fmt.Sprintf("--consul-http-port=%d", HTTPSPort),
		}
		if l.options.Cluster.options.TLS == MutualTLS {
			args = append(args, "--tls-cert="+l.TLS.Cert(), "--tls-key="+l.TLS.Key())
		}
	}
	if l.Token != "" && !l.options.NoToken {
		args = append(args, "--consul-token-file="+l.Token)
	}
	return args
}

func (l *Lictor) start() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	binary, err := lictorBinary(l.options.Binary, "LICTORD", "lictord")
	if err != nil {
		return err
	}
	cgroup, err := l.Host.system("lictord")
	if err != nil {
		return err
	}
	args := []string{
		"--cgroup=" + l.Host.Cgroup, "--bpffs=" + filepath.Join(l.Host.BPFFS, "lictor"),
		"--state-dir=" + l.State, "--socket=" + l.Socket, "--http-addr=" + LictorHTTP,
		"--node-name=" + l.Host.Name,
	}
	args = append(args, l.access()...)
	if l.options.Cluster != nil {
		args = append(args, "--consul-addresses="+l.options.Cluster.Addresses())
	}
	files := map[string]string{}
	maps.Copy(files, l.Host.bootFiles())
	maps.Copy(files, l.options.Files)
	l.proc, err = l.Host.Start(Command{
		Name: "lictord", Path: binary, Args: append(args, l.options.Args...), Env: l.options.Env,
		Cgroup: cgroup, Files: files,
	})
	return err
}

// Process is the daemon's process, as of its last start.
func (l *Lictor) Process() *Process {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.proc
}

// Kill ends the daemon with SIGKILL; data path and state stay.
func (l *Lictor) Kill() error { return l.Process().Kill() }

// Stop freezes the daemon with SIGSTOP.
func (l *Lictor) Stop() error { return l.Process().Stop() }

// Cont lets a frozen daemon go on.
func (l *Lictor) Cont() error { return l.Process().Cont() }

// Term asks the daemon to end and waits for it.
func (l *Lictor) Term(ctx context.Context) error { return l.Process().Term(ctx) }

// Start starts the daemon again with its state, after a kill if it is alive.
// With options, those take the place of the ones before: another binary, other
// flags.
func (l *Lictor) Start(o ...LictorOptions) error {
	if err := l.Kill(); err != nil {
		return err
	}
	for _, options := range o {
		if err := l.provide(options); err != nil {
			return fmt.Errorf("start lictord on %s: %w", l.Host.Name, err)
		}
		l.mu.Lock()
		l.options = options
		l.mu.Unlock()
	}
	return l.start()
}

// WaitReady waits until /readyz answers 200.
func (l *Lictor) WaitReady(ctx context.Context) error {
	return until(ctx, "lictord on "+l.Host.Name+" is ready", func() error {
		if err := l.Process().ended(); err != nil {
			return err
		}
		_, err := l.Get(ctx, "/readyz")
		return err
	})
}

// WaitSocket waits until the API answers, ready or not.
func (l *Lictor) WaitSocket(ctx context.Context) error {
	client := l.Client()
	defer client.Close()
	return until(ctx, "lictord on "+l.Host.Name+" answers", func() error {
		if err := l.Process().ended(); err != nil {
			return err
		}
		_, err := client.Status(ctx)
		return err
	})
}

// Get reads a page of the daemon's HTTP listener, /metrics for one. A page that
// is not 200 is an error that holds its text.
func (l *Lictor) Get(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+LictorHTTP+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := l.Host.HTTPClient().Do(req)
	if err != nil {
		return nil, fmt.Errorf("get %s of lictord on %s: %w", path, l.Host.Name, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	if err != nil {
		return nil, fmt.Errorf("get %s of lictord on %s: %w", path, l.Host.Name, err)
	}
	return body, nil
}

// Client is an API client from this process, root in its own namespace:
// registrations name their owner. The caller closes it.
func (l *Lictor) Client() *v1.Client { return v1.NewClient(l.Socket) }

// CLI runs a `lictor` command on a node, in whose namespace a registration that
// names no owner then is, and returns its standard output.
func (l *Lictor) CLI(ctx context.Context, from *Node, args ...string) ([]byte, error) {
	return l.CLIAs(ctx, from, 0, args...)
}

// CLIAs is CLI as a user, who may do less than root.
func (l *Lictor) CLIAs(ctx context.Context, from *Node, uid uint32, args ...string) ([]byte, error) {
	binary, err := lictorBinary("", "LICTOR", "lictor")
	if err == nil && uid != 0 {
		binary, err = from.bed.public(binary)
	}
	if err != nil {
		return nil, err
	}
	return from.Run(ctx, Command{Name: "lictor", Path: binary, UID: uid, Args: append([]string{"--socket=" + l.Socket}, args...)})
}

// lictorBinary finds one of the repository's own programs.
func lictorBinary(path, env, name string) (string, error) {
	if path == "" {
		path = os.Getenv(env)
	}
	if path == "" {
		root, err := binaries.Root()
		if err != nil {
			return "", err
		}
		path = filepath.Join(root, "bin", name)
	}
	if _, err := os.Stat(path); err != nil {
		return "", errors.Join(fmt.Errorf("find %s: run `make build`, or set %s", name, env), err)
	}
	return path, nil
}
